//! A blocking HTTP/1.1 client on one connection.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::PATIENCE;

/// One connection, kept alive.
pub struct Client {
    stream: BufReader<TcpStream>,
    out: Vec<u8>,
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// A key and its total, as answers give them.
pub type Counter = (String, i64);

impl Client {
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream), out: Vec::new() })
    }

    /// From now on an answer is waited for no longer than this.
    pub fn set_patience(&mut self, patience: Duration) -> Result<()> {
        self.stream.get_ref().set_read_timeout(Some(patience))
    }

    /// One request and its answer. `lines` are header lines, such as `"Prefer: respond-async"`.
    pub fn ask(&mut self, request: &str, lines: &[&str], body: &str) -> Result<Answer> {
        self.queue(request, lines, body);
        self.send()?;
        self.receive()
    }

    /// Puts a request behind those that [`send`](Self::send) will send at once.
    pub fn queue(&mut self, request: &str, lines: &[&str], body: &str) {
        let out = &mut self.out;
        out.extend_from_slice(request.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\nHost: test\r\n");
        for line in lines {
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        // A GET has no body to announce.
        if !request.starts_with("GET") {
            out.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body.as_bytes());
    }

    /// Sends what is queued.
    pub fn send(&mut self) -> Result<()> {
        let sent = self.stream.get_mut().write_all(&self.out);
        self.out.clear();
        sent
    }

    /// Reads one answer.
    pub fn receive(&mut self) -> Result<Answer> {
        let first = self.line()?;
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| Error::new(ErrorKind::InvalidData, format!("{first:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().expect("a length"))];
        self.stream.read_exact(&mut body)?;
        Ok(Answer { status, headers, body: String::from_utf8(body).expect("UTF-8") })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(whole) => Ok(whole.to_owned()),
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// `POST /increment`.
    pub fn increment(&mut self, key: &str, value: i64) -> Result<Answer> {
        self.queue_increment(key, value);
        self.send()?;
        self.receive()
    }

    /// Queues a `POST /increment`.
    pub fn queue_increment(&mut self, key: &str, value: i64) {
        self.queue("POST /increment", &[JSON], &json!({ "key": key, "value": value }).to_string());
    }

    /// `POST /increment` with an `Idempotency-Key`.
    pub fn increment_once(&mut self, id: &str, key: &str, value: i64) -> Result<Answer> {
        self.queue_increment_once(id, key, value);
        self.send()?;
        self.receive()
    }

    /// Queues a `POST /increment` with an `Idempotency-Key`.
    pub fn queue_increment_once(&mut self, id: &str, key: &str, value: i64) {
        let body = json!({ "key": key, "value": value }).to_string();
        self.queue("POST /increment", &[JSON, &format!("Idempotency-Key: \"{id}\"")], &body);
    }

    /// `POST /increments` with a JSON array.
    pub fn increments<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, i64)>) -> Result<Answer> {
        let entries = entries.into_iter().map(|(key, value)| json!({ "key": key, "value": value }));
        self.ask("POST /increments", &[JSON], &Value::from_iter(entries).to_string())
    }

    /// `POST /increments` with an increment on each line.
    pub fn increment_lines<'a>(
        &mut self,
        entries: impl IntoIterator<Item = (&'a str, i64)>,
    ) -> Result<Answer> {
        let lines =
            entries.into_iter().map(|(key, value)| format!("{}\n", json!({"key": key, "value": value})));
        self.ask("POST /increments", &["Content-Type: application/x-ndjson"], &String::from_iter(lines))
    }

    /// A GET.
    pub fn get(&mut self, target: &str) -> Result<Answer> {
        self.ask(&format!("GET {target}"), &[], "")
    }
}

const JSON: &str = "Content-Type: application/json";

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The answer, which must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}
