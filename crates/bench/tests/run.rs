//! A short experiment as the binary runs it: what counts, what doesn't, and what is left of it.
#![allow(clippy::unwrap_used, reason = "what a test can't get fails it")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use incrementer_bench::raw::{Experiment, Run};
use support::{incrementer, interrupted_under_load, is_empty, place};

fn bench(place: &Path, incrementer: &Path, arguments: &[&str]) -> (Command, PathBuf) {
    let (data, out) = (place.join("data"), place.join("results/raw.json"));
    fs::create_dir_all(&data).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_incrementer-bench"));
    command.args(["run", "--rounds", "1", "--warm-up", "1", "--connections", "8", "--threads", "2"]);
    command.args(["--keys", "1000", "--incrementer"]).arg(incrementer).arg("--directory").arg(data);
    command.arg("--out").arg(&out).args(arguments).stdin(Stdio::null());
    (command, out)
}

#[test]
fn a_short_run_counts_and_is_reported() {
    let place = place();
    let arguments = ["--seconds", "2", "--servers", "noop,durable,sync,nginx-lua,webdis"];
    let (mut command, out) = bench(place.path(), incrementer(), &arguments);
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let experiment = Experiment::read(&out).unwrap();
    assert!(!experiment.interrupted);
    for server in ["noop", "durable", "sync"] {
        let run = experiment.runs.iter().find(|run| run.server == server).unwrap();
        assert!(run.counts() && run.series == "connections-8-keys-1000", "{run:?}");
        assert!(run.requests > 0 && run.peak_rss_bytes > 0, "{run:?}");
        assert_eq!(run.store_cpu.is_some(), server != "noop", "{run:?}");
        let sums = run.sum_check.as_ref().map(|sums| (sums.sent > 0, sums.sent.abs_diff(sums.stored)));
        let exact = sums.is_some_and(|(sent, off)| sent && off <= run.sum_check.as_ref().unwrap().in_flight);
        assert!(exact || server == "noop", "{run:?}");
    }
    // Peers are there, or the file says why not.
    assert_eq!(experiment.runs.len() + experiment.notes.len(), 5, "{:?}", experiment.notes);
    assert!(experiment.runs.iter().all(Run::counts));
    assert!(is_empty(&place.path().join("data")), "something is left");

    let mut report = Command::new(env!("CARGO_BIN_EXE_incrementer-bench"));
    let reported = report.arg("report").arg(&out).arg("--out").arg(place.path().join("report")).output();
    assert!(reported.unwrap().status.success());
    let page = fs::read_to_string(place.path().join("report/report.md")).unwrap();
    assert!(page.contains("durable") && page.contains("sync"), "{page}");
}

/// Serves as the product does, and then makes a table of it that isn't what was acknowledged.
const LIAR: &str = r#"#!/bin/sh
for argument; do
    [ "$before" = --store ] && store=$argument
    [ "$before" = --ack ] && ack=$argument
    before=$argument
done
INCREMENTER "$@" &
server=$!
trap 'kill -TERM $server' TERM
wait $server
wait $server
one="UPDATE counters SET value = value - 99999 WHERE key = 'key-1'"
other="UPDATE counters SET value = value + 99999 WHERE key = 'key-2'"
[ $ack = durable ] || other="SELECT 1"
psql -X -q -d "$store" -c "$one" -c "$other" >/dev/null
"#;

/// It loses more than could have been in flight.
#[test]
fn a_server_that_loses_or_misplaces_an_increment_does_not_count() {
    let place = place();
    let liar = place.path().join("liar");
    fs::write(&liar, LIAR.replace("INCREMENTER", incrementer().to_str().unwrap())).unwrap();
    fs::set_permissions(&liar, fs::Permissions::from_mode(0o755)).unwrap();
    let (mut command, out) = bench(place.path(), &liar, &["--seconds", "2", "--servers", "memory,durable"]);
    let ended = command.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("2 of 2 runs don't count"), "{said}");
    let experiment = Experiment::read(&out).unwrap();
    let failures: Vec<&str> = experiment.runs.iter().map(|run| run.failures[0].as_str()).collect();
    // How much exactly depends on what may have been in flight on a busy machine.
    assert!(failures[0].ends_with("of what was acknowledged is not stored"), "{failures:?}");
    assert_eq!(failures[1], "the sum is right, but increments went to other keys", "{failures:?}");
}

#[test]
fn an_interrupt_leaves_nothing_running_and_nothing_behind() {
    let place = place();
    let arguments = ["--seconds", "600", "--servers", "durable"];
    let (command, out) = bench(place.path(), incrementer(), &arguments);
    interrupted_under_load(command);
    assert!(is_empty(&place.path().join("data")), "something is left");
    assert!(Experiment::read(&out).unwrap().interrupted);
}
