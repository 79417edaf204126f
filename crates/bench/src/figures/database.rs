//! A PostgreSQL of one's own, asked by psql.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use store::testing::ThrowawayPostgres;

use crate::process::{Interrupt, Process};

/// Ten million rows are made, read or added up in far less.
const WITHIN: Duration = Duration::from_secs(600);

pub(super) struct Database {
    postgres: ThrowawayPostgres,
    /// For what psql says.
    folder: PathBuf,
}

impl Database {
    /// With fsync, as a user's.
    pub(super) fn start(folder: &Path, settings: &[&str]) -> Self {
        let postgres = ThrowawayPostgres::start_with(&["--encoding=UTF8", "--locale=C"], settings);
        Self { postgres, folder: folder.to_owned() }
    }

    pub(super) fn url(&self, name: &str) -> String {
        self.postgres.url(name)
    }

    pub(super) fn version(&self, interrupt: &Interrupt) -> anyhow::Result<(String, String)> {
        let version = self.sql("postgres", &["SHOW server_version"], interrupt)?;
        Ok(("postgres".to_owned(), version.trim().to_owned()))
    }

    /// Each command in a transaction of its own. Returns the rows.
    ///
    /// # Errors
    /// What psql says, or a signal came.
    pub(super) fn sql(&self, name: &str, commands: &[&str], interrupt: &Interrupt) -> anyhow::Result<String> {
        let mut psql = self.postgres.psql(name);
        psql.args(commands.iter().flat_map(|command| ["-c", command]));
        self.run(psql, interrupt)
    }

    /// The same from a file.
    ///
    /// # Errors
    /// As those of [`sql`](Self::sql).
    pub(super) fn file(&self, name: &str, file: &Path, interrupt: &Interrupt) -> anyhow::Result<String> {
        let mut psql = self.postgres.psql(name);
        psql.arg("-f").arg(file);
        self.run(psql, interrupt)
    }

    /// How long psql takes in seconds, its own start included, when its output goes nowhere.
    ///
    /// # Errors
    /// As those of [`sql`](Self::sql).
    pub(super) fn time(&self, name: &str, command: &str, interrupt: &Interrupt) -> anyhow::Result<f64> {
        let mut psql = self.postgres.psql(name);
        psql.args(["-c", command]);
        let began = Instant::now();
        let mut psql = Process::start(&mut psql, Stdio::from(File::create("/dev/null")?))?;
        let status = psql.wait_closely(WITHIN, interrupt)?;
        let took = began.elapsed().as_secs_f64();
        ensure!(status.success(), "psql failed: {status}: {command}");
        Ok(took)
    }

    fn run(&self, mut psql: Command, interrupt: &Interrupt) -> anyhow::Result<String> {
        let (told, complained) = (self.folder.join("psql.out"), self.folder.join("psql.err"));
        let stderr = Stdio::from(File::create(&complained)?);
        let mut psql = Process::start_with(&mut psql, Stdio::from(File::create(&told)?), stderr)?;
        let status = psql.wait(WITHIN, interrupt, || ())?;
        let complaint = fs::read_to_string(complained)?;
        ensure!(status.success(), "psql failed: {}", complaint.trim());
        Ok(fs::read_to_string(told)?)
    }

    /// The sum of all totals.
    ///
    /// # Errors
    /// As those of [`sql`](Self::sql).
    pub(super) fn sum(&self, name: &str, interrupt: &Interrupt) -> anyhow::Result<u64> {
        let said = self.sql(name, &["SELECT coalesce(sum(value), 0) FROM counters"], interrupt)?;
        said.trim().parse().with_context(|| format!("the sum can't be understood: {}", said.trim()))
    }
}
