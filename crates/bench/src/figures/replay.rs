//! Replay of the journal: a start with a long journal, less a start with an empty one.
//!
//! The journals are written by the server itself under load, and left behind by a kill. The
//! difference of two starts also has what else a journal costs a start: to find its end, to check it
//! and to make its tail durable anew. So it is what somebody waits longer for, and the stricter figure.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::database::Database;
use super::instance::{Instance, said};
use super::{Name, Options, Work};
use crate::load::{Plan, Shape};
use crate::raw::{Figure, SumCheck};
use crate::run::KEYS;
use crate::run::once::unaccounted;

/// More than there are keys: nothing is flushed while a journal is written.
const FLUSH_AT: u32 = 100_000;
const CONNECTIONS: u32 = 50;
const THREADS: u32 = 2;
/// wrk runs for so long, again and again, until the journal is long enough.
const SLICE_S: u32 = 2;
const FILL_WITHIN: Duration = Duration::from_secs(600);
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

const REPLAY: Name = Name { series: "replay", subject: "durable", quantity: "replay", unit: "increments/s" };
const REPLAY_BULK: Name = Name { quantity: "replay_bulk", ..REPLAY };
const EMPTY_START: Name = Name { quantity: "empty_start", unit: "s", ..REPLAY };
const NAMES: [Name; 3] = [REPLAY, REPLAY_BULK, EMPTY_START];

const FILL_STEPS: u64 = 1;

/// For the bar.
pub(super) fn steps(options: &Options) -> u64 {
    2 * FILL_STEPS + u64::from(options.rounds)
}

/// A journal that was left behind, and the database that belongs to it.
struct Journal {
    /// Of its database and of its data directory.
    name: &'static str,
    /// Increments in it that were acknowledged.
    increments: u64,
    /// What was sent adds up to that.
    sent: u64,
    /// How much of that was in flight at most when the load stopped.
    in_flight: u64,
}

pub(super) fn all(work: &mut Work<'_>) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("incrementer-bench-").tempdir_in(&work.options.directory)?;
    let database = Database::start(folder.path(), &[]);
    work.interrupt.check()?;
    let place = Place { database, folder };
    let mut journals = Vec::new();
    let shapes = [
        ("empty", None),
        ("single", Some(Shape { per_request: 1, pipelined: 16, digits: 1 })),
        ("bulk", Some(Shape { per_request: 1000, pipelined: 1, digits: 1 })),
    ];
    for (name, shape) in shapes {
        work.bar.set_message(format!("a journal to replay: {name}"));
        journals.push(place.left_behind(work, name, shape)?);
        work.bar.inc(if shape.is_some() { FILL_STEPS } else { 0 });
    }
    for round in 1..=work.options.rounds {
        work.bar.set_message(format!("round {round}, replay"));
        let outcome = place.round(work, &journals, round);
        let figures = work.or_failed(outcome, &NAMES, round)?;
        work.keep(figures)?;
        work.bar.inc(1);
    }
    Ok(())
}

struct Place {
    // Dropped first.
    database: Database,
    folder: TempDir,
}

impl Place {
    /// Lets a server write a journal, of requests of this shape, and kills it.
    fn left_behind(
        &self,
        work: &Work<'_>,
        name: &'static str,
        shape: Option<Shape>,
    ) -> anyhow::Result<Journal> {
        let data = self.folder.path().join(name);
        let (server, _) = Instance::start(work, &data, &self.database.url(name), FLUSH_AT)?;
        let mut journal = Journal { name, increments: 0, sent: 0, in_flight: 0 };
        let Some(shape) = shape else { return Ok(journal) };
        let by = Instant::now() + FILL_WITHIN;
        let mut seed = 1;
        while journal.increments < u64::from(work.options.replayed) {
            ensure!(Instant::now() < by, "no journal of that length within {} s", FILL_WITHIN.as_secs());
            let (sent, in_flight) = self.slice(work, &server, shape, seed)?;
            journal.sent += sent;
            journal.in_flight += in_flight;
            journal.increments = settled(work, &server)? * u64::from(shape.per_request);
            seed += 1;
        }
        let flushes = server.metric("incrementer_flushes_total")?;
        ensure!(flushes == 0, "{flushes} flushes came before the kill");
        Ok(journal)
    }

    /// Some seconds of load. Returns the sum of what was sent, and how much of it was in flight.
    fn slice(
        &self,
        work: &Work<'_>,
        server: &Instance,
        shape: Shape,
        seed: u32,
    ) -> anyhow::Result<(u64, u64)> {
        let path = if shape.per_request > 1 { "/increments" } else { "/increment" };
        let plan = Plan {
            address: server.address,
            path,
            form: "json",
            connections: CONNECTIONS,
            threads: THREADS,
            seconds: SLICE_S,
            keys: KEYS,
            seed,
            shape,
        };
        let outcome = plan.run(self.folder.path(), &work.interrupt, || ())?;
        let failed = outcome.errors.total();
        ensure!(failed == 0, "{failed} requests failed while the journal was written");
        Ok((outcome.sent, plan.in_flight(&outcome)))
    }

    /// Each journal once, in rotated order.
    fn round(&self, work: &Work<'_>, journals: &[Journal], round: u32) -> anyhow::Result<Vec<Figure>> {
        let mut took_s = vec![(0.0, Vec::new()); journals.len()];
        for place in 0..journals.len() {
            let at = (place + round as usize) % journals.len();
            took_s[at] = self.start(work, &journals[at])?;
        }
        let [empty, single, bulk] = took_s.try_into().ok().context("there are three journals")?;
        let rate = |name: Name, (with, why): (f64, Vec<String>), journal: &Journal| {
            let replay_s = with - empty.0;
            let mut figure = name.figure(round, journal.increments as f64 / replay_s);
            figure.failures = why;
            if replay_s <= 0.0 {
                figure.value = 0.0;
                figure.failures.push("the start was no longer than one with an empty journal".to_owned());
            }
            figure
        };
        let mut empty_start = EMPTY_START.figure(round, empty.0);
        empty_start.failures.clone_from(&empty.1);
        Ok(vec![rate(REPLAY, single, &journals[1]), rate(REPLAY_BULK, bulk, &journals[2]), empty_start])
    }

    /// Starts a server on a copy of the journal and of its database, and stops it, so that it brings the
    /// increments into the table. Returns the seconds that the start took, and why they don't count.
    fn start(&self, work: &Work<'_>, journal: &Journal) -> anyhow::Result<(f64, Vec<String>)> {
        let (interrupt, copy) = (&work.interrupt, "replayed");
        let data = self.folder.path().join(copy);
        copy_durably(&self.folder.path().join(journal.name), &data)?;
        let create = format!("CREATE DATABASE {copy} TEMPLATE {}", journal.name);
        self.database.sql("postgres", &[&create], interrupt)?;
        let (server, took_s) = Instance::start(work, &data, &self.database.url(copy), FLUSH_AT)?;
        server.stop(interrupt)?;
        let stored = self.database.sum(copy, interrupt)?;
        self.database.sql("postgres", &[&format!("DROP DATABASE {copy}")], interrupt)?;
        fs::remove_dir_all(&data)?;
        let check =
            SumCheck { sent: journal.sent, in_flight: journal.in_flight, stored, ..SumCheck::default() };
        let why = unaccounted(&check).map(|why| format!("{why}; the server said: {}", said(&data)));
        Ok((took_s, why.into_iter().collect()))
    }
}

/// How many requests the server has counted, once it has counted all that wrk left in flight.
fn settled(work: &Work<'_>, server: &Instance) -> anyhow::Result<u64> {
    let by = Instant::now() + SETTLED_WITHIN;
    let counted = || server.metric("incrementer_counted_requests_total");
    let mut before = counted()?;
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let now = counted()?;
        if now == before {
            return Ok(now);
        }
        work.interrupt.check()?;
        ensure!(Instant::now() < by, "the server goes on counting");
        before = now;
    }
}

/// Nothing of it is left to be written when the start is timed.
fn copy_durably(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_durably(&entry.path(), &copy)?;
        } else {
            fs::copy(entry.path(), &copy)?;
            File::open(&copy)?.sync_all()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_folders_and_files() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("journal")).unwrap();
        fs::write(from.join("journal/one.segment"), "records").unwrap();
        fs::write(from.join("identity.json"), "{}").unwrap();
        copy_durably(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("journal/one.segment")).unwrap(), "records");
        assert_eq!(fs::read_to_string(to.join("identity.json")).unwrap(), "{}");
    }
}
