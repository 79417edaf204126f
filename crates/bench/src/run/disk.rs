//! What one commit of the disk takes, as every durable answer must wait for one.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;

use crate::raw::Figure;

const SYNCS: usize = 200;
/// The size of a small record of the journal.
const BYTES: usize = 4096;
/// Written over again and again, as the journal writes into prepared segments.
const FILE_BYTES: usize = 1 << 20;

/// Median and 99th percentile of fdatasync after a write into a prepared file in `directory`.
///
/// # Errors
/// The operating system's.
pub(crate) fn syncs(directory: &Path, series: &str, round: u32) -> anyhow::Result<Vec<Figure>> {
    let can_not = || format!("can't write into {}", directory.display());
    let mut file = tempfile::tempfile_in(directory).with_context(can_not)?;
    file.write_all(&vec![1; FILE_BYTES]).and_then(|()| file.sync_all()).with_context(can_not)?;
    let mut took_us = Vec::with_capacity(SYNCS);
    for number in 0..SYNCS {
        let at = (number * BYTES % FILE_BYTES) as u64;
        std::os::unix::fs::FileExt::write_all_at(&file, &[2; BYTES], at).with_context(can_not)?;
        let began = Instant::now();
        file.sync_data().with_context(can_not)?;
        took_us.push(began.elapsed().as_secs_f64() * 1e6);
    }
    took_us.sort_by(f64::total_cmp);
    let figure = |quantity: &str, value| Figure {
        series: series.to_owned(),
        round,
        subject: "disk".to_owned(),
        quantity: quantity.to_owned(),
        value,
        unit: "us".to_owned(),
        ..Figure::default()
    };
    let (p50, p99) = (took_us[SYNCS / 2], took_us[SYNCS * 99 / 100]);
    Ok(vec![figure("fdatasync_p50", p50), figure("fdatasync_p99", p99)])
}
