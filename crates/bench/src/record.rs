//! The file of an experiment. It is written anew after each step: what was measured before a
//! signal or a failure is kept.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{bail, ensure};

use crate::process::Interrupted;
use crate::raw::{Experiment, FORMAT};
use crate::run::machine;

/// An experiment that is being made.
pub(crate) struct Record {
    pub(crate) experiment: Experiment,
    out: PathBuf,
    began: Instant,
}

impl Record {
    /// Begins one, into `out` or else into `bench-results/`, named after `name` and the time.
    /// Whatever is made for a while from now on (a PostgreSQL, say) is made in `directory`.
    ///
    /// # Errors
    /// Temporary files go elsewhere already.
    pub(crate) fn begin(
        command: &str,
        name: &str,
        out: Option<&Path>,
        directory: &Path,
        incrementer: &Path,
    ) -> anyhow::Result<Self> {
        tempfile::env::override_temp_dir(directory)
            .map_err(|other| anyhow::anyhow!("temporary files go to {} already", other.display()))?;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let default_out = || PathBuf::from(format!("bench-results/{name}-{unix}.json"));
        let experiment = Experiment {
            format: FORMAT,
            command: command.to_owned(),
            arguments: std::env::args().skip(1).collect(),
            began_unix_s: unix,
            took_s: 0.0,
            interrupted: true,
            machine: machine::describe(directory, incrementer),
            runs: Vec::new(),
            figures: Vec::new(),
            notes: Vec::new(),
        };
        let out = out.map_or_else(default_out, Path::to_owned);
        Ok(Self { experiment, out, began: Instant::now() })
    }

    /// # Errors
    /// The file can't be written.
    pub(crate) fn save(&mut self) -> anyhow::Result<()> {
        self.experiment.took_s = self.began.elapsed().as_secs_f64();
        self.experiment.write(&self.out)
    }

    /// Writes it for the last time, and returns its file.
    ///
    /// # Errors
    /// The file can't be written, `outcome` is one, or a run or a figure doesn't count.
    pub(crate) fn end(mut self, outcome: anyhow::Result<()>) -> anyhow::Result<Vec<PathBuf>> {
        match outcome {
            Err(error) if error.is::<Interrupted>() => {
                self.save()?;
                bail!("interrupted; what was measured is in {}", self.out.display());
            }
            outcome => outcome?,
        }
        self.experiment.interrupted = false;
        self.save()?;
        let Experiment { runs, figures, .. } = &self.experiment;
        let failed = runs.iter().filter(|run| !run.failures.is_empty()).count();
        ensure!(failed == 0, "{failed} of {} runs don't count; see {}", runs.len(), self.out.display());
        let failed = figures.iter().filter(|figure| !figure.failures.is_empty()).count();
        ensure!(failed == 0, "{failed} of {} figures don't count; see {}", figures.len(), self.out.display());
        Ok(vec![self.out])
    }
}
