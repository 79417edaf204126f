//! How cost grows along an axis: what was measured at which point.

use std::fmt::Write as _;

use super::charts::Chart;
use super::data::{ByRound, Data, in_order_of_coming, place, spread_of};
use super::numbers::{capital, duration, mebibytes, short, spread, whole};
use crate::raw::{Point, Run};
use crate::stats::Spread;

/// A claim about growth rests on at least so many points.
pub(super) const POINTS: usize = 4;

/// One quantity along one axis.
#[derive(Debug)]
pub(super) struct Curves {
    pub(super) series: String,
    pub(super) axis: String,
    /// For people: `requests/s`.
    pub(super) quantity: String,
    pub(super) unit: String,
    /// Servers or subjects, each with its points in order.
    pub(super) curves: Vec<(String, Vec<(u64, Spread)>)>,
}

impl Curves {
    /// Whether there are enough points to show how it grows.
    pub(super) fn shows_growth(&self) -> bool {
        self.curves.iter().any(|(_, points)| points.len() >= POINTS)
    }

    /// The name of its chart's files.
    pub(super) fn name(&self) -> String {
        let letters = |text: &str| text.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        format!("{}-{}", letters(&self.series), letters(&self.quantity))
    }

    pub(super) fn title(&self) -> String {
        format!("{} by number of {}", self.quantity, axis(&self.axis))
    }

    pub(super) fn number(&self, value: f64) -> String {
        match self.unit.as_str() {
            "us" => duration(value),
            "s" => duration(value * 1e6),
            "rss" => mebibytes(value),
            "/s" => whole(value),
            unit => format!("{} {unit}", short(value)),
        }
    }
}

/// An axis in words.
pub(super) fn axis(name: &str) -> String {
    name.replace("table_rows", "rows in the table").replace('_', " ")
}

/// The quantity of a figure in words.
fn words(quantity: &str) -> String {
    match quantity {
        "flush_keys" => "keys flushed per second".to_owned(),
        "memory_per_counter" => "memory per counter beside its key".to_owned(),
        "restart" => "time to restart".to_owned(),
        other => other.replace('_', " "),
    }
}

/// Which unit people read it in: per second as it is, and the memory of a process in MiB.
fn shown_as<'a>(quantity: &str, unit: &'a str) -> &'a str {
    match (quantity, unit) {
        ("flush_keys", _) => "/s",
        ("resident_memory", _) => "rss",
        (_, unit) => unit,
    }
}

/// Of a run: its name, its unit, and where it is found.
type Quantity = (&'static str, &'static str, fn(&Run) -> Option<f64>);

const OF_RUNS: [Quantity; 5] = [
    ("requests per second", "/s", |run| Some(run.requests_per_s())),
    ("p50 latency", "us", |run| run.latency_us.as_ref().map(|latency| latency.p50)),
    ("p99 latency", "us", |run| run.latency_us.as_ref().map(|latency| latency.p99)),
    ("p99.9 latency", "us", |run| run.latency_us.as_ref().map(|latency| latency.p999)),
    ("peak memory", "rss", |run| (run.peak_rss_bytes > 0).then_some(run.peak_rss_bytes as f64)),
];

pub(super) fn curves(data: &Data) -> Vec<Curves> {
    let mut all = Vec::new();
    let series = data.runs.iter().filter(|run| run.point.is_some()).map(|run| run.series.as_str());
    for series in in_order_of_coming(series) {
        for (quantity, unit, value) in OF_RUNS {
            let runs = data.runs_of(series).filter(|run| run.counts());
            let values = runs.filter_map(|run| Some((run.server.as_str(), run.point.as_ref()?, value(run)?)));
            all.extend(together(series, quantity, unit, values));
        }
    }
    let of_axis = data.figures.iter().filter(|figure| figure.point.is_some());
    for series in in_order_of_coming(of_axis.clone().map(|figure| figure.series.as_str())) {
        let of_series = of_axis.clone().filter(|figure| figure.series == series);
        for quantity in in_order_of_coming(of_series.clone().map(|figure| figure.quantity.as_str())) {
            let found =
                of_series.clone().filter(|figure| figure.quantity == quantity && figure.failures.is_empty());
            let unit = found.clone().map(|figure| figure.unit.as_str()).next().unwrap_or_default();
            let values = found
                .filter_map(|figure| Some((figure.subject.as_str(), figure.point.as_ref()?, figure.value)));
            all.extend(together(series, &words(quantity), shown_as(quantity, unit), values));
        }
    }
    all
}

fn together<'a>(
    series: &str,
    quantity: &str,
    unit: &str,
    values: impl Iterator<Item = (&'a str, &'a Point, f64)>,
) -> Option<Curves> {
    let values: Vec<_> = values.collect();
    let axis = values.first()?.1.axis.clone();
    let mut names = in_order_of_coming(values.iter().map(|(name, ..)| *name));
    names.sort_by_key(|name| place(name));
    let curve = |name: &&str| {
        let of_name = values.iter().filter(|(of, point, _)| of == name && point.axis == axis);
        let mut places: Vec<u64> = of_name.clone().map(|(_, point, _)| point.value).collect();
        places.sort_unstable();
        places.dedup();
        let at = |place: u64| -> ByRound {
            of_name
                .clone()
                .filter(|(_, point, _)| point.value == place)
                .map(|(.., value)| (0, *value))
                .collect()
        };
        let points = places.into_iter().filter_map(|place| Some((place, spread_of(&at(place))?)));
        ((*name).to_owned(), points.collect())
    };
    let curves = names.iter().map(curve).collect();
    Some(Curves { series: series.into(), axis, quantity: quantity.into(), unit: unit.into(), curves })
}

pub(super) fn section(page: &mut String, data: &Data, charts: &[Chart]) {
    let all = curves(data);
    if all.is_empty() {
        return;
    }
    page.push_str("## How cost grows\n\n");
    for curves in &all {
        let _ = writeln!(page, "### {}\n", capital(&curves.title()));
        if let Some(chart) = charts.iter().find(|chart| chart.name == curves.name()) {
            let _ = writeln!(page, "![{}]({}.svg)\n", chart.title, chart.name);
        } else {
            let _ = writeln!(page, "Fewer than {POINTS} points: that says nothing about growth.\n");
        }
        table(page, curves);
    }
}

fn table(page: &mut String, curves: &Curves) {
    let mut places: Vec<u64> =
        curves.curves.iter().flat_map(|(_, points)| points.iter().map(|(place, _)| *place)).collect();
    places.sort_unstable();
    places.dedup();
    let names: Vec<&str> = curves.curves.iter().map(|(name, _)| name.as_str()).collect();
    let _ = writeln!(page, "| {} | {} |", axis(&curves.axis), names.join(" | "));
    let _ = writeln!(page, "| ---: |{}", " ---: |".repeat(names.len()));
    for place in places {
        let at = |(_, points): &(String, Vec<(u64, Spread)>)| {
            let found = points.iter().find(|(of, _)| *of == place).map(|(_, spread)| *spread);
            spread(found, |value| curves.number(value))
        };
        let cells: Vec<String> = curves.curves.iter().map(at).collect();
        let _ = writeln!(page, "| {} | {} |", whole(place as f64), cells.join(" | "));
    }
    page.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::Figure;

    /// Of `durable`, restarts at these numbers of keys, two rounds of each.
    fn restarts(places: &[u64]) -> Data {
        let figure = |(at, place): (usize, &u64)| Figure {
            series: "grow-keys".into(),
            point: Some(Point { axis: "keys".into(), value: *place }),
            round: at as u32 % 2 + 1,
            subject: "durable".into(),
            quantity: "restart".into(),
            value: *place as f64 + at as f64,
            unit: "s".into(),
            failures: Vec::new(),
        };
        let figures = places.iter().chain(places).enumerate().map(figure).collect();
        Data { experiments: Vec::new(), runs: Vec::new(), figures }
    }

    #[test]
    fn three_points_say_nothing_about_growth() {
        let places = [1000, 10, 10_000, 100];
        let enough = curves(&restarts(&places));
        let (name, points) = &enough[0].curves[0];
        assert_eq!((enough.len(), name.as_str()), (1, "durable"));
        let found: Vec<u64> = points.iter().map(|(place, _)| *place).collect();
        assert_eq!(found, [10, 100, 1000, 10_000], "in order, whatever came first");
        assert_eq!(points[0].1, Spread { median: 13.0, min: 11.0, max: 15.0, count: 2 });
        assert!(enough[0].shows_growth());
        let few = restarts(&places[..3]);
        assert!(!curves(&few)[0].shows_growth());
        assert_eq!(super::super::charts::all(&few).unwrap().len(), 0);
        let mut page = String::new();
        section(&mut page, &few, &[]);
        assert!(page.contains("Fewer than 4 points"), "{page}");
    }
}
