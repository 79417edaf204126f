//! Redis under its own load tool.

use std::fmt;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use indicatif::ProgressBar;

use super::Options;
use crate::proc;
use crate::process::{Interrupt, Interrupted, Process, free_address};
use crate::raw::{Load, Run, SumCheck};
use crate::run::clock;
use crate::run::peers::{program, sums_in_redis};

const START_WITHIN: Duration = Duration::from_secs(10);
/// How much longer than planned a load may take: its length is guessed from the warm-up.
const GRACE: Duration = Duration::from_secs(120);
/// From so many commands its speed is guessed, for each second of the warm-up.
const FIRST_PER_S: u64 = 200_000;

/// What Redis does for a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// Nothing: `redis`.
    None,
    /// Its log is synced before every answer: `redis-aof`.
    EveryCommand,
}

impl fmt::Display for Persistence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::None => "redis",
            Self::EveryCommand => "redis-aof",
        })
    }
}

pub(super) struct Redis<'a> {
    pub(super) options: &'a Options,
    pub(super) persistence: Persistence,
}

impl Redis<'_> {
    /// Measures it. What goes wrong stands in the run.
    ///
    /// # Errors
    /// A signal came.
    pub(super) fn once(
        &self,
        round: u32,
        place: u32,
        interrupt: &Interrupt,
        bar: &ProgressBar,
    ) -> Result<Run, Interrupted> {
        let options = self.options;
        let mut run = Run {
            series: "bulk".to_owned(),
            round,
            place,
            server: self.persistence.to_string(),
            load: Load {
                tool: "redis-benchmark".to_owned(),
                connections: options.connections,
                threads: 1,
                seconds: options.seconds.into(),
                keys: options.keys.into(),
                per_request: 1,
                pipelined: options.redis_pipelined,
                rate: None,
            },
            seconds: options.seconds.into(),
            ..Run::default()
        };
        if let Err(error) = self.measure(&mut run, interrupt, bar) {
            interrupt.check()?;
            run.failures.push(format!("{error:#}"));
        }
        Ok(run)
    }

    fn measure(&self, run: &mut Run, interrupt: &Interrupt, bar: &ProgressBar) -> anyhow::Result<()> {
        let options = self.options;
        let folder = tempfile::Builder::new().prefix("incrementer-bench-").tempdir_in(&options.directory)?;
        let address = free_address()?;
        let server = self.start(folder.path(), address, interrupt)?;
        let first = self.whole(FIRST_PER_S * u64::from(options.warm_up));
        let guess = self.load(folder.path(), address, first, interrupt, clock(bar, options.warm_up))?;
        let commands = self.whole((guess * f64::from(options.seconds)) as u64);
        let (pids, of_load) = ([server.pid()], proc::cpu_of_waited());
        let of_server = proc::cpu(&pids);
        let per_s = self.load(folder.path(), address, commands, interrupt, clock(bar, options.seconds))?;
        run.load_cpu = proc::between(of_load, proc::cpu_of_waited());
        run.server_cpu = proc::between(of_server, proc::cpu(&pids));
        run.peak_rss_bytes = proc::memory_bytes(&pids, "VmHWM");
        run.rss_bytes = proc::memory_bytes(&pids, "VmRSS");
        (run.requests, run.increments) = (commands, commands);
        run.seconds = commands as f64 / per_s;
        // Every command adds 1, and the tool ends when all are answered.
        let said = sums_in_redis(address)?;
        let sum = said.trim().split_once('|').and_then(|(sum, _)| sum.parse().ok());
        let stored = sum.with_context(|| format!("the sum in Redis can't be understood: {}", said.trim()))?;
        let check = SumCheck { sent: first + commands, stored, ..SumCheck::default() };
        run.failures.extend(crate::run::once::unaccounted(&check));
        run.sum_check = Some(check);
        Ok(())
    }

    fn start(&self, folder: &Path, address: SocketAddr, interrupt: &Interrupt) -> anyhow::Result<Process> {
        let port = address.port().to_string();
        let mut redis = Command::new(program("redis-server"));
        redis.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]);
        redis.args(match self.persistence {
            Persistence::None => ["--appendonly", "no", "--appendfsync", "no"],
            Persistence::EveryCommand => ["--appendonly", "yes", "--appendfsync", "always"],
        });
        redis.arg("--dir").arg(folder);
        let mut server = Process::start(&mut redis, Stdio::null())?;
        let answers = || sums_in_redis(address).is_ok();
        server.until_ready(START_WITHIN, interrupt, answers)?;
        Ok(server)
    }

    /// Sends so many commands, and returns how many a second were answered.
    fn load(
        &self,
        folder: &Path,
        address: SocketAddr,
        commands: u64,
        interrupt: &Interrupt,
        meanwhile: impl FnMut(),
    ) -> anyhow::Result<f64> {
        let options = self.options;
        let numbers = [
            ("-p", u64::from(address.port())),
            ("-c", options.connections.into()),
            ("-P", options.redis_pipelined.into()),
            ("-r", options.keys.into()),
            ("-n", commands),
        ];
        let told = folder.join("redis-benchmark.out");
        let mut tool = Command::new(program("redis-benchmark"));
        tool.args(["-h", "127.0.0.1"]);
        tool.args(numbers.iter().flat_map(|(flag, number)| [(*flag).to_owned(), number.to_string()]));
        tool.args(["--csv", "INCRBY", "key-__rand_int__", "1"]);
        let mut tool = Process::start(&mut tool, Stdio::from(File::create(&told)?))?;
        let within = Duration::from_secs(options.seconds.into()) + GRACE;
        let status = tool.wait(within, interrupt, meanwhile)?;
        let told = fs::read_to_string(told)?;
        ensure!(status.success(), "redis-benchmark failed: {status}: {}", told.trim());
        per_s(&told)
    }

    /// Each connection sends its commands in whole groups.
    fn whole(&self, commands: u64) -> u64 {
        let group = u64::from(self.options.redis_pipelined);
        commands.div_ceil(group).max(u64::from(self.options.connections)) * group
    }
}

/// The second column under `rps`, as `redis-benchmark --csv` tells it.
fn per_s(told: &str) -> anyhow::Result<f64> {
    let cells = |line: &str| -> Vec<String> {
        line.split("\",\"").map(|cell| cell.trim_matches('"').to_owned()).collect()
    };
    let mut lines = told.lines().map(|line| cells(line.trim()));
    let column = lines.find_map(|line| line.iter().position(|cell| cell == "rps"));
    let rate = column.and_then(|at| lines.next()?.get(at)?.parse::<f64>().ok());
    rate.filter(|rate| *rate > 0.0).with_context(|| format!("redis-benchmark told no rate: {}", told.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_stands_under_its_name() {
        let told =
            "\"test\",\"rps\",\"avg_latency_ms\"\n\"INCRBY key-__rand_int__ 1\",\"1234567.89\",\"0.2\"\n";
        assert!((per_s(told).unwrap() - 1_234_567.89).abs() < 1e-6);
        for broken in
            ["", "\"test\",\"rps\"\n", "\"test\",\"rps\"\n\"x\",\"0.00\"\n", "ERR unknown command\n"]
        {
            assert!(per_s(broken).unwrap_err().to_string().contains("told no rate"), "{broken}");
        }
    }
}
