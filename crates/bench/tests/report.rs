//! The page and charts of a short real run, against arithmetic of this test's own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use incrementer_bench::report;
use serde_json::Value;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/short-run.json")
}

/// The page, and the folder that it lies in.
fn reported() -> (String, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let files = report::write(&[fixture()], folder.path()).unwrap();
    assert_eq!(files[0], folder.path().join("report.md"));
    assert!(files.iter().all(|file| file.exists()), "{files:?}");
    (std::fs::read_to_string(&files[0]).unwrap(), folder)
}

/// Requests per second of the runs of `server` that were neither warm-up nor failed, by round.
fn rates(server: &str) -> Vec<(u64, f64)> {
    let raw: Value = serde_json::from_slice(&std::fs::read(fixture()).unwrap()).unwrap();
    let runs = raw["runs"].as_array().unwrap().iter();
    let runs = runs.filter(|run| run["server"] == server && run["round"] != 0);
    let runs = runs.filter(|run| run["failures"].as_array().unwrap().is_empty());
    let rate = |run: &Value| run["requests"].as_f64().unwrap() / run["seconds"].as_f64().unwrap();
    runs.map(|run| (run["round"].as_u64().unwrap(), rate(run))).collect()
}

/// Lowest, middle and highest of an odd number of values, or the mean of the two in the middle.
fn low_middle_high(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(|left, right| left.partial_cmp(right).unwrap());
    let half = values.len() / 2;
    let middle = if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 };
    [values[0], middle, values[values.len() - 1]]
}

fn with_commas(value: f64) -> String {
    let digits = (value.round() as u64).to_string();
    let (front, back) = digits.split_at(digits.len() - 3);
    format!("{front},{back}")
}

/// The cells of the row of `server` in the table of medians.
fn row(page: &str, server: &str) -> Vec<String> {
    let row = page.lines().find(|line| line.starts_with(&format!("| {server} |"))).unwrap();
    row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

#[test]
fn medians_and_ratios_are_those_of_the_runs_that_count() {
    let (page, _folder) = reported();
    let noop = rates("noop");
    for server in ["memory", "durable", "nginx"] {
        let rates = rates(server);
        let [low, middle, high] = low_middle_high(rates.iter().map(|(_, rate)| *rate).collect());
        let cells = row(&page, server);
        assert_eq!(cells[1], rates.len().to_string());
        assert_eq!(
            cells[2],
            format!("{} ({} to {})", with_commas(middle), with_commas(low), with_commas(high)),
            "{server}"
        );
        let ratio = |(round, rate): &(u64, f64)| rate / noop.iter().find(|(of, _)| of == round).unwrap().1;
        let [low, middle, high] = low_middle_high(rates.iter().map(ratio).collect());
        assert_eq!(cells[3], format!("{middle:.2} ({low:.2} to {high:.2})"), "{server}");
    }
}

#[test]
fn a_run_that_failed_is_named_and_left_out() {
    let (page, _folder) = reported();
    assert_eq!(rates("nginx").len(), 4, "the fixture has a run of nginx that failed");
    assert_eq!(row(&page, "nginx")[1], "4");
    let failed = page.split("## What failed and doesn't count").nth(1).unwrap();
    assert!(failed.contains("- main, round 2, nginx: "), "{failed}");
    assert!(failed.contains("another status than 202"), "{failed}");
}

#[test]
fn targets_are_judged_by_paired_rounds() {
    let (page, _folder) = reported();
    let target = |figure: &str| {
        let line = page.lines().find(|line| line.starts_with(&format!("| {figure}"))).unwrap();
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    let (durable, noop) = (rates("durable"), rates("noop"));
    let ratio = |(round, rate): &(u64, f64)| rate / noop.iter().find(|(of, _)| of == round).unwrap().1;
    let [_, middle, _] = low_middle_high(durable.iter().map(ratio).collect());
    assert!(middle < 0.95, "the fixture is of a busy machine");
    let beside_noop = target("requests/s, durable ÷ noop");
    assert!(beside_noop[2].starts_with(&format!("{middle:.3} (")), "{beside_noop:?}");
    assert_eq!(beside_noop[3..], ["5", "**missed**"]);
    // One of the five rounds lacks its nginx.
    assert_eq!(target("requests/s, durable ÷ nginx `return 202`")[3..], ["4", "too few rounds"]);
    assert_eq!(target("requests/s, durable ÷ sync")[2..], ["–", "0", "not measured"]);
}

#[test]
fn the_chart_opens_in_a_notebook() {
    let (_, folder) = reported();
    let spec = std::fs::read(folder.path().join("requests.vl.json")).unwrap();
    let spec: Value = serde_json::from_slice(&spec).unwrap();
    assert_eq!(spec["$schema"], "https://vega.github.io/schema/vega-lite/v6.json");
    let values = spec["data"]["values"].as_array().unwrap();
    let servers = ["noop", "memory", "durable", "nginx"];
    assert_eq!(values.len(), servers.iter().map(|server| rates(server).len()).sum::<usize>());
    for server in servers {
        let of_server = values.iter().filter(|value| value["type"] == server);
        let shown: Vec<(u64, f64)> = of_server
            .map(|value| (value["run"].as_u64().unwrap(), value["requests"].as_f64().unwrap()))
            .collect();
        let measured: Vec<_> = rates(server).into_iter().map(|(run, rate)| (run, rate.round())).collect();
        assert_eq!(shown, measured, "{server}");
    }
    let fields = ["y", "yOffset", "x", "color"].map(|channel| spec["encoding"][channel]["field"].clone());
    assert_eq!(fields, ["type", "run", "requests", "type"]);
}

#[test]
fn the_picture_is_what_the_drawing_says() {
    let (page, folder) = reported();
    assert!(page.contains("![Requests per second by run](requests.svg)"));
    let svg = std::fs::read_to_string(folder.path().join("requests.svg")).unwrap();
    let number = |name: &str| -> u32 {
        svg.split(&format!(" {name}=\"")).nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
    };
    let png = std::fs::read(folder.path().join("requests.png")).unwrap();
    let picture = resvg::tiny_skia::Pixmap::decode_png(&png).unwrap();
    assert_eq!((picture.width(), picture.height()), (2 * number("width"), 2 * number("height")));
    // Letters are drawn: the left margin, where only names stand, isn't all white.
    let is_ink = |x, y| picture.pixel(x, y).unwrap().red() < 128;
    let names = (48..160).flat_map(|x| (160..picture.height()).map(move |y| (x, y)));
    assert!(names.filter(|(x, y)| is_ink(*x, *y)).count() > 100, "no font was found");
}
