//! Each server in turn under the same load, round after round, into one file of raw JSON.

pub(crate) mod disk;
pub(crate) mod machine;
pub(crate) mod once;
pub(crate) mod peers;
pub(crate) mod server;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::files;
use crate::process::Interrupt;
use crate::raw::Run;
use crate::record::Record;
use once::Setting;
use server::Kind;
use store::testing::ThrowawayPostgres;

/// The load of the write-up; its comparison is called `main`.
pub(crate) const CONNECTIONS: u32 = 400;
pub(crate) const KEYS: u32 = 10_000;

/// What is compared, and under which load.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Which servers; those that aren't installed are left out with a note
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    pub(crate) servers: Vec<Kind>,
    /// How often each of them is measured, in rotated order
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// How long each time, in seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// The same load before that, in seconds; it isn't measured, but its sums are checked
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub(crate) warm_up: u32,
    /// Connections of the load
    #[arg(long, default_value_t = CONNECTIONS, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) connections: u32,
    /// Threads of the load, at most one for each connection
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: u32,
    /// Different keys, chosen at random
    #[arg(long, default_value_t = KEYS, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub(crate) keys: u32,
    /// Connections that `sync` has to its PostgreSQL
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=90))]
    pub(crate) pool: u16,
    /// The name of the comparison; by default it follows from connections and keys
    #[arg(long, value_name = "NAME")]
    pub(crate) series: Option<String>,
    /// The server's binary; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    pub(crate) incrementer: Option<PathBuf>,
    /// Where data directories and databases are made; what is there is removed at the end
    #[arg(long, default_value = "/var/tmp", value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// The file for the raw JSON; by default in `bench-results/`, named after series and time
    #[arg(long, value_name = "RAW.json")]
    pub(crate) out: Option<PathBuf>,
}

impl Options {
    fn series(&self) -> String {
        match (&self.series, self.connections, self.keys) {
            (Some(series), ..) => series.clone(),
            (None, CONNECTIONS, KEYS) => "main".to_owned(),
            (None, connections, KEYS) => format!("connections-{connections}"),
            (None, CONNECTIONS, keys) => format!("keys-{keys}"),
            (None, connections, keys) => format!("connections-{connections}-keys-{keys}"),
        }
    }
}

/// Runs the experiment and returns its file, which is written anew after each run: what was
/// measured before a signal or a failure is kept.
///
/// # Errors
/// wrk or the server's binary is missing, a file can't be written, a signal came, or a run
/// doesn't count; the last two name the file.
pub fn run(options: &Options) -> anyhow::Result<Vec<PathBuf>> {
    files::allow(options.connections)?;
    let interrupt = Interrupt::on_signals()?;
    let series = options.series();
    let setting = Setting::new(options, &series)?;
    let out = options.out.as_deref();
    let mut record = Record::begin("run", &series, out, &options.directory, &setting.incrementer)?;
    let servers = installed(options, &mut record.experiment.notes);
    ensure!(!servers.is_empty(), "none of these servers is installed");
    let outcome = all_rounds(&setting, &servers, &interrupt, &mut record);
    record.end(outcome)
}

fn installed(options: &Options, notes: &mut Vec<String>) -> Vec<Kind> {
    let mut servers: Vec<Kind> = Vec::new();
    for &kind in &options.servers {
        match peers::missing(kind) {
            Some(what) => notes.push(format!("{kind} was left out: {what} is not installed")),
            None if servers.contains(&kind) => {}
            None => servers.push(kind),
        }
    }
    servers
}

fn all_rounds(
    setting: &Setting,
    servers: &[Kind],
    interrupt: &Interrupt,
    record: &mut Record,
) -> anyhow::Result<()> {
    let bar = progress(setting, servers.len());
    for note in &record.experiment.notes {
        tell(&bar, note);
    }
    for round in 1..=setting.options.rounds {
        let syncs = disk::syncs(&setting.options.directory, &setting.series, round)?;
        record.experiment.figures.extend(syncs);
        let mut order = servers.to_vec();
        order.rotate_left((round as usize - 1) % servers.len());
        for (place, kind) in (1..).zip(order) {
            bar.set_message(format!("round {round}, {kind}"));
            let run = setting.once(kind, round, place, interrupt, &bar)?;
            tell(&bar, &summary(&run));
            let versions = &mut record.experiment.machine.versions;
            versions.extend(setting.postgres_version.borrow().iter().cloned());
            record.experiment.runs.push(run);
            record.save()?;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Counts milliseconds of load.
fn progress(setting: &Setting, servers: usize) -> ProgressBar {
    let each = u64::from(setting.options.warm_up + setting.options.seconds) * 1000;
    let runs = u64::from(setting.options.rounds) * servers as u64;
    bar_of(each * runs)
}

/// A bar of so many milliseconds.
pub(crate) fn bar_of(milliseconds: u64) -> ProgressBar {
    let bar = ProgressBar::new(milliseconds);
    let look = "{bar:40} {percent} % {msg}, {eta} left";
    bar.set_style(ProgressStyle::with_template(look).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// # Errors
/// There is no PostgreSQL to start.
pub(crate) fn check_postgres() -> anyhow::Result<()> {
    ensure!(
        ThrowawayPostgres::is_installed(),
        "PostgreSQL's initdb can't be started; on Debian: apt-get install postgresql; where it lies elsewhere, name its \
         folder in PG_BINARIES"
    );
    Ok(())
}

/// Moves the bar on with the time, for so many seconds, each time that it is called.
pub(crate) fn clock(bar: &ProgressBar, seconds: u32) -> impl Fn() {
    let (began, done_before, lasts) = (Instant::now(), bar.position(), u128::from(seconds) * 1000);
    move || bar.set_position(done_before + began.elapsed().as_millis().min(lasts) as u64)
}

/// Above the bar, or as it is where there is none to see.
pub(crate) fn tell(bar: &ProgressBar, line: &str) {
    if bar.is_hidden() {
        eprintln!("{line}");
    } else {
        bar.println(line);
    }
}

pub(crate) fn summary(run: &Run) -> String {
    let p99 = run.latency_us.as_ref().map_or(0.0, |latency| latency.p99 / 1000.0);
    let rate = run.requests_per_s();
    let outcome = if run.failures.is_empty() { "ok".to_owned() } else { run.failures.join("; ") };
    format!("round {} {:<9} {rate:>9.0} requests/s, p99 {p99:>7.2} ms: {outcome}", run.round, run.server)
}

/// The server's binary is built into the same folder.
///
/// # Errors
/// It isn't there.
pub(crate) fn beside(given: Option<&Path>, flag: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("this program doesn't know where it is")?;
    let server = given.map_or_else(|| here.with_file_name("incrementer"), Path::to_owned);
    ensure!(server.is_file(), "{} is missing: build it, or name another with {flag}", server.display());
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Given {
        #[command(flatten)]
        options: Options,
    }

    /// The report looks for its targets under these names.
    #[test]
    fn a_comparison_is_named_after_what_differs() {
        for (given, series) in [
            (&[] as &[&str], "main"),
            (&["--connections", "1"], "connections-1"),
            (&["--connections", "64"], "connections-64"),
            (&["--keys", "1000000"], "keys-1000000"),
            (&["--keys", "5", "--connections", "6"], "connections-6-keys-5"),
            (&["--series", "own", "--keys", "5"], "own"),
        ] {
            let given = <Given as clap::Parser>::parse_from([&["run"], given].concat());
            assert_eq!(given.options.series(), series);
        }
    }
}
