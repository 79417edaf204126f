//! The page itself, in Markdown.

use std::fmt::Write as _;

use super::charts::Chart;
use super::data::{ByRound, Data, in_order_of_coming, ratio, spread_of};
use super::numbers::{duration, mebibytes, median, short, spread, whole};
use super::targets::{Bound, ROUNDS, Verdict, standings};
use crate::raw::{Experiment, Figure, Point, Run, SumCheck};

/// Sections from the second level on, so that the page can be put under a heading.
pub(super) fn write(data: &Data, charts: &[Chart]) -> String {
    let mut page = String::new();
    targets(&mut page, data);
    for series in data.series() {
        series_section(&mut page, data, series, charts);
    }
    super::growth::section(&mut page, data, charts);
    figures(&mut page, data);
    failures(&mut page, data);
    for experiment in &data.experiments {
        machine(&mut page, experiment);
    }
    page
}

fn targets(page: &mut String, data: &Data) {
    page.push_str("## Targets\n\n");
    let _ = writeln!(
        page,
        "A ratio is taken round by round; shown are the median, the lowest and the highest. It takes {ROUNDS} \
         rounds to say anything.\n"
    );
    page.push_str("| figure | target | measured | rounds | |\n| --- | --- | --- | ---: | --- |\n");
    for standing in standings(data) {
        let unit = standing.target.unit;
        let with_unit = |text: String| if unit.is_empty() { text } else { format!("{text} {unit}") };
        let bound = match standing.target.bound {
            Bound::AtLeast(least) => with_unit(format!("≥ {}", short(least))),
            Bound::AtMost(most) => with_unit(format!("≤ {}", short(most))),
        };
        let verdict = match standing.verdict {
            Verdict::Met => "met",
            Verdict::Missed => "**missed**",
            Verdict::NotMeasured => "not measured",
            Verdict::TooFew => "too few rounds",
        };
        // A ratio close to its target takes a digit more.
        let number = |value: f64| if unit.is_empty() { format!("{value:.3}") } else { short(value) };
        let measured = spread(standing.measured, number);
        let rounds = standing.measured.map_or(0, |spread| spread.count);
        let _ =
            writeln!(page, "| {} | {bound} | {measured} | {rounds} | {verdict} |", standing.target.figure);
    }
    page.push('\n');
}

fn series_section(page: &mut String, data: &Data, series: &str, charts: &[Chart]) {
    let Some(first) = data.runs_of(series).next() else { return };
    let _ = writeln!(page, "## {}\n", title(series));
    page.push_str(&loads(data, series, first));
    for chart in charts.iter().filter(|chart| chart.series == series) {
        let _ = writeln!(page, "![{}]({}.svg)\n", chart.title, chart.name);
    }
    medians(page, data, series);
    every_run(page, data, series);
}

/// The load of a series; where its servers had different ones, that of each.
fn loads(data: &Data, series: &str, first: &Run) -> String {
    let first_of = |server: &&str| data.runs_of(series).find(|run| run.server == **server);
    let servers = data.servers(series);
    if !data.runs_of(series).any(|run| run.load != first.load) {
        return format!("{}\n\n", load(first));
    }
    let lines =
        servers.iter().filter_map(|server| Some(format!("- {server}: {}\n", load(first_of(server)?))));
    lines.collect::<String>() + "\n"
}

/// What a series compares.
pub(super) fn title(series: &str) -> String {
    match series {
        "main" => "Side by side".to_owned(),
        "fixed-rate" => "Latency at a fixed rate".to_owned(),
        "bulk" => "In bulk".to_owned(),
        "pipelined" => "Pipelined".to_owned(),
        other => match other.split_once('-') {
            Some(("connections", "1")) => "1 connection".to_owned(),
            Some((what @ ("connections" | "keys"), number)) => match number.parse::<u32>() {
                Ok(number) => format!("{} {what}", whole(f64::from(number))),
                Err(_) => other.to_owned(),
            },
            _ => other.to_owned(),
        },
    }
}

/// The load of a run in words.
pub(super) fn load(run: &Run) -> String {
    let load = &run.load;
    let plural =
        |number: f64, what: &str| format!("{} {what}{}", whole(number), if number == 1.0 { "" } else { "s" });
    let mut text = format!(
        "{}: {}, {}, {} at random, {} s",
        load.tool,
        plural(load.connections.into(), "connection"),
        plural(load.threads.into(), "thread"),
        plural(load.keys as f64, "key"),
        short(load.seconds).trim_end_matches(".00").trim_end_matches(".0")
    );
    if load.per_request > 1 {
        let _ = write!(text, ", {} increments a request", whole(load.per_request.into()));
    }
    if load.pipelined > 1 {
        let _ = write!(text, ", {} requests pipelined", load.pipelined);
    }
    if let Some(rate) = load.rate {
        let _ = write!(text, ", at {} requests/s", whole(rate));
    }
    text + "."
}

/// CPU time for a request in microseconds: in user mode, in the kernel.
fn cpu_us(run: &Run) -> Option<(f64, f64)> {
    let each = |seconds: f64| seconds * 1e6 / run.requests as f64;
    (run.requests > 0).then(|| (each(run.server_cpu.user_s), each(run.server_cpu.system_s)))
}

fn medians(page: &mut String, data: &Data, series: &str) {
    let bulk = data.runs_of(series).any(|run| run.increments != run.requests);
    let what = if bulk { "increments/s" } else { "requests/s" };
    let base = if data.servers(series).contains(&"redis") { "redis" } else { "noop" };
    let _ = writeln!(
        page,
        "| server | runs | {what} | ÷ {base} | p50 | p99 | p99.9 | CPU per request, µs user + system | peak memory |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    );
    let rate =
        |server: &str| if bulk { data.increments(series, server) } else { data.requests(series, server) };
    let compared = rate(base);
    for server in data.servers(series) {
        let rates = rate(server);
        if rates.is_empty() {
            let _ = writeln!(page, "| {server} | 0 | – | – | – | – | – | – | – |");
            continue;
        }
        let cpu = |which: fn((f64, f64)) -> f64| -> ByRound {
            data.measured(series, server, |run| cpu_us(run).map(which))
        };
        let (user, system) =
            (median(spread_of(&cpu(|both| both.0)), short), median(spread_of(&cpu(|both| both.1)), short));
        let peak = spread_of(&data.measured(series, server, |run| Some(run.peak_rss_bytes as f64)));
        let latency = |which: fn(&crate::raw::Latency) -> f64| {
            median(spread_of(&data.latency(series, server, which)), duration)
        };
        let _ = writeln!(
            page,
            "| {server} | {} | {} | {} | {} | {} | {} | {user} + {system} | {} |",
            rates.len(),
            spread(spread_of(&rates), whole),
            if server == base {
                "1".to_owned()
            } else {
                spread(ratio(&rates, &compared), |ratio| format!("{ratio:.2}"))
            },
            latency(|latency| latency.p50),
            latency(|latency| latency.p99),
            latency(|latency| latency.p999),
            peak.map_or_else(|| "–".to_owned(), |peak| mebibytes(peak.max)),
        );
    }
    page.push_str(
        "\nMedians of the runs that count, with the lowest and the highest; of memory, the most.\n\n",
    );
}

fn every_run(page: &mut String, data: &Data, series: &str) {
    page.push_str("<details><summary>Every run</summary>\n\n");
    let bulk = data.runs_of(series).any(|run| run.increments != run.requests);
    let (increments, line) = if bulk { ("increments/s | ", " ---: |") } else { ("", "") };
    let _ = writeln!(
        page,
        "| round | place | server | requests | seconds | requests/s | {increments}p50 | p99 | p99.9 | \
         CPU, s user + system | of its Postgres | peak memory | stored | counts |\n\
         | ---: | ---: | --- | ---: | ---: | ---: |{line} ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    );
    let mut runs: Vec<&Run> = data.runs_of(series).collect();
    runs.sort_by_key(|run| (run.round, run.place));
    for run in runs {
        let latency = |which: fn(&crate::raw::Latency) -> f64| {
            run.latency_us.as_ref().map_or_else(|| "–".to_owned(), |latency| duration(which(latency)))
        };
        let store = run
            .store_cpu
            .map_or_else(|| "–".to_owned(), |cpu| format!("{} + {}", short(cpu.user_s), short(cpu.system_s)));
        let increments = if bulk { whole(run.increments_per_s()) + " | " } else { String::new() };
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} | {increments}{} | {} | {} | {} + {} | {store} | {} | {} | {} |",
            run.round,
            run.place,
            run.server,
            whole(run.requests as f64),
            short(run.seconds),
            whole(run.requests_per_s()),
            latency(|latency| latency.p50),
            latency(|latency| latency.p99),
            latency(|latency| latency.p999),
            short(run.server_cpu.user_s),
            short(run.server_cpu.system_s),
            mebibytes(run.peak_rss_bytes as f64),
            run.sum_check.as_ref().map_or_else(|| "–".to_owned(), stored),
            if run.counts() { "yes" } else { "**no**" },
        );
    }
    page.push_str("\n</details>\n\n");
}

/// Whether what is stored accounts for what was sent.
fn stored(check: &SumCheck) -> String {
    let missing = i128::from(check.sent) - i128::from(check.stored);
    let elsewhere =
        check.weighted_sent.zip(check.weighted_stored).is_some_and(|(sent, stored)| sent != stored);
    match missing {
        0 if elsewhere => "**all, but some under other keys**".to_owned(),
        0 => "all".to_owned(),
        missing if missing < 0 => format!("**{} too much**", whole(-missing as f64)),
        missing if missing <= i128::from(check.in_flight) => {
            format!("all but {} of {} in flight", whole(missing as f64), whole(check.in_flight as f64))
        }
        missing => format!("**{} missing**", whole(missing as f64)),
    }
}

fn figures(page: &mut String, data: &Data) {
    let flat: Vec<&Figure> = data.figures.iter().filter(|figure| figure.point.is_none()).collect();
    if flat.is_empty() {
        return;
    }
    page.push_str("## Without load\n\n");
    page.push_str("| series | of | what | measured | times |\n| --- | --- | --- | ---: | ---: |\n");
    for series in in_order_of_coming(flat.iter().map(|figure| figure.series.as_str())) {
        let of_series = flat.iter().filter(|figure| figure.series == series);
        let names: Vec<(&str, &str)> =
            of_series.map(|figure| (figure.subject.as_str(), figure.quantity.as_str())).collect();
        for (at, (subject, quantity)) in names.iter().enumerate() {
            if names[..at].contains(&(subject, quantity)) {
                continue;
            }
            let is_it = |figure: &&&Figure| {
                figure.series == series && figure.subject == *subject && figure.quantity == *quantity
            };
            let found: Vec<_> =
                flat.iter().filter(is_it).filter(|figure| figure.failures.is_empty()).collect();
            let values: ByRound = found.iter().map(|figure| (figure.round, figure.value)).collect();
            let unit = found.first().map_or("", |figure| figure.unit.as_str());
            let measured = spread(spread_of(&values), short);
            let _ = writeln!(
                page,
                "| {series} | {subject} | {} | {measured} {unit} | {} |",
                quantity.replace('_', " "),
                values.len()
            );
        }
    }
    page.push('\n');
}

fn failures(page: &mut String, data: &Data) {
    let at = |point: &Option<Point>| {
        point.as_ref().map_or_else(String::new, |Point { axis, value }| format!(" at {value} {axis}"))
    };
    let runs = data.runs.iter().filter(|run| !run.failures.is_empty()).map(|run| {
        let Run { series, round, server, .. } = run;
        (format!("{series}{}, round {round}, {server}", at(&run.point)), run.failures.join("; "))
    });
    let figures = data.figures.iter().filter(|figure| !figure.failures.is_empty()).map(|figure| {
        let Figure { series, round, subject, quantity, .. } = figure;
        let at = at(&figure.point);
        (format!("{series}{at}, round {round}, {quantity} of {subject}"), figure.failures.join("; "))
    });
    let failed: Vec<(String, String)> = runs.chain(figures).collect();
    if !failed.is_empty() {
        page.push_str("## What failed and doesn't count\n\n");
        for (which, why) in failed {
            let _ = writeln!(page, "- {which}: {why}");
        }
        page.push('\n');
    }
}

fn machine(page: &mut String, experiment: &Experiment) {
    let machine = &experiment.machine;
    let _ = writeln!(page, "## The machine, for `{}`\n", experiment.command);
    page.push_str("| | |\n| --- | --- |\n");
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(page, "| {name} | {value} |");
        }
    };
    row("command", format!("`incrementer-bench {}`", experiment.arguments.join(" ")));
    row("took", duration(experiment.took_s * 1e6));
    row("processor", format!("{}, {} cores", machine.cpu, machine.cores));
    row("memory", mebibytes(machine.memory_bytes as f64));
    row("system", machine.system.clone());
    row("kernel", machine.kernel.clone());
    row("disk", machine.disk.clone());
    row("load average at the beginning", short(machine.load_average));
    row("commit", machine.commit.clone());
    row("build profile", machine.profile.clone());
    for (name, version) in &machine.versions {
        row(name, version.clone());
    }
    page.push('\n');
    if experiment.interrupted {
        page.push_str("It was ended before all was measured.\n\n");
    }
    for note in &experiment.notes {
        let _ = writeln!(page, "- {note}");
    }
    if !experiment.notes.is_empty() {
        page.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_check_says_what_is_wrong() {
        let check = |sent, stored, in_flight| SumCheck { sent, stored, in_flight, ..SumCheck::default() };
        assert_eq!(stored(&check(5000, 5000, 0)), "all");
        assert_eq!(stored(&check(5000, 4990, 10)), "all but 10 of 10 in flight");
        assert_eq!(stored(&check(5000, 4989, 10)), "**11 missing**");
        assert_eq!(stored(&check(5000, 5001, 10)), "**1 too much**");
        let elsewhere = SumCheck { weighted_sent: Some(1), weighted_stored: Some(2), ..check(1, 1, 0) };
        assert_eq!(stored(&elsewhere), "**all, but some under other keys**");
    }

    #[test]
    fn servers_with_loads_of_their_own_have_them_told() {
        let run = |server: &str, connections| Run {
            series: "bulk".to_owned(),
            server: server.to_owned(),
            round: 1,
            load: crate::raw::Load { tool: "wrk".to_owned(), connections, ..crate::raw::Load::default() },
            ..Run::default()
        };
        let data = |runs: Vec<Run>| Data { experiments: Vec::new(), runs, figures: Vec::new() };
        let said = |data: Data| loads(&data, "bulk", &data.runs[0]);
        let same = said(data(vec![run("durable", 8), run("redis", 8)]));
        assert!(same.starts_with("wrk: 8 connections") && same.lines().count() == 2, "{same}");
        let different = said(data(vec![run("durable", 8), run("redis", 9), run("redis", 9)]));
        assert!(different.starts_with("- durable: wrk: 8 connections"), "{different}");
        assert!(
            different.contains("\n- redis: wrk: 9 connections") && different.lines().count() == 3,
            "{different}"
        );
    }

    #[test]
    fn series_have_titles() {
        let titles = ["main", "connections-1", "connections-64", "keys-1000000", "own"].map(title);
        assert_eq!(titles, ["Side by side", "1 connection", "64 connections", "1,000,000 keys", "own"]);
    }
}
