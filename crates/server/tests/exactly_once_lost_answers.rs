//! The connection to PostgreSQL breaks at any byte, the answer to a commit gets lost: the server
//! asks for the watermark, and never guesses.

#![allow(clippy::unwrap_used, reason = "what a test can't get fails it")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use store::testing::ThrowawayPostgres;
use support::{Database, Home, Load, seed, until};

#[test]
fn lost_answers_to_sums() {
    lost_answers(None, |seed| Load::start(seed, 3, 300));
}

#[test]
fn lost_answers_to_idempotent_requests() {
    lost_answers(None, |seed| Load::start(seed, 1, 300).with_retries(seed, 4, 40));
}

#[test]
fn lost_answers_to_batches_of_which_a_part_is_set_aside() {
    lost_answers(Some("key-7"), |seed| Load::start(seed, 3, 50).with_retries(seed, 1, 40));
}

/// The database refuses the key `bad`, if there is one.
fn lost_answers(bad: Option<&str>, load: impl Fn(u64) -> Load) {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let postgres = ThrowawayPostgres::start();
    let direct: SocketAddr = postgres.url("").split(['@', '/']).nth(3).unwrap().parse().unwrap();
    let proxy = Proxy::start(direct);
    let url = format!("postgres://postgres@{}/totals?sslmode=disable", proxy.address);
    let home = Home::new(Some(&url)).set("flush.interval", "3ms");
    let server = home.start();
    let database = Database::Postgres(&postgres, "totals");
    if let Some(bad) = bad {
        database.execute(&format!("ALTER TABLE counters ADD CHECK (key <> '{bad}')"));
    }
    let load = load(seed);
    load.open(&server);
    for _ in 0..30 {
        let flushed = server.metric("incrementer_flushes_total");
        proxy.cut(match rng.u8(..6) {
            0 => Cut::AfterRequestBytes(rng.u64(..8_000)),
            1 => Cut::AfterAnswerBytes(rng.u64(..4_000)),
            _ => Cut::BeforeAnswerToCommit,
        });
        until("the connection has been cut", || proxy.next.lock().unwrap().is_none().then_some(()));
        // The next one hits a connection that works again.
        until("something is flushed", || {
            (server.metric("incrementer_flushes_total") > flushed + 1.0).then_some(())
        });
    }
    let ledger = load.stop();
    until("all is flushed", || (server.metric("incrementer_pending_updates") == 0.0).then_some(()));
    let mut totals = database.totals();
    for (key, value, _) in database.set_aside() {
        assert_eq!(Some(key.as_str()), bad);
        *totals.entry(key).or_default() += value.parse::<i64>().unwrap();
    }
    ledger.check(&totals);
    assert!(ledger.unanswered.is_empty(), "not every request was answered");
    assert_eq!(server.metric("incrementer_set_aside_total"), database.set_aside().len() as f64);
    // Memory agrees, though it has not heard every answer.
    for (key, total) in server.pages(1000) {
        assert_eq!(ledger.acknowledged.get(&key), Some(&total), "{key}");
    }
    let lost = proxy.lost.load(Relaxed);
    assert!(lost > 5, "only {lost} answers to commits were lost");
    server.stop();
}

/// Where to break a connection that writes.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// So many bytes of the server's later.
    AfterRequestBytes(u64),
    /// So many bytes of the database's later.
    AfterAnswerBytes(u64),
    /// When the database says that it has committed; the server never reads it.
    BeforeAnswerToCommit,
}

/// Stands between a server and its database.
struct Proxy {
    address: SocketAddr,
    next: Arc<Mutex<Option<Cut>>>,
    /// How many answers to commits never arrived.
    lost: Arc<AtomicU64>,
}

impl Proxy {
    /// Its threads end with the process.
    fn start(database: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (next, lost) = (Arc::new(Mutex::new(None)), Arc::new(AtomicU64::new(0)));
        let proxy = Self { address, next: Arc::clone(&next), lost: Arc::clone(&lost) };
        std::thread::spawn(move || {
            for client in listener.incoming().map(Result::unwrap) {
                let Ok(server) = TcpStream::connect(database) else { continue };
                let line = Line { client, server, next: Arc::clone(&next), lost: Arc::clone(&lost) };
                let line = Arc::new(line);
                let there = Arc::clone(&line);
                std::thread::spawn(move || there.carry_requests());
                std::thread::spawn(move || line.carry_answers());
            }
        });
        proxy
    }

    fn cut(&self, how: Cut) {
        *self.next.lock().unwrap() = Some(how);
    }
}

/// One connection through the proxy.
struct Line {
    client: TcpStream,
    server: TcpStream,
    next: Arc<Mutex<Option<Cut>>>,
    lost: Arc<AtomicU64>,
}

impl Line {
    fn carry_requests(&self) {
        let mut bytes = [0; 16 << 10];
        while let Ok(count @ 1..) = (&self.client).read(&mut bytes) {
            let (allowed, cut) = self.allowed(count, |cut| match cut {
                Cut::AfterRequestBytes(left) => Some(left),
                _ => None,
            });
            if (&self.server).write_all(&bytes[..allowed]).is_err() || cut {
                break;
            }
        }
        self.close();
    }

    fn carry_answers(&self) {
        let mut bytes = [0; 16 << 10];
        let mut messages = Messages::default();
        while let Ok(count @ 1..) = (&self.server).read(&mut bytes) {
            let committed = messages.read(&bytes[..count]);
            if committed && matches!(*self.next.lock().unwrap(), Some(Cut::BeforeAnswerToCommit)) {
                self.lost.fetch_add(1, Relaxed);
                self.close();
                *self.next.lock().unwrap() = None;
                return;
            }
            let (allowed, cut) = self.allowed(count, |cut| match cut {
                Cut::AfterAnswerBytes(left) => Some(left),
                _ => None,
            });
            if (&self.client).write_all(&bytes[..allowed]).is_err() || cut {
                break;
            }
        }
        self.close();
    }

    /// How many of `count` bytes may pass, and whether the connection ends after them. `left`
    /// tells how many may still pass where a cut is for this direction.
    fn allowed(&self, count: usize, left: impl Fn(Cut) -> Option<u64>) -> (usize, bool) {
        let mut next = self.next.lock().unwrap();
        let Some((cut, left)) = next.and_then(|cut| Some((cut, left(cut)?))) else {
            return (count, false);
        };
        if left <= count as u64 {
            *next = None;
            return (left as usize, true);
        }
        *next = Some(match cut {
            Cut::AfterRequestBytes(_) => Cut::AfterRequestBytes(left - count as u64),
            _ => Cut::AfterAnswerBytes(left - count as u64),
        });
        (count, false)
    }

    fn close(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

/// Follows the messages of the database: a letter, a length that counts itself, content.
#[derive(Default)]
struct Messages {
    seen: Vec<u8>,
    /// A statement that wrote has been completed; it is committed when the next message that
    /// ends a round, `ReadyForQuery`, says that no transaction is open.
    wrote: bool,
}

impl Messages {
    /// Whether these bytes bring the end of a transaction that has been committed and wrote.
    fn read(&mut self, bytes: &[u8]) -> bool {
        self.seen.extend_from_slice(bytes);
        let mut committed = false;
        let mut start = 0;
        while let Some(&[kind, a, b, c, d]) = self.seen.get(start..).and_then(<[u8]>::first_chunk) {
            let end = start + 1 + u32::from_be_bytes([a, b, c, d]) as usize;
            let Some(content) = self.seen.get(start + 5..end) else { break };
            match kind {
                b'C' => self.wrote |= content.starts_with(b"INSERT ") || content.starts_with(b"COMMIT"),
                b'Z' if content == b"I" => committed |= std::mem::take(&mut self.wrote),
                _ => {}
            }
            start = end;
        }
        self.seen.drain(..start);
        committed
    }
}
