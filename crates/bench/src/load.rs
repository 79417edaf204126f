//! wrk with our own script: random keys, random values, and sums of what was sent.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::process::{Interrupt, Process};
use crate::raw::{Errors, Latency};

const SCRIPT: &str = include_str!("../load/increment.lua");
/// `MODULUS` in the script.
pub(crate) const MODULUS: u64 = 1 << 52;
/// `MAX_VALUE` in the script.
pub(crate) const MAX_VALUE: u64 = 1000;
/// For so long at the end only zeros are sent, or half of the time where that is less.
const TAIL_S: f64 = 1.5;
/// An answer that takes longer is an error.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer than asked wrk may take.
const GRACE: Duration = Duration::from_secs(30);

/// # Errors
/// wrk isn't installed.
pub(crate) fn check() -> anyhow::Result<()> {
    // wrk -v ends with 1; that it could be started is enough.
    let wrk = Command::new("wrk").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
    wrk.context("wrk can't be started; on Debian: scripts/install-peers")?;
    Ok(())
}

/// wrk gives each thread as many connections, and leaves out what is over.
///
/// # Errors
/// Some would be left out.
pub(crate) fn check_split(connections: u32, threads: u32) -> anyhow::Result<()> {
    let over = connections.checked_rem(threads.min(connections)).unwrap_or(0);
    ensure!(
        over == 0,
        "wrk can't spread {connections} connections evenly over {threads} threads; take --connections {} or {}, or \
         other --threads",
        connections - over,
        connections - over + threads
    );
    Ok(())
}

/// What is to be sent, and where to.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) path: &'static str,
    /// `json` or `webdis`.
    pub(crate) form: &'static str,
    pub(crate) connections: u32,
    pub(crate) threads: u32,
    pub(crate) seconds: u32,
    pub(crate) keys: u32,
    pub(crate) seed: u32,
    pub(crate) shape: Shape,
}

/// How increments are put into requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Increments in a request; more than 1 go to `/increments`.
    pub(crate) per_request: u32,
    /// Requests that a connection sends before the first of them is answered.
    pub(crate) pipelined: u32,
    /// So many digits has the number of a key at least.
    pub(crate) digits: u32,
}

impl Shape {
    pub(crate) const SINGLE: Self = Self { per_request: 1, pipelined: 1, digits: 1 };
}

/// What wrk tells at the end.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) latency_us: Latency,
    pub(crate) errors: Errors,
    /// The sum of all values sent.
    pub(crate) sent: u64,
    /// The sum of value × number of the key, modulo [`MODULUS`].
    pub(crate) weighted: u64,
}

impl Plan {
    fn tail_s(&self) -> f64 {
        TAIL_S.min(f64::from(self.seconds) / 2.0)
    }

    /// How much may be in flight when the load stops: nothing, if every request was answered
    /// in less time than only zeros were sent; otherwise what each connection may hold.
    pub(crate) fn in_flight(&self, outcome: &Outcome) -> u64 {
        let all_were_zeros = outcome.latency_us.max < self.tail_s() * 1e6;
        if all_were_zeros {
            0
        } else {
            self.requests_in_flight() * u64::from(self.shape.per_request) * MAX_VALUE
        }
    }

    /// How many requests all connections together may have sent without an answer.
    pub(crate) fn requests_in_flight(&self) -> u64 {
        u64::from(self.connections) * u64::from(self.shape.pipelined)
    }

    /// wrk, to be started; the script is put into `directory`.
    pub(crate) fn command(&self, directory: &Path) -> anyhow::Result<Command> {
        let script: PathBuf = directory.join("increment.lua");
        std::fs::write(&script, SCRIPT).with_context(|| format!("can't write {}", script.display()))?;
        let mut wrk = Command::new("wrk");
        wrk.args(["-t", &self.threads.min(self.connections).to_string()]);
        wrk.args(["-c", &self.connections.to_string(), "-d", &format!("{}s", self.seconds)]);
        wrk.args(["--timeout", &format!("{}s", TIMEOUT.as_secs()), "-s"]);
        wrk.arg(script).arg(format!("http://{}{}", self.address, self.path)).arg("--");
        wrk.args([self.keys, self.seconds].map(|number| number.to_string()));
        wrk.args([&self.tail_s().to_string(), &self.seed.to_string(), self.form]);
        let Shape { per_request, pipelined, digits } = self.shape;
        wrk.args([per_request, pipelined, digits].map(|number| number.to_string()));
        Ok(wrk)
    }

    /// Runs it to its end, and calls `meanwhile` every 20 ms.
    ///
    /// # Errors
    /// wrk can't be started or fails, or a signal came.
    pub(crate) fn run(
        &self,
        directory: &Path,
        interrupt: &Interrupt,
        meanwhile: impl FnMut(),
    ) -> anyhow::Result<Outcome> {
        let told = directory.join("wrk.out");
        let stdout = std::fs::File::create(&told)?;
        let mut wrk = Process::start(&mut self.command(directory)?, Stdio::from(stdout))?;
        let within = Duration::from_secs(self.seconds.into()) + GRACE;
        let status = wrk.wait(within, interrupt, meanwhile)?;
        let told = std::fs::read_to_string(told)?;
        ensure!(status.success(), "wrk failed: {status}: {}", told.trim());
        parse(&told)
    }
}

/// The last line that is JSON; what stands before is wrk's own.
fn parse(told: &str) -> anyhow::Result<Outcome> {
    let line = told.lines().rev().find(|line| line.starts_with('{'));
    let line = line.with_context(|| format!("wrk told no result: {}", told.trim()))?;
    serde_json::from_str(line).with_context(|| format!("wrk told {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_wrk_would_leave_out_are_refused() {
        for (connections, threads) in [(400, 16), (1, 16), (7, 16), (4096, 16), (101, 1)] {
            check_split(connections, threads).unwrap();
        }
        let said = check_split(100, 16).unwrap_err().to_string();
        assert!(said.contains("--connections 96 or 112"), "{said}");
    }

    #[test]
    fn what_was_in_flight_is_known_from_the_longest_latency() {
        let told = "Requests/sec: 1\n{\"requests\":7,\"seconds\":3.01,\"latency_us\":{\"mean\":1,\"p50\":1,\
                    \"p90\":1,\"p99\":1,\"p999\":1,\"max\":1499999},\"errors\":{\"connect\":0,\"read\":0,\
                    \"write\":0,\"timeout\":0,\"status\":2},\"sent\":12,\"weighted\":34}\n";
        let mut outcome = parse(told).unwrap();
        assert_eq!((outcome.requests, outcome.sent, outcome.errors.status), (7, 12, 2));
        let address = "127.0.0.1:1".parse().unwrap();
        let (path, form, shape) = ("/increment", "json", Shape::SINGLE);
        let mut plan =
            Plan { address, path, form, connections: 8, threads: 2, seconds: 30, keys: 1, seed: 1, shape };
        assert_eq!(plan.in_flight(&outcome), 0);
        plan.seconds = 2;
        assert_eq!(plan.in_flight(&outcome), 8 * MAX_VALUE);
        plan.shape = Shape { per_request: 1000, pipelined: 16, digits: 12 };
        assert_eq!(plan.in_flight(&outcome), 8 * 16 * 1000 * MAX_VALUE);
        plan.shape = shape;
        plan.seconds = 30;
        outcome.latency_us.max = 1.5e6;
        assert_eq!(plan.in_flight(&outcome), 8 * MAX_VALUE);
        assert!(parse("Running 30s test\n").is_err());
    }
}
