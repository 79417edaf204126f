//! A connection that keeps to no rules.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::support::PATIENCE;

/// Sends bytes as they are, and reads what comes.
pub(crate) struct Attacker {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Attacker {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a server that listens");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, read: Vec::new() }
    }

    /// So many connections.
    pub(crate) fn many(count: usize, address: SocketAddr) -> Vec<Self> {
        (0..count).map(|_| Self::connect(address)).collect()
    }

    /// Sends bytes; whether the server took them. One that has answered and closed takes no more.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Has no more to say, and listens.
    pub(crate) fn close_write(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next answer's status; `None` at the end of the connection.
    pub(crate) fn answer(&mut self) -> Option<u16> {
        loop {
            if let Some(status) = self.take_answer() {
                return Some(status);
            }
            let mut bytes = [0; 1 << 16];
            match self.stream.read(&mut bytes) {
                Ok(0) => break,
                Ok(length) => self.read.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("no answer and no end: {error}"),
            }
        }
        assert!(self.read.is_empty(), "half an answer: {:?}", String::from_utf8_lossy(&self.read));
        None
    }

    /// The statuses of all answers until the server closes.
    pub(crate) fn answers(&mut self) -> Vec<u16> {
        std::iter::from_fn(|| self.answer()).collect()
    }

    /// Whether anything has come to be read, or the end.
    pub(crate) fn has_news(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        !peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    fn take_answer(&mut self) -> Option<u16> {
        let end = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
        let head = str::from_utf8(&self.read[..end]).expect("a head in ASCII").to_ascii_lowercase();
        let status = head.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status: u16 = status.unwrap_or_else(|| panic!("no answer: {head:?}"));
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().expect("a length"));
        if self.read.len() < end + length {
            return None;
        }
        self.read.drain(..end + length);
        Some(status)
    }
}
