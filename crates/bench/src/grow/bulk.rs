//! Filling a server as a user would, by `POST /increments`.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::process::{Interrupt, ask};
use crate::run::once::metric;

/// Increments in a request.
const PER_REQUEST: u32 = 10_000;
const WARM_UP_REQUESTS: u32 = 10;
/// While so many keys wait for the store nothing is sent: what is measured afterwards is not to
/// carry the memory of a backlog.
const MOST_PENDING: f64 = 200_000.0;
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// The store may take so long for all that is pending.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Nothing is pending when two looks, so far apart, say so.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// One connection, for one request after the other.
pub(super) struct Bulk {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Bulk {
    /// # Errors
    /// The operating system's.
    pub(super) fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).context("can't connect to fill the server")?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_nodelay(true)?;
        Ok(Self { address, stream: BufReader::new(stream) })
    }

    /// Adds 1 to each of `key-1` to `key-N`, no faster than the store takes it, and waits until
    /// it has all. `progress` hears how many were sent.
    ///
    /// # Errors
    /// A request is refused, not all of it arrives, or a signal came.
    pub(super) fn fill(
        &mut self,
        keys: u32,
        interrupt: &Interrupt,
        progress: impl Fn(u32),
    ) -> anyhow::Result<()> {
        let mut from = 1;
        while from <= keys {
            let upto = keys.min(from.saturating_add(PER_REQUEST - 1));
            self.post(from..=upto, 1)?;
            progress(upto);
            while pending(self.address)? > MOST_PENDING {
                interrupt.check()?;
                std::thread::sleep(LOOK_EVERY);
            }
            interrupt.check()?;
            from = upto + 1;
        }
        settled(self.address, keys, interrupt)
    }

    /// Requests as large as those of a fill that make no counter: so a server shows what it takes
    /// beside counters.
    ///
    /// # Errors
    /// As of [`Bulk::fill`].
    pub(super) fn warm_up(&mut self, interrupt: &Interrupt) -> anyhow::Result<()> {
        for _ in 0..WARM_UP_REQUESTS {
            self.post(std::iter::repeat_n(1, PER_REQUEST as usize), 0)?;
            interrupt.check()?;
        }
        Ok(())
    }

    fn post(&mut self, numbers: impl Iterator<Item = u32>, value: u32) -> anyhow::Result<()> {
        let mut body = String::new();
        for number in numbers {
            let _ = writeln!(body, r#"{{"key":"key-{number}","value":{value}}}"#);
        }
        let head = format!(
            "POST /increments HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-ndjson\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        self.stream.get_mut().write_all((head + &body).as_bytes())?;
        let (status, said) = self.answer().context("a request of the fill got no answer")?;
        ensure!(status == 202, "a request of the fill was answered {status}: {}", said.trim());
        Ok(())
    }

    fn answer(&mut self) -> anyhow::Result<(u16, String)> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("not an answer of HTTP: {line:?}"))?;
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().context("a length that is no number")?;
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// Waits until the store has all that the server took, and the server so many counters.
///
/// # Errors
/// It takes too long, or a signal came.
pub(super) fn settled(address: SocketAddr, counters: u32, interrupt: &Interrupt) -> anyhow::Result<()> {
    let by = Instant::now() + SETTLED_WITHIN;
    let mut seen_at = None;
    loop {
        let page = page(address)?;
        let (pending, held) =
            (metric(&page, "incrementer_pending_updates")?, metric(&page, "incrementer_counters")?);
        match seen_at {
            _ if pending > 0.0 || held != f64::from(counters) => seen_at = None,
            Some(at) if Instant::now() >= at => return Ok(()),
            Some(_) => {}
            None => seen_at = Some(Instant::now() + LOOK_AGAIN_AFTER),
        }
        interrupt.check()?;
        ensure!(
            Instant::now() < by,
            "after {} s the server holds {held} counters instead of {counters}, and {pending} are pending",
            SETTLED_WITHIN.as_secs()
        );
        std::thread::sleep(LOOK_EVERY);
    }
}

fn pending(address: SocketAddr) -> anyhow::Result<f64> {
    metric(&page(address)?, "incrementer_pending_updates")
}

fn page(address: SocketAddr) -> anyhow::Result<String> {
    Ok(ask(address, "GET", "/metrics", "").context("the metrics can't be read")?.1)
}
