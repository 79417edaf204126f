//! A client that sends bytes as they are, and reads answers strictly.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// No test waits longer than that for the server; it is a limit, never a pause.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Client {
    reader: BufReader<TcpStream>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub version: String,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A POST with a Content-Length.
pub fn post(target: &str, media_type: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    post_with(target, &format!("content-type: {media_type}\r\n"), body)
}

/// A POST with a Content-Length and more header lines.
pub fn post_with(target: &str, lines: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len();
    let mut request =
        format!("POST {target} HTTP/1.1\r\nhost: a\r\n{lines}content-length: {length}\r\n\r\n").into_bytes();
    request.extend_from_slice(body);
    request
}

/// The head of a POST with chunks, and what is given as its body, chunk sizes included.
pub fn chunked(lines: &str, body: &str) -> String {
    format!(
        "POST /increment HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n{lines}transfer-encoding: chunked\r\n\r\n{body}"
    )
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a server that listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Self { reader: BufReader::new(stream) }
    }

    /// Sends bytes. A server that has closed already is no failure here: what it said counts.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.reader.get_mut().write_all(bytes.as_ref());
    }

    /// Sends bytes; whether the server still takes them.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.reader.get_mut().write_all(bytes).is_ok()
    }

    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Reply {
        let request = request.as_ref();
        self.send(request);
        self.receive(request.starts_with(b"HEAD "))
    }

    /// Reads one answer; that to a HEAD has no body.
    pub fn receive(&mut self, to_head: bool) -> Reply {
        let first = self.line();
        let (version, rest) = first.split_once(' ').unwrap_or_else(|| panic!("no status line: {first:?}"));
        let status: u16 = rest[..3].parse().expect("a status");
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").expect("a header line");
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let mut reply = Reply { version: version.to_owned(), status, headers, body: Vec::new() };
        if status >= 200 && !to_head {
            let length = reply.header("content-length").expect("a content-length").parse().expect("digits");
            reply.body = vec![0; length];
            self.reader.read_exact(&mut reply.body).expect("a body");
        }
        reply
    }

    /// Whether the server closes the connection, without another byte.
    pub fn is_closed(&mut self) -> bool {
        match self.reader.read(&mut [0]) {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// Whether nothing has come that wasn't received.
    pub fn has_nothing(&mut self) -> bool {
        self.reader.get_ref().set_nonblocking(true).expect("a socket");
        let nothing = self.reader.fill_buf().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        self.reader.get_ref().set_nonblocking(false).expect("a socket");
        nothing
    }

    pub fn peer(&self) -> SocketAddr {
        self.reader.get_ref().peer_addr().expect("a connection")
    }

    /// Everything until the server closes.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.reader.read_to_end(&mut bytes).expect("the end of the stream");
        bytes
    }

    /// What one read gives.
    pub fn one_read(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 16];
        let length = self.reader.get_mut().read(&mut bytes).expect("bytes");
        bytes.truncate(length);
        bytes
    }

    pub fn close_write(&mut self) {
        self.reader.get_mut().shutdown(Shutdown::Write).expect("a socket");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line");
        assert!(line.ends_with("\r\n"), "the answer broke off: {line:?}");
        line.truncate(line.len() - 2);
        line
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} is there twice");
        value
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }

    /// Checks that it is a problem with this status, and gives its code.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?} {}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()));
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{problem}");
        if matches!(status, 429 | 503) {
            assert!(self.header("retry-after").is_some_and(|after| after.parse::<u32>().is_ok()));
        }
        problem["code"].as_str().expect("a code").to_owned()
    }

    /// Checks that it is 202 with nothing in it.
    pub fn accepted(&self) {
        assert_eq!(self.status, 202, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-length"), Some("0"));
        assert_eq!(self.header("content-type"), None);
        assert!(self.header("date").is_some());
    }
}
