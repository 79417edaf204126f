//! The other measurements as the binary makes them, each a short one: what counts, and what is left.
#![allow(clippy::unwrap_used, reason = "what a test can't get fails it")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use incrementer_bench::raw::{Experiment, Figure, Run};
use support::{incrementer, interrupted_under_load, is_empty, place};

fn bench(place: &Path, incrementer: &Path, arguments: &[&str]) -> (Command, PathBuf) {
    let (data, out) = (place.join("data"), place.join("results/raw.json"));
    fs::create_dir_all(&data).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_incrementer-bench"));
    command.args(arguments).args(["--rounds", "1", "--incrementer"]).arg(incrementer);
    command.arg("--directory").arg(data).arg("--out").arg(&out).stdin(Stdio::null());
    (command, out)
}

/// Runs it to its end, which is a good one, and leaves no data behind.
fn measured(place: &Path, arguments: &[&str]) -> Experiment {
    let (mut command, out) = bench(place, incrementer(), arguments);
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let experiment = Experiment::read(&out).unwrap();
    assert!(!experiment.interrupted && experiment.command == arguments[0]);
    assert!(experiment.runs.iter().all(|run| run.failures.is_empty()));
    assert!(is_empty(&place.join("data")), "something is left");
    experiment
}

/// The page that `report` makes of it.
fn page(place: &Path) -> String {
    let mut report = Command::new(env!("CARGO_BIN_EXE_incrementer-bench"));
    report.arg("report").arg(place.join("results/raw.json")).arg("--out").arg(place.join("report"));
    let reported = report.output().unwrap();
    assert!(reported.status.success(), "{}", String::from_utf8_lossy(&reported.stderr));
    fs::read_to_string(place.join("report/report.md")).unwrap()
}

/// The cells of the target that begins so.
fn target(page: &str, figure: &str) -> Vec<String> {
    let row = page.lines().find(|line| line.starts_with(&format!("| {figure}"))).unwrap();
    row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn run_of<'a>(experiment: &'a Experiment, series: &str, server: &str) -> &'a Run {
    let mut runs = experiment.runs.iter();
    runs.find(|run| run.series == series && run.server == server && run.round > 0).unwrap()
}

const BULK: [&str; 12] = [
    "bulk",
    "--seconds",
    "2",
    "--warm-up",
    "1",
    "--connections",
    "4",
    "--keys",
    "1000",
    "--per-request",
    "100",
    "--pipelined=8",
];

#[test]
fn increments_in_bulk_are_all_in_the_table() {
    let place = place();
    let experiment = measured(place.path(), &BULK);
    let bulk = run_of(&experiment, "bulk", "durable");
    assert_eq!((bulk.load.per_request, bulk.load.pipelined), (100, 1));
    assert_eq!(bulk.increments, bulk.requests * 100);
    let pipelined = run_of(&experiment, "pipelined", "durable");
    assert_eq!((pipelined.load.per_request, pipelined.load.pipelined), (1, 8));
    assert!(pipelined.increments == pipelined.requests && pipelined.requests > 0);
    assert!(
        bulk.latency_us.is_some() && pipelined.latency_us.is_none(),
        "wrk can't tell it where they are pipelined"
    );
    assert!(run_of(&experiment, "pipelined", "noop").requests > 0);
    let mut stored = vec![bulk, pipelined];
    if is_installed("redis-server") && is_installed("redis-benchmark") {
        stored.extend(["redis", "redis-aof"].map(|server| run_of(&experiment, "bulk", server)));
        assert_eq!(target(&page(place.path()), "increments/s in bulk")[3], "1");
    } else {
        assert!(experiment.notes[0].starts_with("redis was left out"), "{:?}", experiment.notes);
    }
    for run in stored {
        let check = run.sum_check.as_ref().unwrap();
        assert!(check.sent > 0 && check.sent - check.stored <= check.in_flight, "{run:?}");
        assert_eq!(run.load.keys, 1000);
    }
}

/// Serves as the product does, and then takes something out of the table.
const LIAR: &str = r#"#!/bin/sh
for argument; do
    [ "$before" = --store ] && store=$argument
    before=$argument
done
INCREMENTER "$@" &
server=$!
trap 'kill -TERM $server' TERM
wait $server
wait $server
psql -X -q -d "$store" -c "UPDATE counters SET value = value - 3 WHERE key = (SELECT min(key) FROM counters)" >/dev/null
"#;

fn liar(place: &Path) -> PathBuf {
    let liar = place.join("liar");
    fs::write(&liar, LIAR.replace("INCREMENTER", incrementer().to_str().unwrap())).unwrap();
    fs::set_permissions(&liar, fs::Permissions::from_mode(0o755)).unwrap();
    liar
}

const FIXED_RATE: [&str; 10] =
    ["fixed-rate", "--seconds", "2", "--warm-up", "1", "--connections", "4", "--threads", "2", "--keys=1000"];

#[test]
fn latency_at_a_fixed_rate_counts_if_the_rate_was_held() {
    let place = place();
    if !is_installed("oha") {
        let ended = bench(place.path(), incrementer(), &FIXED_RATE).0.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains("scripts/install-peers"), "{said}");
        eprintln!("skipped: oha is not installed");
        return;
    }
    let experiment = measured(place.path(), &FIXED_RATE);
    let peak = experiment.runs.iter().find(|run| run.round == 0).unwrap();
    let durable = run_of(&experiment, "fixed-rate", "durable");
    assert_eq!(durable.load.rate, Some((peak.requests_per_s() / 2.0).round()));
    let check = durable.sum_check.as_ref().unwrap();
    assert!(check.sent == check.stored && check.sent > durable.requests, "{check:?}");
    let noop = run_of(&experiment, "fixed-rate", "noop");
    assert!(noop.latency_us.as_ref().unwrap().p99 > 0.0 && noop.load.tool == "oha");
    assert_eq!(target(&page(place.path()), "p99 of durable")[3], "1");

    let (mut command, out) = bench(place.path(), &liar(place.path()), &FIXED_RATE);
    let ended = command.args(["--rate", "50"]).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("1 of 2 runs don't count"), "{said}");
    let experiment = Experiment::read(&out).unwrap();
    let failures = &run_of(&experiment, "fixed-rate", "durable").failures;
    assert_eq!(failures, &["3 of what was acknowledged is not stored"]);
}

const FIGURES: [&str; 6] = ["figures", "--totals=5000", "--batch", "1500", "--replayed", "2000"];

#[test]
fn starts_flushes_memory_and_replay_are_measured() {
    let place = place();
    let experiment = measured(place.path(), &FIGURES);
    let names: Vec<(&str, &str)> =
        experiment.figures.iter().map(|figure| (figure.subject.as_str(), figure.quantity.as_str())).collect();
    let expected = [
        ("durable", "replay"),
        ("durable", "replay_bulk"),
        ("durable", "empty_start"),
        ("durable", "start"),
        ("psql", "copy_out"),
        ("durable", "flush_keys"),
        ("psql", "bare_upsert_keys"),
        ("durable", "memory_per_counter"),
    ];
    assert_eq!(names, expected);
    assert!(experiment.figures.iter().all(|figure| figure.failures.is_empty() && figure.value > 0.0));
    let page = page(place.path());
    for figure in ["flushing", "memory for a counter", "start with 10 million", "replay of the journal"] {
        assert_eq!(target(&page, figure)[3], "1", "{figure}");
    }
}

#[test]
fn figures_of_a_server_that_loses_increments_do_not_count() {
    let place = place();
    let (mut command, out) = bench(place.path(), &liar(place.path()), &FIGURES);
    let ended = command.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success(), "{said}");
    let experiment = Experiment::read(&out).unwrap();
    let replay: Vec<&Figure> = experiment.figures.iter().filter(|figure| figure.series == "replay").collect();
    for figure in &replay[..2] {
        assert!(
            figure.failures[0].contains("of what was acknowledged is not stored; the server"),
            "{figure:?}"
        );
    }
    let flush = experiment.figures.iter().find(|figure| figure.quantity == "flush_keys").unwrap();
    // One lie at the end of the round before the first, one at the end of the first.
    assert_eq!(flush.failures, ["the table adds up to 10994 instead of 11000"]);
}

#[test]
fn a_batch_needs_as_many_totals() {
    let place = place();
    let arguments = ["figures", "--totals", "1000", "--batch", "1001"];
    let ended = bench(place.path(), incrementer(), &arguments).0.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("needs as many totals, not 1000"), "{said}");
}

#[test]
fn an_interrupt_leaves_nothing_of_them_running() {
    for arguments in [&["bulk", "--seconds", "600"] as &[&str], &["figures", "--replayed", "100000000"]] {
        let place = place();
        let (command, _) = bench(place.path(), incrementer(), arguments);
        interrupted_under_load(command);
        assert!(is_empty(&place.path().join("data")), "something is left of {arguments:?}");
    }
}
