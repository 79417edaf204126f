//! The binary as its user meets it: exit codes, messages, signals.

#![allow(clippy::unwrap_used, reason = "what a test can't get fails it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// In a directory of its own, without any setting from outside.
fn incrementer(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incrementer"));
    let ours = |name: &String| name.starts_with("INCREMENTER_") || name == "DATABASE_URL";
    for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    command.current_dir(dir).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    outcome(incrementer(dir.path()).args(arguments))
}

fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A server that runs.
struct Server {
    process: Child,
    log: BufReader<ChildStderr>,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        Self { process, log }
    }

    /// The next line of its log that contains `part`.
    fn line_with(&mut self, part: &str) -> String {
        let mut log = String::new();
        loop {
            let start = log.len();
            assert!(self.log.read_line(&mut log).unwrap() > 0, "no {part:?} in\n{log}");
            if log[start..].contains(part) {
                return log[start..].trim_end().to_owned();
            }
        }
    }

    /// Waits until it takes increments; where it listens.
    fn ready(&mut self) -> String {
        let line = self.line_with("listening on ");
        let (_, rest) = line.split_once("listening on ").unwrap();
        let (address, _) = rest.split_once(',').unwrap();
        self.line_with("ready: ");
        // The line announces what the next moment brings; this is what tells.
        while !ask(address, "GET /readyz", "").starts_with("HTTP/1.1 200 ") {
            std::thread::yield_now();
        }
        address.to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Sends a signal, and waits for the end: exit code and the rest of the log.
    fn end_by(mut self, signal: Signal) -> (Option<i32>, String) {
        self.signal(signal);
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (self.process.wait().unwrap().code(), log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails where it has ended, which is well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn help_and_version_go_to_stdout_and_are_no_failure() {
    let (code, out, err) = run(&["--help"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("Examples:") && out.contains("curl"), "{out}");
    let (code, out, _) = run(&["serve", "--help"]);
    assert!(code == Some(0) && out.contains("--flush-max-updates"), "{out}");
    assert_eq!(run(&["--version"]).1, concat!("incrementer ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_right() {
    for (arguments, part) in [
        (&[][..], "Usage: incrementer"),
        (&["journal"], "inspect"),
        (&["sevre"], "serve"),
        (&["serve", "--lisen", "127.0.0.1:1"], "--listen"),
        (&["serve", "--listen", "localhost:1"], "error: --listen: \"localhost:1\" is no IP address"),
        (&["serve", "--config", "nowhere.toml"], "error: --config: \"nowhere.toml\" can't be read"),
    ] {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(err.contains(part), "{arguments:?}: {err}");
    }
}

#[test]
fn wrong_variables_and_files_end_with_2_and_every_mistake_is_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("it.toml"), "ack = \"maybe\"\n").unwrap();
    let mut command = incrementer(dir.path());
    command.args(["serve"]).env("INCREMENTER_CONFIG", "it.toml").env("INCREMENTER_FLUSH_INTERVALL", "5s");
    let (code, _, err) = outcome(&mut command);
    assert_eq!(code, Some(2));
    assert_eq!(
        err,
        "error: INCREMENTER_FLUSH_INTERVALL: there is no such variable; \
        did you mean INCREMENTER_FLUSH_INTERVAL?\n\
        error: it.toml line 1, ack: \"maybe\" is neither durable nor memory\n"
    );
}

#[test]
fn no_password_is_ever_printed() {
    let dir = tempfile::tempdir().unwrap();
    let url = "postgres://u:geheim@h/db";
    std::fs::write(dir.path().join("broken.toml"), format!("store = \"{url}\nack = 1")).unwrap();
    for arguments in [
        &["serve", "--print-config", "--store", url][..],
        &["serve", url],
        &["serve", "--stroe", url],
        &[&format!("--store={url}")],
        &["serve", "--store", "postgres:/u:geheim@h"],
        &["serve", "--config", "broken.toml"],
    ] {
        let (_, out, err) = outcome(incrementer(dir.path()).args(arguments));
        assert!(!out.contains("geheim") && !err.contains("geheim"), "{arguments:?}: {out}{err}");
    }
}

#[test]
fn print_config_prints_what_config_takes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = incrementer(dir.path());
    command.args(["serve", "--print-config", "--flush-interval", "2s"]).env("INCREMENTER_ACK", "memory");
    let (code, first, _) = outcome(&mut command);
    assert_eq!(code, Some(0));
    assert!(first.contains("interval = \"2s\" # --flush-interval\n"), "{first}");
    assert!(first.contains("ack = \"memory\" # INCREMENTER_ACK\n"), "{first}");

    std::fs::write(dir.path().join("it.toml"), &first).unwrap();
    let (_, second, _) =
        outcome(incrementer(dir.path()).args(["serve", "--print-config", "--config", "it.toml"]));
    let values = |text: &str| {
        text.lines().map(|line| line.split(" # ").next().unwrap_or("").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(values(&first)[1..], values(&second)[1..]);
}

#[test]
fn it_says_how_to_send_an_increment_and_stops_when_asked() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Server::start(incrementer(dir.path()).args(["serve", "--listen", "0.0.0.0:0"]));
        let line = server.line_with("listening on ");
        assert!(line.ends_with(", store sqlite:data/incrementer.db, ack durable"), "{line}");
        let (_, rest) = line.split_once("listening on 0.0.0.0:").unwrap();
        let (port, _) = rest.split_once(',').unwrap();
        assert!(server.line_with("curl").ends_with(&format!("http://127.0.0.1:{port}/increment")));
        let (code, log) = server.end_by(signal);
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("stopping") && log.contains("stopped"), "{log}");
    }
}

/// Everybody waits for the writer, so it asks for short turns. What it inherited is kept.
#[test]
fn the_writers_thread_has_its_turn_soon_after_it_wakes() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let version: Vec<u32> = release.split(['.', '-']).map_while(|part| part.parse().ok()).collect();
    if version < vec![6, 12] {
        eprintln!("Linux {release} takes no wish for the length of turns, so there is nothing to see");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut nicer = Command::new("nice");
    nicer.args(["-n", "3", env!("CARGO_BIN_EXE_incrementer"), "serve", "--listen", "127.0.0.1:0"]);
    let mut server = Server::start(nicer.current_dir(dir.path()).stdin(Stdio::null()));
    let address = server.ready();
    // Also the thread that the first increment makes begin.
    assert!(ask(&address, "POST /increment", "{\"key\":\"a\",\"value\":1}").starts_with("HTTP/1.1 202 "));
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.process.id())).unwrap();
    let text = |task: &Path, name: &str| std::fs::read_to_string(task.join(name)).unwrap();
    let tasks: Vec<_> = tasks.map(|task| task.unwrap().path()).collect();
    let engine = tasks.iter().find(|task| text(task, "comm") == "engine\n").unwrap();
    let is_short = |task: &Path| {
        let scheduled = text(task, "sched");
        let slice = scheduled.lines().find(|line| line.starts_with("se.slice")).unwrap();
        slice.split_whitespace().last() == Some("100000")
    };
    let short: Vec<_> = tasks.iter().filter(|task| is_short(task)).collect();
    assert_eq!(short, [engine]);
    // proc(5): behind the name in brackets, the nice value is the 17th field.
    let stat = text(engine, "stat");
    let fields = stat.rsplit_once(')').unwrap().1;
    assert_eq!(fields.split_whitespace().nth(16), Some("3"), "{stat}");
}

#[test]
fn a_log_for_machines_is_json_on_every_line() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--log-format", "json"];
    let mut server = Server::start(incrementer(dir.path()).args(arguments));
    let first = server.line_with("listening on ");
    let (_, rest) = server.end_by(Signal::TERM);
    for line in [first.as_str()].into_iter().chain(rest.lines()) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(value["message"].is_string() && value["level"].is_string(), "{line}");
    }
}

#[test]
fn a_port_in_use_is_one_line_of_error_and_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, err) = outcome(incrementer(dir.path()).args(["serve", "--listen", &address]));
    assert_eq!(code, Some(1));
    let errors: Vec<_> = err.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "{err}");
    assert!(
        errors[0].contains(&address) && errors[0].contains("choose another address with `listen`"),
        "{err}"
    );
}

/// One request on a connection of its own; the whole answer.
fn ask(address: &str, request_line: &str, body: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "{request_line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
        Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    connection.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_increment_is_in_the_store_after_a_stop_and_there_again_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let serve = || Server::start(incrementer(dir.path()).args(["serve", "--listen", "127.0.0.1:0"]));
    let mut server = serve();
    let address = server.ready();
    for _ in 0..2 {
        let answer = ask(&address, "POST /increment", "{\"key\": \"signup\", \"value\": 3}");
        assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    }
    let metrics = ask(&address, "GET /metrics", "");
    assert!(metrics.contains("\nincrementer_counted_requests_total 2\n"), "{metrics}");
    let (code, log) = server.end_by(Signal::TERM);
    assert_eq!(code, Some(0), "{log}");

    let inspected = outcome(incrementer(dir.path()).args(["journal", "inspect", "--json"])).1;
    let summary = inspected.lines().last().unwrap();
    let contents: serde_json::Value = serde_json::from_str(summary).unwrap();
    assert_eq!(contents["segments"][0]["first_seq"], 1, "{inspected}");
    let (code, out, err) = outcome(incrementer(dir.path()).args(["journal", "verify"]));
    assert_eq!(code, Some(0), "{out}{err}");

    let mut server = serve();
    let address = server.ready();
    let answer = ask(&address, "GET /counters/signup", "");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("6"), "{answer}");
    assert_eq!(server.end_by(Signal::TERM).0, Some(0));
}

#[test]
fn a_second_signal_ends_it_though_a_request_is_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(incrementer(dir.path()).args(["serve", "--listen", "127.0.0.1:0"]));
    let mut slow = TcpStream::connect(server.ready()).unwrap();
    // The server asks for the rest, so the request is in its hands and not just on the way.
    slow.write_all(
        b"POST /increment HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
        Content-Type: application/json\r\nContent-Length: 30\r\n\r\n",
    )
    .unwrap();
    let mut go_on = [0; 12];
    slow.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100");
    server.signal(Signal::TERM);
    server.line_with("stopping");
    assert_eq!(server.end_by(Signal::INT).0, Some(130));
}

/// The threads that wait for the engine end with it, and once were named instead of the reason.
#[test]
fn the_reason_of_a_failed_start_is_the_one_error_told() {
    for _ in 0..10 {
        let (code, _, err) = run(&["serve", "--listen", "127.0.0.1:0", "--store", "sqlite:nowhere/it.db"]);
        assert_eq!(code, Some(1));
        let errors: Vec<_> = err.lines().filter(|line| line.contains("ERROR")).collect();
        assert!(matches!(errors[..], [error] if error.contains("nowhere/it.db")), "{err}");
    }
}

#[test]
fn two_servers_cant_share_a_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Server::start(incrementer(dir.path()).args(["serve", "--listen", "127.0.0.1:0"]));
    first.ready();
    let (code, _, err) = outcome(incrementer(dir.path()).args(["serve", "--listen", "127.0.0.1:0"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("ERROR") && err.contains("--data-dir"), "{err}");
}

#[test]
fn migrate_makes_the_store_where_there_is_nothing_yet() {
    let (code, out, err) = run(&["migrate", "--store", "sqlite:totals.db"]);
    assert_eq!(code, Some(0), "{out}{err}");
    let (code, out, err) = run(&["migrate"]);
    assert_eq!(code, Some(0), "{out}{err}");
}
