//! What an operator may set.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How a worker talks to the kernel about its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventLoop {
    /// io_uring where the system lets us, epoll elsewhere.
    #[default]
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// epoll.
    Epoll,
}

impl fmt::Display for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

impl FromStr for EventLoop {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "io_uring" => Ok(Self::IoUring),
            "epoll" => Ok(Self::Epoll),
            _ => Err(format!("{text:?} is none of auto, io_uring and epoll")),
        }
    }
}

/// Limits of the front door. [`Options::default`] is what a server should run with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The longest body of `POST /increment`, in bytes. A longer one is refused with 413.
    pub increment_max_bytes: usize,
    /// The longest body of `POST /increments`, in bytes. A longer one is refused with 413.
    pub increments_max_bytes: usize,
    /// What the bodies that arrive in pieces may take together, in bytes, over all connections.
    /// Past it a request is refused with 503 and Retry-After.
    pub bodies_max_bytes: usize,
    /// The longest request line and header section, in bytes (431 past it). At least 8,192.
    pub header_max_bytes: usize,
    /// How long a header section may take from its first byte on (408 past it). Where that byte
    /// came together with the request before, it counts from the next one.
    pub head_timeout: Duration,
    /// How long a body may take from the end of the header section on (408 past it).
    pub body_timeout: Duration,
    /// How long a connection may stay open between requests; then it is closed.
    pub idle_timeout: Duration,
    /// How long a client may take no byte of an answer; then the connection is closed.
    pub write_timeout: Duration,
    /// How many connections may be open at once, over all workers. One more is answered 503 and
    /// closed.
    pub max_connections: usize,
    /// How a worker talks to the kernel.
    pub event_loop: EventLoop,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            increment_max_bytes: 1 << 20,
            increments_max_bytes: 16 << 20,
            bodies_max_bytes: 512 << 20,
            header_max_bytes: 16 << 10,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            max_connections: 20_000,
            event_loop: EventLoop::Auto,
        }
    }
}

/// How long a connection that the server closes is still read from, so that the client finds the
/// answer and not a reset.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

impl Options {
    /// How often deadlines are looked at: an eighth of the shortest, so that none is missed by
    /// much, and never so often that it costs.
    pub(crate) fn tick(&self) -> Duration {
        [self.head_timeout, self.body_timeout, self.idle_timeout, self.write_timeout, LINGER]
            .into_iter()
            .min()
            .map_or(LINGER, |shortest| shortest / 8)
            .clamp(Duration::from_millis(5), Duration::from_millis(250))
    }
}
