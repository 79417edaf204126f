//! A durable server of its own, in a directory of its own, with wrk before it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::load::{self, Plan, Shape};
use crate::process::{Interrupt, Process, ask, free_address};

/// The server's caches are warm after so long.
const WARM_UP: Duration = Duration::from_secs(2);
/// wrk's.
const THREADS: u32 = 16;
const START_WITHIN: Duration = Duration::from_secs(60);
/// More than `shutdown_timeout`.
const STOP_WITHIN: Duration = Duration::from_secs(20);

pub(super) struct UnderLoad {
    // Dropped in this order: load, server, directory.
    load: Process,
    server: Process,
    interrupt: Interrupt,
    seconds: u32,
    _directory: TempDir,
}

impl UnderLoad {
    /// Starts both and waits until the server is warm; the load lasts `seconds` from then on.
    pub(super) fn start(
        server: &Path,
        arguments: &[String],
        seconds: u32,
        connections: u32,
        keys: u32,
        interrupt: Interrupt,
    ) -> anyhow::Result<Self> {
        load::check_split(connections, THREADS)?;
        let directory = tempfile::tempdir_in("/var/tmp").context("can't make a directory in /var/tmp")?;
        let address = free_address()?;
        let mut command = Command::new(server);
        command.args(["serve", "--ack", "durable", "--listen", &address.to_string(), "--data-dir"]);
        command.arg(directory.path().join("data")).args(arguments);
        let mut server = Process::start(&mut command, Stdio::null())?;
        let is_ready = || ask(address, "GET", "/readyz", "").is_ok_and(|(status, _)| status == 200);
        server.until_ready(START_WITHIN, &interrupt, is_ready)?;
        let seconds = seconds + WARM_UP.as_secs() as u32 + 2;
        let (path, form, threads, seed, shape) = ("/increment", "json", THREADS, 1, Shape::SINGLE);
        let plan = Plan { address, path, form, connections, threads, seconds, keys, seed, shape };
        let load = Process::start(&mut plan.command(directory.path())?, Stdio::null())?;
        std::thread::sleep(WARM_UP);
        Ok(Self { load, server, interrupt, seconds, _directory: directory })
    }

    /// The server's process.
    pub(super) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Ends both in good order.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let within = Duration::from_secs(self.seconds.into()) + STOP_WITHIN;
        let status = self.load.wait(within, &self.interrupt, || ())?;
        ensure!(status.success(), "wrk failed: {status}");
        self.server.stop(STOP_WITHIN, &self.interrupt)
    }
}
