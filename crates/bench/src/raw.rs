//! The raw JSON of an experiment: every run and every figure as it was measured, nothing derived.
//!
//! One file is one [`Experiment`]. What was measured under load is a [`Run`]; what was measured
//! otherwise (the disk, a start, a flush) is a [`Figure`]. Both name the series that they belong to and the
//! round in it, so that whatever stands in one round of one series can be compared as a pair: it
//! was measured one after the other, under the same conditions. [`crate::stats`] does the maths.

use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// The version of this format. A change that an older reader would misunderstand raises it.
pub const FORMAT: u32 = 1;

/// One file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// [`FORMAT`].
    pub format: u32,
    /// Which command made it: `run`, `grow`, `bulk`, `fixed-rate` or `figures`.
    pub command: String,
    /// The command line without the program.
    pub arguments: Vec<String>,
    /// When it began, in seconds since the Unix epoch.
    pub began_unix_s: u64,
    /// How long it took in seconds, preparations included.
    pub took_s: f64,
    /// Whether it was ended before all was measured.
    pub interrupted: bool,
    /// Where it was made.
    pub machine: Machine,
    /// What was measured under load, in the order in which it was.
    pub runs: Vec<Run>,
    /// What was measured otherwise, in the order in which it was.
    pub figures: Vec<Figure>,
    /// What was left out and why, for people: a peer that isn't installed, say.
    pub notes: Vec<String>,
}

/// The machine, and what ran on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name, as in `/proc/cpuinfo`.
    pub cpu: String,
    /// How many cores this process may use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The distribution, as in `/etc/os-release`.
    pub system: String,
    /// The file system of the data directories, and its device.
    pub disk: String,
    /// The one-minute load average when the experiment began: anything far over 0 means that the
    /// machine was not quiet.
    pub load_average: f64,
    /// Versions by name: `incrementer`, `rustc`, `wrk`, `postgres`, `nginx`, `redis`, `webdis`, …
    pub versions: std::collections::BTreeMap<String, String>,
    /// The commit of the folder that the command was given in, with `-dirty` where files had changed;
    /// empty where it isn't known. The server was built from it unless somebody named another.
    pub commit: String,
    /// The profile that the server was built with, such as `release`.
    pub profile: String,
}

/// Where on an axis of growth something was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// `keys` or `connections` or `table_rows`.
    pub axis: String,
    /// How many of them.
    pub value: u64,
}

/// One server under one load for some seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Which comparison it belongs to: `main`, `connections-64`, `connections-1`, `keys-1000000`,
    /// `fixed-rate`, `bulk`, `pipelined`, or `grow-keys`, `grow-connections`.
    pub series: String,
    /// Where on the axis, in a series `grow-…`.
    pub point: Option<Point>,
    /// Which round, from 1. Round 0 is a warm-up.
    pub round: u32,
    /// Which place in its round, from 1: the order rotates.
    pub place: u32,
    /// `noop`, `sync`, `memory`, `durable`, `nginx`, `nginx-lua`, `webdis`, `redis`,
    /// `redis-aof`.
    pub server: String,
    /// What was sent.
    pub load: Load,
    /// Answered requests.
    pub requests: u64,
    /// Increments in those.
    pub increments: u64,
    /// For how long the load lasted in seconds, as the load tool measured it.
    pub seconds: f64,
    /// Latency in microseconds; `None` where the tool doesn't tell it.
    pub latency_us: Option<Latency>,
    /// What went wrong, by kind; anything but zeros fails the run.
    pub errors: Errors,
    /// CPU time that the server's processes spent during the load, Postgres's apart.
    pub server_cpu: Cpu,
    /// CPU time that the server's Postgres spent during the load.
    pub store_cpu: Option<Cpu>,
    /// CPU time that the load tool spent.
    pub load_cpu: Cpu,
    /// The most memory that the server's processes had in bytes (`VmHWM`, summed over them).
    pub peak_rss_bytes: u64,
    /// The same at the end of the load (`VmRSS`).
    pub rss_bytes: u64,
    /// Whether what is stored accounts for what was acknowledged; `None` for a server that
    /// stores nothing.
    pub sum_check: Option<SumCheck>,
    /// What the server's own metrics gained; `None` for a server without these.
    pub metrics: Option<Metrics>,
    /// Why the run doesn't count; empty where it does.
    pub failures: Vec<String>,
}

/// What was sent to a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// `wrk`, `oha` or `redis-benchmark`.
    pub tool: String,
    /// Connections.
    pub connections: u32,
    /// The tool's threads.
    pub threads: u32,
    /// For how long it was to last in seconds.
    pub seconds: f64,
    /// Different keys, chosen at random.
    pub keys: u64,
    /// Increments in a request.
    pub per_request: u32,
    /// Requests that were sent before the first of them was answered.
    pub pipelined: u32,
    /// Requests per second where the rate was fixed, `None` where it was as fast as it goes.
    pub rate: Option<f64>,
}

/// Latency in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// What went wrong, as the load tool counted it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// Connections that could not be made.
    pub connect: u64,
    /// Connections that broke while an answer was read.
    pub read: u64,
    /// … while a request was written.
    pub write: u64,
    /// Answers that took longer than the tool waits.
    pub timeout: u64,
    /// Answers with a status of 400 and up where wrk tells, and of another than the one expected where oha does.
    pub status: u64,
}

impl Errors {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.connect + self.read + self.write + self.timeout + self.status
    }
}

/// CPU time in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// In user mode.
    pub user_s: f64,
    /// In the kernel.
    pub system_s: f64,
}

/// What the load tool knows of the values that it sent, beside what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumCheck {
    /// The sum of all values sent.
    pub sent: u64,
    /// How much of it was in flight at most when the load stopped: the stored sum may lack so
    /// much. 0 where every value that isn't 0 was answered, and then the sum must be exact.
    pub in_flight: u64,
    /// The sum that is stored.
    pub stored: u64,
    /// The sum of value × number of the key, modulo 2^52, as sent: it tells an increment that
    /// went to another key. `None` where the tool can't tell it.
    pub weighted_sent: Option<u64>,
    /// The same, as stored.
    pub weighted_stored: Option<u64>,
}

/// What the metrics of incrementer gained during a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Requests that it counted.
    pub counted_requests: u64,
    /// Group commits.
    pub commits: u64,
    /// Time in fdatasync in seconds.
    pub sync_s: f64,
    /// Batches that the store has.
    pub flushes: u64,
}

/// A figure that was measured without load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Which comparison it belongs to, as in [`Run::series`]; besides `start`, `replay`, `flush`,
    /// `memory`.
    pub series: String,
    /// Where on the axis, in a series `grow-…`.
    pub point: Option<Point>,
    /// Which round, from 1.
    pub round: u32,
    /// What it is of: `durable`, `durable, restarted`, `disk`, `psql`.
    pub subject: String,
    /// What it is: `fdatasync_p50`, `fdatasync_p99`, `start`, `copy_out`, `replay`, `replay_bulk`,
    /// `flush_keys`, `bare_upsert_keys`, `memory_per_counter` (beside its key), …; along `keys` also `restart`,
    /// `resident_memory` and `memory_per_counter_with_its_key`.
    pub quantity: String,
    /// How much.
    pub value: f64,
    /// Of what: `us`, `s`, `keys/s`, `increments/s`, `bytes`.
    pub unit: String,
    /// Why it doesn't count; empty where it does.
    pub failures: Vec<String>,
}

impl Run {
    /// Answered requests per second.
    #[must_use]
    pub fn requests_per_s(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// Increments per second.
    #[must_use]
    pub fn increments_per_s(&self) -> f64 {
        self.increments as f64 / self.seconds
    }

    /// Whether it counts.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.failures.is_empty() && self.round > 0
    }
}

impl Experiment {
    /// Reads a file.
    ///
    /// # Errors
    /// It can't be read, is no experiment, or is of another format.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
        let not = || format!("{} is not the raw JSON of an experiment", path.display());
        let experiment: Self = serde_json::from_slice(&text).with_context(not)?;
        let format = experiment.format;
        ensure!(format == FORMAT, "{} has format {format}, this program reads {FORMAT}", path.display());
        Ok(experiment)
    }

    /// Writes a file, as a whole or not at all, and makes its folder where there is none.
    ///
    /// # Errors
    /// The operating system's.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let can_not = || format!("can't write {}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(can_not)?;
        }
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let beside = path.with_extension("json.new");
        std::fs::write(&beside, text).with_context(can_not)?;
        std::fs::rename(&beside, path).with_context(can_not)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let run = Run {
            series: "main".into(),
            point: Some(Point { axis: "keys".into(), value: 1000 }),
            latency_us: Some(Latency { p99: 17.25, ..Latency::default() }),
            sum_check: Some(SumCheck { sent: u64::MAX, ..SumCheck::default() }),
            ..Run::default()
        };
        let experiment = Experiment {
            format: FORMAT,
            command: "run".into(),
            arguments: vec!["--rounds".into(), "5".into()],
            began_unix_s: 1_700_000_000,
            took_s: 0.1,
            interrupted: false,
            machine: Machine { versions: [("wrk".into(), "4".into())].into(), ..Machine::default() },
            runs: vec![run],
            figures: vec![Figure::default()],
            notes: vec!["none".into()],
        };
        let text = serde_json::to_string(&experiment).unwrap();
        assert_eq!(serde_json::from_str::<Experiment>(&text).unwrap(), experiment);
    }
}
