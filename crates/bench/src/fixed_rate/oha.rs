//! oha: requests at a fixed rate. With `--latency-correction` the time of a request begins when it was
//! due, even if every connection was busy then.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::process::{Interrupt, Process};
use crate::raw::{Errors, Latency};

/// How much longer than asked it may take.
const GRACE: Duration = Duration::from_secs(60);
const BODIES: &str = "bodies.ndjson";

/// # Errors
/// It isn't installed.
pub(super) fn check() -> anyhow::Result<()> {
    let told = Command::new("oha").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    told.context("oha can't be started; scripts/install-peers --oha builds it")?;
    Ok(())
}

/// Its threads.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What is to be sent, and where to.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) address: SocketAddr,
    pub(super) route: &'static str,
    /// Of an answer that counts.
    pub(super) status: u16,
    pub(super) connections: u32,
    /// Requests per second.
    pub(super) rate: f64,
}

/// What it told at the end.
#[derive(Debug)]
pub(super) struct Told {
    /// Answers with the status of one that counts.
    pub(super) accepted: u64,
    pub(super) seconds: f64,
    pub(super) latency_us: Option<Latency>,
    pub(super) errors: Errors,
}

impl Plan {
    /// Writes the bodies from which it takes one at random for each request: an increment of 1.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn prepare(&self, folder: &Path, keys: u32) -> anyhow::Result<()> {
        let mut bodies = String::new();
        for key in 1..=keys {
            let _ = writeln!(bodies, "{{\"key\":\"key-{key}\",\"value\":1}}");
        }
        Ok(fs::write(folder.join(BODIES), bodies)?)
    }

    /// Runs it to its end, when every request that was sent is answered, and calls `meanwhile` every
    /// 20 ms.
    ///
    /// # Errors
    /// oha fails, or a signal came.
    pub(super) fn run(
        &self,
        folder: &Path,
        seconds: u32,
        interrupt: &Interrupt,
        meanwhile: impl FnMut(),
    ) -> anyhow::Result<Told> {
        let told = folder.join("oha.json");
        let mut oha = Command::new("oha");
        oha.args(["--no-tui", "--output-format", "json", "--latency-correction", "-w", "-t", "10s"]);
        oha.args(["-z", &format!("{seconds}s"), "-q", &self.rate.to_string()]);
        oha.args(["-c", &self.connections.to_string(), "--worker-threads", &threads().to_string()]);
        oha.args(["-m", "POST", "-T", "application/json", "-Z"]).arg(folder.join(BODIES));
        oha.arg(format!("http://{}{}", self.address, self.route));
        let mut oha = Process::start(&mut oha, Stdio::from(File::create(&told)?))?;
        let status = oha.wait(Duration::from_secs(seconds.into()) + GRACE, interrupt, meanwhile)?;
        let text = fs::read_to_string(told)?;
        ensure!(status.success(), "oha failed: {status}: {}", text.trim());
        parse(&text, self.status)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    summary: Summary,
    /// Seconds; null where there was no answer.
    latency_percentiles: BTreeMap<String, Option<f64>>,
    status_code_distribution: BTreeMap<String, u64>,
    error_distribution: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Summary {
    total: f64,
    average: Option<f64>,
    slowest: Option<f64>,
}

fn parse(text: &str, expected: u16) -> anyhow::Result<Told> {
    let page: Page = serde_json::from_str(text).with_context(|| format!("oha told {}", text.trim()))?;
    let us =
        |seconds: Option<f64>| seconds.filter(|seconds| seconds.is_finite()).map(|seconds| seconds * 1e6);
    let percentile = |name: &str| us(page.latency_percentiles.get(name).copied().flatten());
    let latency = || {
        Some(Latency {
            mean: us(page.summary.average)?,
            p50: percentile("p50")?,
            p90: percentile("p90")?,
            p99: percentile("p99")?,
            p999: percentile("p99.9")?,
            max: us(page.summary.slowest)?,
        })
    };
    let expected = expected.to_string();
    let accepted = page.status_code_distribution.get(&expected).copied().unwrap_or(0);
    let others = page.status_code_distribution.iter().filter(|(status, _)| **status != expected);
    let mut errors = Errors { status: others.map(|(_, count)| count).sum(), ..Errors::default() };
    for (what, count) in &page.error_distribution {
        *(match what.to_lowercase() {
            what if what.contains("timeout") => &mut errors.timeout,
            what if what.contains("connect") => &mut errors.connect,
            _ => &mut errors.read,
        }) += count;
    }
    Ok(Told { accepted, seconds: page.summary.total, latency_us: latency(), errors })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = r#"{
        "summary": {"successRate": 1.0, "total": 2.5, "slowest": 0.02, "fastest": 0.0001, "average": 0.001},
        "latencyPercentiles": {"p10": 0.0002, "p50": 0.0005, "p90": 0.001, "p99": 0.004, "p99.9": 0.008},
        "statusCodeDistribution": {"202": 1000, "503": 3},
        "errorDistribution": {"aborted due to deadline": 2, "timeout": 5, "Connection refused (os error 111)": 7}
    }"#;

    #[test]
    fn what_oha_tells_is_understood() {
        let told = parse(TOLD, 202).unwrap();
        assert_eq!((told.accepted, told.seconds), (1000, 2.5));
        assert_eq!(told.errors, Errors { connect: 7, read: 2, write: 0, timeout: 5, status: 3 });
        let latency = told.latency_us.unwrap();
        let us = [latency.mean, latency.p50, latency.p90, latency.p99, latency.p999, latency.max];
        assert_eq!(us.map(f64::round), [1000.0, 500.0, 1000.0, 4000.0, 8000.0, 20_000.0]);
    }

    #[test]
    fn no_answer_has_no_latency() {
        let none = r#"{"summary": {"total": 1.0, "average": null, "slowest": null}, "latencyPercentiles": {"p50": null},
            "statusCodeDistribution": {}, "errorDistribution": {"aborted due to deadline": 4}}"#;
        let told = parse(none, 202).unwrap();
        assert_eq!((told.accepted, told.latency_us, told.errors.read), (0, None, 4));
        assert!(parse("Error: no such host", 202).unwrap_err().to_string().contains("no such host"));
    }
}
