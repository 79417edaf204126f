//! The baselines, as the binary serves them.
#![allow(clippy::unwrap_used, reason = "what a test can't get fails it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// Killed with the value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn post(address: &str, body: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        connection,
        "POST /increment HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn noop_parses_what_it_does_not_count() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incrementer-bench"));
    command.args(["serve", "noop", "--listen", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut server = Server(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening on ").unwrap();
    assert_eq!(post(address, r#"{"key": "a", "value": 1}"#), "HTTP/1.1 202 Accepted");
    assert_eq!(post(address, r#"{"key": "a"}"#), "HTTP/1.1 422 Unprocessable Entity");
}
