//! A small growth as the binary measures it, and its charts.
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
    command.args(["grow", "--rounds", "1", "--warm-up", "0", "--threads", "2", "--incrementer"]);
    command
        .arg(incrementer)
        .arg("--directory")
        .arg(data)
        .arg("--out")
        .arg(&out)
        .args(arguments)
        .stdin(Stdio::null());
    (command, out)
}

/// Both servers were measured at each of these, in order, and counted.
fn measured(axis: &str, values: [u64; 4], arguments: &[&str]) -> (Experiment, String) {
    let place = place();
    let points = values.map(|value| value.to_string()).join(",");
    let list = format!("--{axis}");
    let arguments = [&["--seconds", "1", "--axes", axis, &list, &points], arguments].concat();
    let (mut command, out) = bench(place.path(), incrementer(), &arguments);
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let experiment = Experiment::read(&out).unwrap();
    assert!(!experiment.interrupted && experiment.command == "grow");
    for server in ["noop", "durable"] {
        let runs: Vec<&Run> = experiment.runs.iter().filter(|run| run.server == server).collect();
        let points: Vec<u64> = runs.iter().map(|run| run.point.as_ref().unwrap().value).collect();
        assert_eq!(points, values, "{server}");
        assert!(runs.iter().all(|run| run.counts() && run.series == format!("grow-{axis}")), "{runs:?}");
        let grew = |run: &&Run| if axis == "keys" { run.load.keys } else { run.load.connections.into() };
        assert_eq!(runs.iter().map(grew).collect::<Vec<_>>(), values, "{server}");
    }
    assert!(is_empty(&place.path().join("data")), "something is left");
    let page = reported(place.path(), &out);
    (experiment, page)
}

/// The page; all its charts were written.
fn reported(place: &Path, raw: &Path) -> String {
    let folder = place.join("report");
    let mut report = Command::new(env!("CARGO_BIN_EXE_incrementer-bench"));
    let said = report.arg("report").arg(raw).arg("--out").arg(&folder).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let page = fs::read_to_string(folder.join("report.md")).unwrap();
    assert!(!page.contains("Fewer than"), "{page}");
    for chart in page.split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
        let drawn = fs::read_to_string(folder.join(chart.0)).unwrap();
        assert!(drawn.contains("durable"), "{}", chart.0);
    }
    page
}

fn assert_charts(page: &str, axis: &str, names: &[&str]) {
    for name in names {
        let chart = format!("](grow-{axis}-{name}.svg)");
        assert!(page.contains(&chart), "{chart} is not on the page:\n{page}");
    }
}

const OF_LOAD: [&str; 5] =
    ["requests-per-second", "p50-latency", "p99-latency", "p99-9-latency", "peak-memory"];

#[test]
fn growth_by_connections_is_measured_and_drawn() {
    let (experiment, page) = measured("connections", [1, 2, 4, 8], &["--at-keys", "50"]);
    assert!(experiment.runs.iter().all(|run| run.load.keys == 50));
    let threads: Vec<u32> = experiment.runs.iter().map(|run| run.load.threads).collect();
    assert_eq!(threads, [1, 1, 2, 2, 2, 2, 2, 2], "at most one for each connection");
    assert_charts(&page, "connections", &OF_LOAD);
}

#[test]
fn growth_by_keys_is_measured_and_drawn() {
    const KEYS: [u64; 4] = [10_000, 12_000, 14_000, 20_000];
    let (experiment, page) = measured("keys", KEYS, &["--at-connections", "4"]);
    assert!(experiment.runs.iter().all(|run| run.load.connections == 4));
    // The fill is in the sums: they can't be right without it.
    for run in experiment.runs.iter().filter(|run| run.server == "durable") {
        let check = run.sum_check.as_ref().unwrap();
        assert!(check.sent > run.load.keys && check.sent - check.stored <= check.in_flight, "{check:?}");
    }
    let figures = |subject: &str, quantity: &str| -> Vec<f64> {
        let is_it = |figure: &&Figure| figure.subject == subject && figure.quantity == quantity;
        let found: Vec<&Figure> = experiment.figures.iter().filter(is_it).collect();
        let points: Vec<u64> = found.iter().map(|figure| figure.point.as_ref().unwrap().value).collect();
        assert_eq!(points, KEYS, "{quantity} of {subject}");
        found.iter().map(|figure| figure.value).collect()
    };
    for (subject, quantity) in [
        ("durable", "resident_memory"),
        ("durable, restarted", "resident_memory"),
        ("durable", "restart"),
        ("durable", "flush_keys"),
        ("psql", "flush_keys"),
    ] {
        assert!(figures(subject, quantity).iter().all(|value| *value > 0.0), "{quantity} of {subject}");
    }
    for subject in ["durable", "durable, restarted"] {
        let with = figures(subject, "memory_per_counter_with_its_key");
        let beside = figures(subject, "memory_per_counter");
        // The names of 20,000 counters have 8.44 bytes in the mean.
        assert!((with[3] - beside[3] - 8.444_7).abs() < 1e-6, "{} {}", with[3], beside[3]);
    }
    assert_charts(&page, "keys", &OF_LOAD);
    let beside = ["memory-per-counter-beside-its-key", "time-to-restart", "keys-flushed-per-second"];
    assert_charts(&page, "keys", &beside);
    assert!(page.contains("| 20,000 |"), "{page}");
}

/// Serves as the product does, until it is stopped; then its table lacks more than four connections
/// can have in flight.
const FORGETFUL: &str = r#"#!/bin/sh
for argument; do
    [ "$before" = --store ] && store=$argument
    before=$argument
done
INCREMENTER "$@" &
server=$!
trap 'kill -TERM $server' TERM
wait $server
wait $server
psql -X -q -d "$store" -c "UPDATE counters SET value = value - 5000 WHERE key = 'key-7'" >/dev/null
"#;

#[test]
fn a_point_whose_sums_are_wrong_does_not_count_nor_what_was_measured_beside() {
    let place = place();
    let forgetful = place.path().join("forgetful");
    fs::write(&forgetful, FORGETFUL.replace("INCREMENTER", incrementer().to_str().unwrap())).unwrap();
    fs::set_permissions(&forgetful, fs::Permissions::from_mode(0o755)).unwrap();
    let arguments = ["--axes", "keys", "--keys", "100", "--seconds", "1", "--at-connections", "4"];
    let (mut command, out) = bench(place.path(), &forgetful, &arguments);
    let ended = command.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("1 of 2 runs don't count"), "{said}");
    let experiment = Experiment::read(&out).unwrap();
    let durable = experiment.runs.iter().find(|run| run.server == "durable").unwrap();
    assert!(durable.failures[0].ends_with("of what was acknowledged is not stored"), "{durable:?}");
    let mut beside = experiment.figures.iter().filter(|figure| figure.point.is_some());
    assert!(beside.clone().count() > 0 && beside.clone().all(|figure| !figure.failures.is_empty()));
    // So few counters can't be told from what a server's memory varies by.
    assert!(!beside.any(|figure| figure.quantity.starts_with("memory_per_counter")));
}

/// Serves as the product does, but takes fewer counters than it is to hold.
const NARROW: &str = "#!/bin/sh\nexec INCREMENTER \"$@\" --max-counters 50\n";

#[test]
fn a_point_that_cant_be_filled_says_so() {
    let place = place();
    let narrow = place.path().join("narrow");
    fs::write(&narrow, NARROW.replace("INCREMENTER", incrementer().to_str().unwrap())).unwrap();
    fs::set_permissions(&narrow, fs::Permissions::from_mode(0o755)).unwrap();
    let arguments = ["--axes", "keys", "--keys", "100", "--seconds", "1", "--at-connections", "4"];
    let (mut command, out) = bench(place.path(), &narrow, &arguments);
    assert!(!command.output().unwrap().status.success());
    let experiment = Experiment::read(&out).unwrap();
    let durable = experiment.runs.iter().find(|run| run.server == "durable").unwrap();
    assert!(durable.failures[0].contains("answered 503") && durable.requests == 0, "{durable:?}");
    assert!(durable.failures[0].contains("too_many_counters"), "{durable:?}");
}

#[test]
fn more_connections_than_files_are_refused_with_the_way_out() {
    let place = place();
    let (command, _) = bench(place.path(), incrementer(), &["--axes", "connections", "--connections", "900"]);
    let mut limited = Command::new("sh");
    limited.arg("-c").arg("ulimit -n 1000 && exec \"$0\" \"$@\"");
    let said = limited.arg(command.get_program()).args(command.get_args()).output().unwrap();
    let error = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success() && error.contains("ulimit -Hn") && error.contains("900"), "{error}");
}

#[test]
fn an_interrupt_leaves_nothing_running_and_nothing_behind() {
    let place = place();
    let arguments = ["--axes", "keys", "--keys", "1000", "--seconds", "600", "--at-connections", "4"];
    let (command, out) = bench(place.path(), incrementer(), &arguments);
    interrupted_under_load(command);
    assert!(is_empty(&place.path().join("data")), "something is left");
    assert!(Experiment::read(&out).unwrap().interrupted);
}
