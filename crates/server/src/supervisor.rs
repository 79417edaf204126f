//! Watches over the threads of the process and over its signals, in one place.
//!
//! Every thread has a name and a policy for its end, and reports that end, whether it returned,
//! failed or panicked, over one channel. Signals come over the same channel, so that the main
//! thread has one thing to wait for.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Builder;
use std::time::Instant;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

/// What a thread's end means while nobody has asked for a stop. A failure or a panic is fatal
/// under either policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// The server can't do without it: its return is fatal too.
    Essential,
    /// It ends when its work is done.
    Passing,
}

/// How a thread ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It returned without an error.
    Returned,
    /// It returned an error; this is the whole chain of it.
    Failed(String),
    /// It panicked, with this message.
    Panicked(String),
}

/// The end of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The thread's name.
    pub(crate) thread: String,
    /// How it ended.
    pub(crate) outcome: Outcome,
    policy: Policy,
}

impl Ended {
    fn is_fatal(&self) -> bool {
        self.policy == Policy::Essential || self.went_wrong()
    }

    /// Whether it failed or panicked.
    pub(crate) fn went_wrong(&self) -> bool {
        self.outcome != Outcome::Returned
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thread = &self.thread;
        match &self.outcome {
            Outcome::Returned => write!(f, "the thread {thread} ended, though nobody asked it to"),
            Outcome::Failed(reason) => write!(f, "{thread}: {reason}"),
            Outcome::Panicked(message) => write!(f, "the thread {thread} panicked: {message}"),
        }
    }
}

/// Why the server is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// SIGINT or SIGTERM, by name: it is to stop in good order.
    Signal(&'static str),
    /// A thread ended that must not.
    Ended(Ended),
}

/// What became of the threads after a stop was asked for.
#[derive(Debug, Default)]
pub(crate) struct Stopped {
    /// Threads that failed or panicked on the way.
    pub(crate) failures: Vec<Ended>,
    /// Names of those that still ran at the deadline.
    pub(crate) running: Vec<String>,
}

enum Event {
    Signal(i32),
    Ended(Ended),
}

/// Starts threads and hears of their ends.
pub(crate) struct Supervisor {
    sender: Sender<Event>,
    events: Receiver<Event>,
    running: Vec<String>,
}

impl Supervisor {
    /// Takes over SIGINT and SIGTERM: the first asks for a stop (see [`wait`](Self::wait)); the
    /// next one, of either kind, ends the process at once with 128 + its number, whatever the
    /// process is busy with.
    ///
    /// # Errors
    /// Where the system refuses a signal handler or a thread.
    pub(crate) fn new() -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the handler that ends the process sees the flag as the previous
            // signal left it.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))?;
            flag::register(signal, Arc::clone(&asked))?;
        }
        Self::hearing(Signals::new([SIGINT, SIGTERM])?)
    }

    fn hearing(mut signals: Signals) -> io::Result<Self> {
        let (sender, events) = channel();
        let supervisor = Self { sender, events, running: Vec::new() };
        let sender = supervisor.sender.clone();
        // It ends with the process, so a stop doesn't wait for it.
        supervisor.begin("signals", Policy::Essential, move || {
            for signal in signals.forever() {
                // Fails only when nobody waits any more, in the last moment of the process.
                let _ = sender.send(Event::Signal(signal));
            }
            Ok(())
        })?;
        Ok(supervisor)
    }

    /// Runs `body` on a thread of that name (the system shows its first 15 bytes).
    ///
    /// # Errors
    /// Where the system refuses a thread.
    pub(crate) fn spawn(
        &mut self,
        name: &str,
        policy: Policy,
        body: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        self.begin(name, policy, body)?;
        self.running.push(name.to_owned());
        Ok(())
    }

    fn begin(
        &self,
        name: &str,
        policy: Policy,
        body: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let thread = name.to_owned();
        let sender = self.sender.clone();
        Builder::new().name(thread.clone()).spawn(move || {
            // Nothing of what the body held is looked at after a panic.
            let outcome = match catch_unwind(AssertUnwindSafe(body)) {
                Ok(Ok(())) => Outcome::Returned,
                Ok(Err(error)) => Outcome::Failed(format!("{error:#}")),
                Err(payload) => Outcome::Panicked(message_of(payload.as_ref())),
            };
            let _ = sender.send(Event::Ended(Ended { thread, outcome, policy }));
        })?;
        Ok(())
    }

    /// Waits until there is a reason to end.
    pub(crate) fn wait(&mut self) -> Reason {
        loop {
            match self.events.recv() {
                Ok(Event::Signal(SIGINT)) => return Reason::Signal("SIGINT"),
                Ok(Event::Signal(_)) => return Reason::Signal("SIGTERM"),
                Ok(Event::Ended(ended)) => {
                    self.forget(&ended);
                    if ended.is_fatal() {
                        return Reason::Ended(ended);
                    }
                    tracing::debug!(thread = ended.thread, "a thread ended");
                }
                // Can't be: `self.sender` lives.
                Err(_) => return Reason::Signal("none"),
            }
        }
    }

    /// Waits until every thread has ended, or until `deadline`. To be called once all have been
    /// asked to stop.
    pub(crate) fn join(mut self, deadline: Instant) -> Stopped {
        let mut stopped = Stopped::default();
        while !self.running.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(Event::Ended(ended)) => {
                    self.forget(&ended);
                    if ended.went_wrong() {
                        stopped.failures.push(ended);
                    }
                }
                // It was asked for already.
                Ok(Event::Signal(_)) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        stopped.running = self.running;
        stopped
    }

    fn forget(&mut self, ended: &Ended) {
        if let Some(at) = self.running.iter().position(|name| *name == ended.thread) {
            self.running.swap_remove(at);
        }
    }
}

/// Makes a panic of any thread a log line, with the place where it happened.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let location = panic.location().map(ToString::to_string);
        let backtrace = std::backtrace::Backtrace::capture();
        let captured = backtrace.status() == std::backtrace::BacktraceStatus::Captured;
        tracing::error!(
            thread = thread.name(),
            location,
            backtrace = captured.then(|| tracing::field::display(&backtrace)),
            "a thread panicked: {}",
            message_of(panic.payload())
        );
    }));
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests;
