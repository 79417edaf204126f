//! Which charts there are, and their files.

use anyhow::Context;
use serde_json::{Value, json};

use super::data::{Data, ratio, spread_of};
use super::growth::{Curves, curves};
use super::numbers::{capital, whole};
use super::page::{load, title};
use crate::chart::{Bars, Group, Line, Lines, png, vega_schema};

/// A chart, ready to be written.
#[derive(Debug)]
pub(super) struct Chart {
    /// The series that it shows.
    pub(super) series: String,
    pub(super) title: String,
    /// Of its files, without what follows the point.
    pub(super) name: String,
    pub(super) files: Vec<(String, Vec<u8>)>,
}

pub(super) fn all(data: &Data) -> anyhow::Result<Vec<Chart>> {
    let bars = data.series().into_iter().filter_map(|series| by_run(data, series));
    let growing = curves(data).into_iter().filter(Curves::shows_growth).map(|curves| of_growth(&curves));
    bars.chain(growing).collect()
}

/// Requests per second by run; in bulk, increments.
fn by_run(data: &Data, series: &str) -> Option<anyhow::Result<Chart>> {
    let first = data.runs_of(series).next()?;
    // Where the rate was fixed there is nothing to compare.
    if first.load.rate.is_some() {
        return None;
    }
    let bulk = data.runs_of(series).any(|run| run.increments != run.requests);
    let what = if bulk { "increments" } else { "requests" };
    let rate =
        |server: &str| if bulk { data.increments(series, server) } else { data.requests(series, server) };
    let noop = rate("noop");
    let group = |server: &str| {
        let rates = rate(server);
        let median = spread_of(&rates)?.median;
        let beside = ratio(&rates, &noop).filter(|_| server != "noop");
        let beside = beside.map_or_else(String::new, |ratio| format!("{:.2} × noop", ratio.median));
        Some(Group { name: server.to_owned(), values: rates, median, note: beside })
    };
    let groups: Vec<Group> = data.servers(series).into_iter().filter_map(group).collect();
    if groups.is_empty() {
        return None;
    }
    let runs = groups.iter().map(|group| group.values.len()).max().unwrap_or(0);
    let title = match series {
        "main" => format!("{} per second by run", capital(what)),
        _ => format!("{} per second by run: {}", capital(what), title(series).to_lowercase()),
    };
    let subtitle = format!(
        "{} {} {} each, one bar a run; the line is the median.",
        load(first),
        whole(runs as f64),
        if runs == 1 { "run" } else { "runs" }
    );
    let spec = vega_by_run(&title, what, &groups);
    let name = if series == "main" { what.to_owned() } else { format!("{what}-{series}") };
    let svg = Bars { title: title.clone(), subtitle, axis: format!("{what} per second"), groups }.svg();
    Some(files(&svg, &spec, &name).map(|files| Chart { series: series.to_owned(), title, name, files }))
}

fn of_growth(curves: &Curves) -> anyhow::Result<Chart> {
    let title = capital(&curves.title());
    let lines = curves.curves.iter().map(|(name, points)| Line {
        name: name.clone(),
        points: points.iter().map(|(place, spread)| (*place as f64, *spread)).collect(),
    });
    let (unit, scale) = match curves.unit.as_str() {
        "us" => ("milliseconds", 1e-3),
        "s" => ("seconds", 1.0),
        "rss" => ("MiB", 1.0 / f64::from(1 << 20)),
        "/s" => ("per second", 1.0),
        other => (other, 1.0),
    };
    let chart = Lines {
        title: title.clone(),
        subtitle: "Medians, with the lowest and the highest.".to_owned(),
        x: super::growth::axis(&curves.axis),
        y: unit.to_owned(),
        scale,
        lines: lines.collect(),
    };
    let (name, spec) = (curves.name(), vega_growth(&title, unit, scale, curves));
    let files = files(&chart.svg(), &spec, &name)?;
    Ok(Chart { series: curves.series.clone(), title, name, files })
}

fn files(svg: &str, spec: &Value, name: &str) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let png = png(svg).with_context(|| format!("the chart {name} can't be drawn"))?;
    Ok(vec![
        (format!("{name}.svg"), svg.as_bytes().to_vec()),
        (format!("{name}.png"), png),
        (format!("{name}.vl.json"), format!("{spec:#}\n").into_bytes()),
    ])
}

/// The fields are those of the write-up that this experiment began from, so that its notebook
/// takes them: `run`, `requests`, `type`.
fn vega_by_run(title: &str, what: &str, groups: &[Group]) -> Value {
    let rows = |group: &Group| -> Vec<Value> {
        let row =
            |(run, rate): &(u32, f64)| json!({"run": run, "requests": rate.round(), "type": group.name});
        group.values.iter().map(row).collect()
    };
    let values: Vec<Value> = groups.iter().flat_map(rows).collect();
    let order: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
    let colors: Vec<&str> = order.iter().map(|name| crate::chart::color(name)).collect();
    json!({
        "$schema": vega_schema(),
        "title": title,
        "width": 640,
        "height": {"step": 14},
        "data": {"values": values},
        "mark": {"type": "bar", "tooltip": true},
        "encoding": {
            "y": {"field": "type", "type": "nominal", "sort": order, "title": null},
            "yOffset": {"field": "run", "type": "ordinal"},
            "x": {"field": "requests", "type": "quantitative", "title": format!("{what} per second")},
            "color": {
                "field": "type", "type": "nominal", "legend": null,
                "scale": {"domain": order, "range": colors}
            }
        }
    })
}

fn vega_growth(title: &str, unit: &str, scale: f64, curves: &Curves) -> Value {
    let mut values = Vec::new();
    for (name, points) in &curves.curves {
        for (place, spread) in points {
            let [median, low, high] = [spread.median, spread.min, spread.max].map(|value| value * scale);
            values.push(json!({"type": name, "x": place, "y": median, "low": low, "high": high}));
        }
    }
    let order: Vec<&str> = curves.curves.iter().map(|(name, _)| name.as_str()).collect();
    let colors: Vec<&str> = order.iter().map(|name| crate::chart::color(name)).collect();
    let color = json!({"field": "type", "type": "nominal", "title": null, "scale": {"domain": order, "range": colors}});
    let x = json!({"field": "x", "type": "quantitative", "scale": {"type": "log"}, "title": super::growth::axis(&curves.axis)});
    json!({
        "$schema": vega_schema(),
        "title": title,
        "width": 640,
        "height": 360,
        "data": {"values": values},
        "encoding": {"x": x, "color": color},
        "layer": [
            {"mark": "rule", "encoding": {
                "y": {"field": "low", "type": "quantitative", "title": unit}, "y2": {"field": "high"}
            }},
            {"mark": {"type": "line", "point": true, "tooltip": true}, "encoding": {
                "y": {"field": "y", "type": "quantitative", "title": unit}
            }}
        ]
    })
}
