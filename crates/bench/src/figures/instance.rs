//! incrementer itself, started and watched.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::Work;
use crate::proc;
use crate::process::{Interrupt, Interrupted, Process, ask, free_address};
use crate::run::once::{metric, metrics_page};

/// Of ten million totals on a slow machine.
const READY_WITHIN: Duration = Duration::from_secs(300);
const STOP_WITHIN: Duration = Duration::from_secs(120);
const FLUSH_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What the last server over this data directory has logged, in one line.
pub(super) fn said(data: &Path) -> String {
    std::fs::read_to_string(log_of(data)).unwrap_or_default().trim().replace('\n', " | ")
}

fn log_of(data: &Path) -> PathBuf {
    data.with_extension("log")
}

/// One that runs; killed when it is dropped.
pub(super) struct Instance {
    process: Process,
    pub(super) address: SocketAddr,
}

impl Instance {
    /// Starts it, and returns also how long it took in seconds from the start of its process until it
    /// took increments. It flushes when `flush_at` updates are pending, and not for a while before.
    ///
    /// # Errors
    /// It doesn't start, or a signal came.
    pub(super) fn start(
        work: &Work<'_>,
        data: &Path,
        store: &str,
        flush_at: u32,
    ) -> anyhow::Result<(Self, f64)> {
        let address = free_address()?;
        let mut serve = Command::new(work.incrementer);
        serve.args(["serve", "--ack", "durable", "--listen", &address.to_string(), "--store", store]);
        serve.args(["--flush-max-updates", &flush_at.to_string(), "--flush-interval", "1h"]);
        serve.args(["--shutdown-timeout", &format!("{}s", STOP_WITHIN.as_secs()), "--data-dir"]).arg(data);
        let began = Instant::now();
        let log = File::create(log_of(data))?;
        let mut process = Process::start_with(&mut serve, Stdio::null(), Stdio::from(log))?;
        let is_ready = || ask(address, "GET", "/readyz", "").is_ok_and(|(status, _)| status == 200);
        process.until_ready(READY_WITHIN, &work.interrupt, is_ready)?;
        let took = began.elapsed().as_secs_f64();
        Ok((Self { process, address }, took))
    }

    /// A metric without labels.
    ///
    /// # Errors
    /// There is none of that name.
    pub(super) fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let page = metrics_page(self.address)?;
        Ok(metric(&page, name)? as u64)
    }

    /// Looks at a metric every 5 ms until it is as it should be.
    ///
    /// # Errors
    /// That takes too long, or a signal came.
    pub(super) fn until(
        &self,
        name: &str,
        interrupt: &Interrupt,
        is_right: impl Fn(u64) -> bool,
    ) -> anyhow::Result<()> {
        let by = Instant::now() + FLUSH_WITHIN;
        while !is_right(self.metric(name)?) {
            interrupt.check()?;
            ensure!(Instant::now() < by, "{name} wasn't as it should be within {} s", FLUSH_WITHIN.as_secs());
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Its resident memory in bytes, once that is steady.
    ///
    /// # Errors
    /// A signal came.
    pub(super) fn steady_memory(&self, interrupt: &Interrupt) -> Result<u64, Interrupted> {
        proc::steady_memory(&[self.process.pid()], interrupt)
    }

    /// As a user would: it flushes what is pending.
    ///
    /// # Errors
    /// It doesn't stop well, or a signal came.
    pub(super) fn stop(self, interrupt: &Interrupt) -> anyhow::Result<()> {
        self.process.stop(STOP_WITHIN * 2, interrupt)
    }
}
