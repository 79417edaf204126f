//! Stands between a server and its database, and breaks the connection.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use store::testing::ThrowawayPostgres;

/// Where to break a connection that writes.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// So many bytes of the server's later.
    AfterRequestBytes(u64),
    /// So many bytes of the database's later.
    AfterAnswerBytes(u64),
    /// When the database says that it has committed; the server never reads it.
    BeforeAnswerToCommit,
    /// Then nothing more comes from the database, and the connection stays open.
    SilenceFromCommit,
}

/// Where a server connects to instead of its database.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    next: Mutex<Option<Cut>>,
    /// How many answers to commits never arrived.
    lost: AtomicU64,
    lines: Mutex<Vec<Arc<Line>>>,
}

impl Proxy {
    /// Its threads end with the process.
    pub fn start(database: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let proxy = Self { address, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for client in listener.incoming().map(Result::unwrap) {
                let Ok(server) = TcpStream::connect(database) else { continue };
                let line = Arc::new(Line { client, server, shared: Arc::clone(&shared) });
                shared.lines.lock().unwrap().push(Arc::clone(&line));
                let there = Arc::clone(&line);
                std::thread::spawn(move || {
                    there.carry_requests();
                    there.shared.lines.lock().unwrap().retain(|line| !Arc::ptr_eq(line, &there));
                });
                std::thread::spawn(move || line.carry_answers());
            }
        });
        proxy
    }

    /// Before this server.
    pub fn before(postgres: &ThrowawayPostgres) -> Self {
        Self::start(postgres.url("").split(['@', '/']).nth(3).unwrap().parse().unwrap())
    }

    /// The URL of a database behind it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}?sslmode=disable", self.address)
    }

    /// Breaks the next connection that gets so far.
    pub fn cut(&self, how: Cut) {
        *self.shared.next.lock().unwrap() = Some(how);
    }

    /// Whether that has happened.
    pub fn has_cut(&self) -> bool {
        self.shared.next.lock().unwrap().is_none()
    }

    /// Takes a [`cut`](Self::cut) back that has not happened.
    pub fn let_pass(&self) {
        *self.shared.next.lock().unwrap() = None;
    }

    /// Breaks all connections that are open.
    pub fn cut_all(&self) {
        let lines = std::mem::take(&mut *self.shared.lines.lock().unwrap());
        lines.iter().for_each(|line| line.close());
    }

    /// How many answers to commits never arrived.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Relaxed)
    }
}

/// One connection through the proxy.
struct Line {
    client: TcpStream,
    server: TcpStream,
    shared: Arc<Shared>,
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
            if messages.read(&bytes[..count])
                && let Some(silent) = self.loses_the_answer()
            {
                if !silent {
                    self.close();
                }
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

    /// Where the answer to a commit is to be lost: whether in silence.
    fn loses_the_answer(&self) -> Option<bool> {
        let mut next = self.shared.next.lock().unwrap();
        let silent = match *next {
            Some(Cut::BeforeAnswerToCommit) => false,
            Some(Cut::SilenceFromCommit) => true,
            _ => return None,
        };
        *next = None;
        self.shared.lost.fetch_add(1, Relaxed);
        Some(silent)
    }

    /// How many of `count` bytes may pass, and whether the connection ends after them. `left`
    /// tells how many may still pass where a cut is for this direction.
    fn allowed(&self, count: usize, left: impl Fn(Cut) -> Option<u64>) -> (usize, bool) {
        let mut next = self.shared.next.lock().unwrap();
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
