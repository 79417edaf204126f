//! The baselines, as the binary serves them.
#![allow(clippy::unwrap_used, reason = "what a test can't get fails it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use store::testing::ThrowawayPostgres;

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

/// Starts a baseline; returns its address too.
fn serve(arguments: &[&str]) -> (Server, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incrementer-bench"));
    command.arg("serve").args(arguments).args(["--listen", "127.0.0.1:0"]);
    let mut server = Server(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening on ").unwrap().to_owned();
    (server, address)
}

#[test]
fn noop_parses_what_it_does_not_count() {
    let (_server, address) = serve(&["noop"]);
    assert_eq!(post(&address, r#"{"key": "a", "value": 1}"#), "HTTP/1.1 202 Accepted");
    assert_eq!(post(&address, r#"{"key": "a"}"#), "HTTP/1.1 422 Unprocessable Entity");
}

#[test]
fn sync_writes_back_before_it_answers_and_loses_nothing_between_clients() {
    const CLIENTS: i64 = 8;
    const EACH: i64 = 25;
    let postgres = ThrowawayPostgres::start();
    let url = postgres.url("experiment base");
    // Fewer connections than clients: some have to wait for one.
    let (_server, address) = serve(&["sync", "--store", &url.replace(' ', "%20"), "--pool", "3"]);
    std::thread::scope(|scope| {
        for client in 1..=CLIENTS {
            let address = &address;
            scope.spawn(move || {
                for _ in 0..EACH {
                    let body = format!(r#"{{"key": "same", "value": {client}}}"#);
                    assert_eq!(post(address, &body), "HTTP/1.1 202 Accepted");
                }
            });
        }
    });
    let sum = || postgres.sql("experiment base", "SELECT key, value FROM sync_counters ORDER BY key");
    let total = EACH * CLIENTS * (CLIENTS + 1) / 2;
    assert_eq!(sum(), format!("same|{total}"));
    // Past 64 bits: refused, and the connection is good for another.
    let body = format!(r#"{{"key": "same", "value": {}}}"#, i64::MAX);
    assert!(post(&address, &body).starts_with("HTTP/1.1 4"));
    assert_eq!(post(&address, r#"{"key": "other", "value": -4}"#), "HTTP/1.1 202 Accepted");
    assert_eq!(sum(), format!("other|-4\nsame|{total}"));
}
