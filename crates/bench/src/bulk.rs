//! Many increments at once: in one request, and in requests that don't wait for each other, beside
//! Redis with commands that don't wait either.

mod redis;

use std::path::PathBuf;

use indicatif::ProgressBar;

use crate::files;
use crate::load::Shape;
use crate::process::Interrupt;
use crate::raw::Run;
use crate::record::Record;
use crate::run::once::Setting;
use crate::run::server::Kind;
use crate::run::{self, bar_of, disk, peers, tell};
use redis::{Persistence, Redis};

/// The numbers of keys have as many digits as those of redis-benchmark, so that keys are the same.
const DIGITS: u32 = 12;

/// What is compared, and under which load.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How often each of them is measured, in rotated order
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long each time, in seconds
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// The same load before that, in seconds; it isn't measured, but its sums are checked
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    warm_up: u32,
    /// Connections of the load
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Threads of wrk, at most one for each connection; redis-benchmark has one, as Redis has
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Different keys, chosen at random
    #[arg(long, default_value_t = run::KEYS, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    keys: u32,
    /// Increments in a request to /increments
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    per_request: u32,
    /// Requests to /increment that a connection sends before the first is answered
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pipelined: u32,
    /// Commands to Redis that a connection sends before the first is answered
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=1000))]
    redis_pipelined: u32,
    /// The server's binary; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    incrementer: Option<PathBuf>,
    /// Where data directories and databases are made; what is there is removed at the end
    #[arg(long, default_value = "/var/tmp", value_name = "DIR")]
    directory: PathBuf,
    /// The file for the raw JSON; by default in `bench-results/`, named after the time
    #[arg(long, value_name = "RAW.json")]
    out: Option<PathBuf>,
}

/// One of those that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// `/increments`
    Bulk,
    /// `/increment`, pipelined
    Pipelined(Kind),
    /// INCRBY, pipelined
    Redis(Persistence),
}

const SUBJECTS: [Subject; 5] = [
    Subject::Bulk,
    Subject::Redis(Persistence::None),
    Subject::Redis(Persistence::EveryCommand),
    Subject::Pipelined(Kind::Durable),
    Subject::Pipelined(Kind::Noop),
];

/// Runs the comparison and returns its file, as [`run::run`] does.
///
/// # Errors
/// As those of [`run::run`].
pub fn run(options: &Options) -> anyhow::Result<Vec<PathBuf>> {
    files::allow(options.connections)?;
    let interrupt = Interrupt::on_signals()?;
    let setting = |series: &str, per_request, pipelined| -> anyhow::Result<Setting> {
        let mut setting = Setting::new(&options.of_wrk(), series)?;
        setting.shape = Shape { per_request, pipelined, digits: DIGITS };
        Ok(setting)
    };
    let bulk = setting("bulk", options.per_request, 1)?;
    let pipelined = setting("pipelined", 1, options.pipelined)?;
    let out = options.out.as_deref();
    let mut record = Record::begin("bulk", "bulk", out, &options.directory, &bulk.incrementer)?;
    let mut subjects = SUBJECTS.to_vec();
    if let Some(missing) = ["redis-server", "redis-benchmark", "redis-cli"]
        .into_iter()
        .find(|name| !peers::program(name).is_file())
    {
        subjects.retain(|subject| !matches!(subject, Subject::Redis(_)));
        record.experiment.notes.push(format!("redis was left out: {missing} is not installed"));
    }
    let comparison = Comparison { options, bulk, pipelined, interrupt };
    let outcome = comparison.all_rounds(&subjects, &mut record);
    record.end(outcome)
}

impl Options {
    fn of_wrk(&self) -> run::Options {
        run::Options {
            servers: vec![Kind::Durable],
            rounds: self.rounds,
            seconds: self.seconds,
            warm_up: self.warm_up,
            connections: self.connections,
            threads: self.threads,
            keys: self.keys,
            pool: 16,
            series: None,
            incrementer: self.incrementer.clone(),
            directory: self.directory.clone(),
            out: None,
        }
    }

    /// Of one subject in one round.
    fn milliseconds(&self) -> u64 {
        u64::from(self.warm_up + self.seconds) * 1000
    }
}

struct Comparison<'a> {
    options: &'a Options,
    bulk: Setting,
    pipelined: Setting,
    interrupt: Interrupt,
}

impl Comparison<'_> {
    fn all_rounds(&self, subjects: &[Subject], record: &mut Record) -> anyhow::Result<()> {
        let each = self.options.milliseconds();
        let bar = bar_of(each * u64::from(self.options.rounds) * subjects.len() as u64);
        record.experiment.notes.iter().for_each(|note| tell(&bar, note));
        for round in 1..=self.options.rounds {
            record.experiment.figures.extend(disk::syncs(&self.options.directory, "bulk", round)?);
            let mut order = subjects.to_vec();
            order.rotate_left((round as usize - 1) % subjects.len());
            for (place, subject) in (1..).zip(order) {
                let run = self.once(subject, round, place, &bar)?;
                tell(&bar, &summary(&run));
                let versions = &mut record.experiment.machine.versions;
                for setting in [&self.bulk, &self.pipelined] {
                    versions.extend(setting.postgres_version.borrow().iter().cloned());
                }
                record.experiment.runs.push(run);
                record.save()?;
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn once(&self, subject: Subject, round: u32, place: u32, bar: &ProgressBar) -> anyhow::Result<Run> {
        let run = match subject {
            Subject::Bulk => {
                bar.set_message(format!("round {round}, bulk"));
                self.bulk.once(Kind::Durable, round, place, &self.interrupt, bar)?
            }
            Subject::Pipelined(kind) => {
                bar.set_message(format!("round {round}, {kind} pipelined"));
                self.pipelined.once(kind, round, place, &self.interrupt, bar)?
            }
            Subject::Redis(persistence) => {
                bar.set_message(format!("round {round}, {persistence}"));
                let done_before = bar.position();
                let redis = Redis { options: self.options, persistence };
                let run = redis.once(round, place, &self.interrupt, bar)?;
                bar.set_position(done_before + self.options.milliseconds());
                run
            }
        };
        Ok(run)
    }
}

fn summary(run: &Run) -> String {
    let outcome = if run.failures.is_empty() { "ok".to_owned() } else { run.failures.join("; ") };
    let Run { round, server, series, .. } = run;
    format!("round {round} {series:<9} {server:<9} {:>10.0} increments/s: {outcome}", run.increments_per_s())
}
