//! A table of many totals: how long a start takes beside `COPY`, how fast a flush is beside a bare
//! upsert, and what a counter costs in memory when all that is over.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use super::database::Database;
use super::instance::Instance;
use super::{Name, Options, Work};
use crate::process::{Process, ask};
use crate::raw::Figure;

const DATABASE: &str = "incrementer";
/// No checkpoint and no vacuum in the middle of one half of a pair, and table and index (1.2 GB) in memory,
/// so that neither half has to write out pages for the other.
const SETTINGS: [&str; 4] =
    ["shared_buffers=3GB", "max_wal_size=8GB", "checkpoint_timeout=1h", "autovacuum=off"];
/// Increments in a request.
const ENTRIES: usize = 1000;
/// Of each key: `user:00000000:clicks`.
const KEY_BYTES: f64 = 20.0;

const START: Name = Name { series: "start", subject: "durable", quantity: "start", unit: "s" };
const COPY_OUT: Name = Name { series: "start", subject: "psql", quantity: "copy_out", unit: "s" };
const FLUSH: Name = Name { series: "flush", subject: "durable", quantity: "flush_keys", unit: "keys/s" };
const UPSERT: Name = Name { series: "flush", subject: "psql", quantity: "bare_upsert_keys", unit: "keys/s" };
const MEMORY: Name =
    Name { series: "memory", subject: "durable", quantity: "memory_per_counter", unit: "bytes" };
const NAMES: [Name; 5] = [START, COPY_OUT, FLUSH, UPSERT, MEMORY];

const FILL_STEPS: u64 = 3;
const ROUND_STEPS: u64 = 2;

/// For the bar. The round before the first warms caches up.
pub(super) fn steps(options: &Options) -> u64 {
    FILL_STEPS + ROUND_STEPS * (u64::from(options.rounds) + 1)
}

pub(super) fn all(work: &mut Work<'_>) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("incrementer-bench-").tempdir_in(&work.options.directory)?;
    let database = Database::start(folder.path(), &SETTINGS);
    work.interrupt.check()?;
    work.record.experiment.machine.versions.extend([database.version(&work.interrupt)?]);
    let mut loaded = Loaded { database, folder, sum: u64::from(work.options.totals) };
    work.bar.set_message(format!("a table of {} totals", work.options.totals));
    loaded.fill(work)?;
    work.bar.inc(FILL_STEPS);
    for round in 0..=work.options.rounds {
        work.bar.set_message(format!("round {round}, start and flush"));
        let outcome = loaded.round(work, round);
        let is_warm_up = round == 0;
        if is_warm_up {
            outcome?;
        } else {
            let figures = work.or_failed(outcome, &NAMES, round)?;
            work.keep(figures)?;
        }
        work.bar.inc(ROUND_STEPS);
    }
    Ok(())
}

struct Loaded {
    // Dropped first.
    database: Database,
    folder: TempDir,
    /// What the totals have to add up to.
    sum: u64,
}

impl Loaded {
    /// The tables are made by the product, the rows by PostgreSQL. No checkpoint follows: after one, whoever
    /// changes a page first would write it whole into the log.
    fn fill(&self, work: &Work<'_>) -> anyhow::Result<()> {
        let mut migrate = std::process::Command::new(work.incrementer);
        migrate.args(["migrate", "--store", &self.database.url(DATABASE), "--data-dir"]).arg(self.data());
        let mut migrate = Process::start(&mut migrate, std::process::Stdio::null())?;
        let status = migrate.wait(std::time::Duration::from_secs(60), &work.interrupt, || ())?;
        ensure!(status.success(), "incrementer migrate failed: {status}");
        let insert = format!(
            "INSERT INTO counters SELECT 'user:' || lpad(n::text, 8, '0') || ':clicks', 1 \
             FROM generate_series(0, {} - 1) n",
            work.options.totals
        );
        self.database.sql(DATABASE, &[&insert, "VACUUM ANALYZE counters"], &work.interrupt)?;
        Ok(())
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    /// Either half of each pair goes first every other time.
    fn round(&mut self, work: &Work<'_>, round: u32) -> anyhow::Result<Vec<Figure>> {
        let ours_first = round % 2 == 1;
        let copy = |loaded: &Self| loaded.database.time(DATABASE, "COPY counters TO STDOUT", &work.interrupt);
        let copied_before = if ours_first { None } else { Some(copy(self)?) };
        let store = self.database.url(DATABASE);
        let (server, start_s) = Instance::start(work, &self.data(), &store, work.options.batch)?;
        let loaded = server.metric("incrementer_counters")?;
        let upserted_before = if ours_first { None } else { Some(self.upsert(work)?) };
        let flush_s = self.flush(work, &server)?;
        let upsert_s = upserted_before.map_or_else(|| self.upsert(work), Ok)?;
        let pending = server.metric("incrementer_pending_updates")?;
        let rss_bytes = server.steady_memory(&work.interrupt)? as f64;
        server.stop(&work.interrupt)?;
        let copy_s = copied_before.map_or_else(|| copy(self), Ok)?;

        let (totals, batch) = (f64::from(work.options.totals), f64::from(work.options.batch));
        let mut figures = vec![
            START.figure(round, start_s),
            COPY_OUT.figure(round, copy_s),
            FLUSH.figure(round, batch / flush_s),
            UPSERT.figure(round, batch / upsert_s),
            MEMORY.figure(round, rss_bytes / totals - KEY_BYTES),
        ];
        let stored = self.database.sum(DATABASE, &work.interrupt)?;
        let why = wrong(work.options, loaded, pending, self.sum, stored);
        figures.iter_mut().for_each(|figure| figure.failures.clone_from(&why));
        Ok(figures)
    }

    /// Lets the server flush a batch of keys at random. The seconds from when the last request of it is
    /// sent until the server says that the store has it.
    fn flush(&mut self, work: &Work<'_>, server: &Instance) -> anyhow::Result<f64> {
        let flushes = server.metric("incrementer_flushes_total")?;
        let keys: Vec<u32> = some_of(work.options.totals, work.options.batch).into_iter().collect();
        let mut began = Instant::now();
        for keys in keys.chunks(ENTRIES) {
            work.interrupt.check()?;
            let entries: Vec<String> =
                keys.iter().map(|key| format!("{{\"key\":\"{}\",\"value\":1}}", name(*key))).collect();
            let body = format!("[{}]", entries.join(","));
            began = Instant::now();
            let (status, told) = ask(server.address, "POST", "/increments", &body)?;
            ensure!(status == 202, "the server answered {status}: {told}");
            self.sum += keys.len() as u64;
        }
        server.until("incrementer_flushes_total", &work.interrupt, |done| done > flushes)?;
        let took = began.elapsed().as_secs_f64();
        server.until("incrementer_pending_updates", &work.interrupt, |pending| pending == 0)?;
        let pieces = server.metric("incrementer_flushes_total")? - flushes;
        ensure!(pieces == 1, "the batch was flushed in {pieces} pieces");
        Ok(took)
    }

    /// The same without the server: one statement with its keys in order, as psql times it in seconds.
    fn upsert(&mut self, work: &Work<'_>) -> anyhow::Result<f64> {
        let file = self.folder.path().join("upsert.sql");
        write_upsert(&file, some_of(work.options.totals, work.options.batch))?;
        let said = self.database.file(DATABASE, &file, &work.interrupt)?;
        self.sum += u64::from(work.options.batch);
        timing(&said)
    }
}

/// Why a round doesn't count.
fn wrong(options: &Options, loaded: u64, pending: u64, expected: u64, stored: u64) -> Vec<String> {
    let mut why = Vec::new();
    if loaded != u64::from(options.totals) {
        why.push(format!("the server loaded {loaded} totals instead of {}", options.totals));
    }
    if pending > 0 {
        why.push(format!("{pending} updates were pending at the end"));
    }
    if stored != expected {
        why.push(format!("the table adds up to {stored} instead of {expected}"));
    }
    why
}

fn name(key: u32) -> String {
    format!("user:{key:08}:clicks")
}

/// Different keys at random, in the order of chance.
fn some_of(totals: u32, how_many: u32) -> HashSet<u32> {
    let mut chosen = HashSet::with_capacity(how_many as usize);
    while chosen.len() < how_many as usize {
        chosen.insert(fastrand::u32(0..totals));
    }
    chosen
}

fn write_upsert(file: &Path, keys: HashSet<u32>) -> anyhow::Result<()> {
    // Names have their numbers' order.
    let mut keys: Vec<u32> = keys.into_iter().collect();
    keys.sort_unstable();
    let mut names = String::new();
    for key in &keys {
        let _ = write!(names, "{},", name(*key));
    }
    let ones = "1,".repeat(keys.len());
    let (names, ones) = (names.trim_end_matches(','), ones.trim_end_matches(','));
    let text = format!(
        "\\timing on\nINSERT INTO counters SELECT * FROM unnest('{{{names}}}'::text[], '{{{ones}}}'::bigint[]) \
         ON CONFLICT (key) DO UPDATE SET value = counters.value + excluded.value;\n"
    );
    Ok(std::fs::write(file, text)?)
}

/// The seconds in psql's `Time: 123.456 ms (00:01.234)`.
fn timing(said: &str) -> anyhow::Result<f64> {
    let ms = said.split("Time: ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    Ok(ms.with_context(|| format!("psql told no time: {}", said.trim()))? / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psql_tells_milliseconds() {
        assert!((timing("Timing is on.\nTime: 1234.500 ms (00:01.235)\n").unwrap() - 1.2345).abs() < 1e-9);
        assert!((timing("Time: 0.250 ms\n").unwrap() - 0.00025).abs() < 1e-9);
        assert!(timing("INSERT 0 1\n").unwrap_err().to_string().contains("told no time: INSERT 0 1"));
    }

    #[test]
    fn an_upsert_has_every_key_once_and_in_order() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let keys = some_of(100, 60);
        assert_eq!(keys.len(), 60);
        write_upsert(file.path(), keys).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let names = text.split("unnest('{").nth(1).unwrap().split('}').next().unwrap();
        let names: Vec<&str> = names.split(',').collect();
        assert!(names.len() == 60 && names.is_sorted_by(|left, right| left < right), "{names:?}");
        assert!(names.iter().all(|name| name.len() == KEY_BYTES as usize), "{names:?}");
        assert_eq!(
            text.matches("1,").count() + 1,
            text.split("{1").nth(1).unwrap().matches(",1").count() + 1
        );
    }
}
