//! Processes of an experiment: each in a group of its own, and none outlives its value.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(1);
/// Where it is measured how long something takes.
const LOOK_CLOSELY: Duration = Duration::from_millis(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// SIGINT or SIGTERM came. What waits looks here, and ends in good order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

/// Told by whatever was cut short by a signal.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

impl Interrupt {
    /// From now on those signals don't end the process.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn on_signals() -> std::io::Result<Self> {
        let interrupt = Self::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupt.0))?;
        }
        Ok(interrupt)
    }

    /// # Errors
    /// A signal came.
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        if self.0.load(Ordering::Relaxed) { Err(Interrupted) } else { Ok(()) }
    }
}

/// Killed with its whole group when dropped, whatever happens.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, and been waited for.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Process {
    /// Starts a command whose standard input and error lead nowhere.
    ///
    /// # Errors
    /// It can't be started.
    pub(crate) fn start(command: &mut Command, stdout: Stdio) -> anyhow::Result<Self> {
        Self::start_with(command, stdout, Stdio::null())
    }

    /// The same, with its standard error.
    ///
    /// # Errors
    /// It can't be started.
    pub(crate) fn start_with(command: &mut Command, stdout: Stdio, stderr: Stdio) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.process_group(0).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = command.spawn().with_context(|| format!("can't start {name}"))?;
        Ok(Self { child, name })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for it, and calls `meanwhile` every 20 ms.
    ///
    /// # Errors
    /// It doesn't end in time, or a signal came.
    pub(crate) fn wait(
        &mut self,
        within: Duration,
        interrupt: &Interrupt,
        meanwhile: impl FnMut(),
    ) -> anyhow::Result<ExitStatus> {
        self.wait_looking(LOOK_EVERY, within, interrupt, meanwhile)
    }

    /// Waits for it, and notices its end within 5 ms.
    ///
    /// # Errors
    /// It doesn't end in time, or a signal came.
    pub(crate) fn wait_closely(
        &mut self,
        within: Duration,
        interrupt: &Interrupt,
    ) -> anyhow::Result<ExitStatus> {
        self.wait_looking(LOOK_CLOSELY, within, interrupt, || ())
    }

    fn wait_looking(
        &mut self,
        every: Duration,
        within: Duration,
        interrupt: &Interrupt,
        mut meanwhile: impl FnMut(),
    ) -> anyhow::Result<ExitStatus> {
        let by = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            interrupt.check()?;
            ensure!(Instant::now() < by, "{} didn't end within {} s", self.name, within.as_secs());
            meanwhile();
            std::thread::sleep(every);
        }
    }

    /// Asks it to end, by SIGTERM, and waits until it has done so well.
    ///
    /// # Errors
    /// It ended before, or fails, or doesn't end in time; or a signal came.
    pub(crate) fn stop(mut self, within: Duration, interrupt: &Interrupt) -> anyhow::Result<()> {
        let name = self.name.clone();
        if let Some(status) = self.child.try_wait()? {
            bail!("{name} ended before it was asked to: {status}");
        }
        kill_process(Pid::from_child(&self.child), Signal::TERM)
            .with_context(|| format!("{name} can't be stopped"))?;
        let status = self.wait(within, interrupt, || ())?;
        ensure!(status.success(), "{name} failed: {status}");
        Ok(())
    }

    /// Waits until `ready` says so, and asks it every 5 ms.
    ///
    /// # Errors
    /// It ends, or isn't ready in time, or a signal came.
    pub(crate) fn until_ready(
        &mut self,
        within: Duration,
        interrupt: &Interrupt,
        ready: impl Fn() -> bool,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended before it was ready: {status}", self.name);
            }
            interrupt.check()?;
            let so_far = began.elapsed();
            ensure!(so_far < within, "{} wasn't ready within {} s", self.name, within.as_secs());
            // How long it takes is measured by some: to a fiftieth, or a millisecond, or 5 ms.
            std::thread::sleep((so_far / 50).clamp(LOOK_AT_MOST_EVERY, LOOK_CLOSELY));
        }
        Ok(())
    }
}

/// Somebody else may take it before a server does; then the server says so and ends.
///
/// # Errors
/// No port is free.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port is free")?;
    Ok(listener.local_addr()?)
}

/// One request on a connection of its own. Returns status and body.
///
/// # Errors
/// The operating system's, or what comes is no answer.
pub(crate) fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    let no_answer = || std::io::Error::other("not an answer of HTTP");
    Ok((status.ok_or_else(no_answer)?, body.ok_or_else(no_answer)?))
}
