//! From raw JSON to a page: every run, medians, ratios, targets, charts.
//!
//! All that the page says is computed here from [`crate::raw`]; nothing is typed in.

mod charts;
mod data;
mod growth;
mod numbers;
mod page;
mod targets;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::raw::Experiment;
use data::Data;
pub(crate) use numbers::{compact, whole};

/// Writes `report.md` and its charts into `folder`, which is made where it is missing. Returns
/// the files, the page first.
///
/// Of several files the page is one. Ratios are still taken only within a file's own rounds.
///
/// # Errors
/// A file can't be read or isn't an experiment; the folder can't be written.
pub fn write(raw: &[PathBuf], folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    ensure!(!raw.is_empty(), "name at least one file of raw JSON");
    let experiments: Vec<Experiment> =
        raw.iter().map(|path| Experiment::read(path)).collect::<Result<_, _>>()?;
    let data = Data::of(experiments);
    let charts = charts::all(&data)?;
    let page = page::write(&data, &charts);
    let can_not = |path: &Path| format!("can't write {}", path.display());
    std::fs::create_dir_all(folder).with_context(|| can_not(folder))?;
    let mut files = vec![(folder.join("report.md"), page.into_bytes())];
    for chart in charts {
        files.extend(chart.files.into_iter().map(|(name, bytes)| (folder.join(name), bytes)));
    }
    for (path, bytes) in &files {
        std::fs::write(path, bytes).with_context(|| can_not(path))?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}
