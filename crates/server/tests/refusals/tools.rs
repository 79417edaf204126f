//! What several of these tests need.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use store::testing::ThrowawayPostgres;

use crate::support::{Answer, Client, Home, Server, until};

/// One server for all tests that only need a database of their own. It ends with the process.
static POSTGRES: LazyLock<ThrowawayPostgres> = LazyLock::new(ThrowawayPostgres::start);

pub(crate) fn postgres() -> &'static ThrowawayPostgres {
    &POSTGRES
}

/// A home whose server flushes only when it stops.
pub(crate) fn hoarding_home(url: Option<&str>) -> Home {
    Home::new(url).set("flush.interval", "1h").set("journal.segment_bytes", "1MiB")
}

/// Runs to the end: exit code, standard output, standard error.
pub(crate) fn run(mut command: Command) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let [out, err] = ["out", "err"].map(|name| dir.path().join(name));
    command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    let mut process = command.stdin(Stdio::null()).spawn().unwrap();
    let ended = crate::support::within(crate::support::PATIENCE, || process.try_wait().unwrap());
    if ended.is_none() {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let [out, err] = [out, err].map(|path| fs::read_to_string(path).unwrap());
    let Some(ended) = ended else { panic!("it goes on: {command:?}\n{out}{err}") };
    (ended.code(), out, err)
}

/// Starts a server that has to refuse: the line that says why.
#[track_caller]
pub(crate) fn refusal(home: &Home) -> String {
    let (code, _, log) = run(home.command(&["serve"]));
    assert_eq!(code, Some(1), "{log}");
    the_error(&log)
}

/// A start that has to be refused with these words.
#[track_caller]
pub(crate) fn assert_refused(home: &Home, parts: &[&str]) {
    assert_says(&refusal(home), parts);
}

#[track_caller]
pub(crate) fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

/// Waits until the server has given up: the line that says why.
#[track_caller]
pub(crate) fn gives_up(mut server: Server) -> String {
    let status = server.wait();
    let log = server.log();
    assert_eq!(status.code(), Some(1), "{log}");
    the_error(&log)
}

/// The one line of a log that is an error.
#[track_caller]
pub(crate) fn the_error(log: &str) -> String {
    assert!(!log.contains("panicked"), "{log}");
    let errors: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    match errors[..] {
        [error] => error.to_owned(),
        _ => panic!("{} errors in\n{log}", errors.len()),
    }
}

/// The command with these arguments: what it prints, if it ends well; what it complains of, if
/// it ends with 1.
#[track_caller]
pub(crate) fn ask_command(home: &Home, arguments: &[&str]) -> Result<String, (String, String)> {
    let (code, out, err) = run(home.command(arguments));
    match code {
        Some(0) => Ok(out),
        Some(1) => Err((out, the_error(&err))),
        _ => panic!("{arguments:?} ends with {code:?}:\n{out}{err}"),
    }
}

/// Increments `key` by 1, so many times, each in a record of its own.
#[track_caller]
pub(crate) fn count(server: &Server, key: &str, times: usize) {
    let mut client = server.client();
    for _ in 0..times {
        client.increment(key, 1).unwrap().expect(202);
    }
}

/// Sends bulk requests, each with `entries` increments by 1 of the same key, until one is
/// refused: how much was acknowledged, and the refusal.
pub(crate) fn count_until_refused(client: &mut Client, key: &str, entries: usize) -> (i64, Answer) {
    let mut acknowledged = 0;
    // More than the tests' journals can hold.
    for _ in 0..1_000_000 / entries {
        let answer = client.increments(std::iter::repeat_n((key, 1), entries)).unwrap();
        if answer.status != 202 {
            return (acknowledged, answer);
        }
        acknowledged += entries as i64;
    }
    panic!("{acknowledged} increments of {key} were taken, and there is no end of it");
}

/// A refusal by the book: problem+json that names itself by `code`.
#[track_caller]
pub(crate) fn assert_problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    assert_eq!(answer.json()["code"], code, "{answer:?}");
    assert!(answer.json()["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{answer:?}");
    if status == 503 {
        let seconds: u32 = answer.header("retry-after").expect("a Retry-After").parse().unwrap();
        assert!(seconds > 0, "{answer:?}");
    }
}

/// Waits until `/readyz` answers 503, for this reason.
#[track_caller]
pub(crate) fn wait_until_not_ready(server: &Server, reason: &str) {
    until(&format!("/readyz says {reason:?}"), || {
        let answer = server.get("/readyz");
        (answer.status == 503 && answer.body.contains(reason)).then_some(())
    });
}

/// Copies a directory with all that is in it.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Puts a copy of `from` in the place of `to`.
pub(crate) fn replace_dir(from: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap();
    copy_dir(from, to);
}

/// The journal's segments, in order.
pub(crate) fn segments(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.data().join("journal")).unwrap();
    let mut segments: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
    segments.sort();
    segments
}
