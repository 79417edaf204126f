//! The targets of the experiment, and whether what was measured meets them.

use super::data::{ByRound, Data, ratio, spread_of, sum};
use crate::stats::Spread;

/// So many paired rounds a ratio needs before it says anything.
pub(super) const ROUNDS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Met,
    Missed,
    NotMeasured,
    /// In fewer rounds than [`ROUNDS`].
    TooFew,
}

pub(super) struct Target {
    /// What is measured, for people.
    pub(super) figure: &'static str,
    pub(super) bound: Bound,
    /// Empty for a ratio.
    pub(super) unit: &'static str,
    measure: fn(&Data) -> Option<Spread>,
}

/// A target, and how it was met.
pub(super) struct Standing {
    pub(super) target: Target,
    pub(super) measured: Option<Spread>,
    pub(super) verdict: Verdict,
}

pub(super) fn standings(data: &Data) -> Vec<Standing> {
    let standing = |target: Target| {
        let measured = (target.measure)(data);
        Standing { verdict: judge(target.bound, target.unit, measured), measured, target }
    };
    targets().into_iter().map(standing).collect()
}

fn judge(bound: Bound, unit: &str, measured: Option<Spread>) -> Verdict {
    let Some(Spread { median, count, .. }) = measured else { return Verdict::NotMeasured };
    let holds = match bound {
        Bound::AtLeast(least) => median >= least,
        Bound::AtMost(most) => median <= most,
    };
    match (holds, unit.is_empty() && count < ROUNDS) {
        (_, true) => Verdict::TooFew,
        (true, false) => Verdict::Met,
        (false, false) => Verdict::Missed,
    }
}

fn targets() -> Vec<Target> {
    use Bound::{AtLeast, AtMost};
    let ratio = |figure, bound, measure| Target { figure, bound, unit: "", measure };
    vec![
        ratio("requests/s, durable ÷ noop, 10,000 keys, 400 connections", AtLeast(0.95), |data| {
            requests(data, "main", "noop")
        }),
        ratio("… 64 connections", AtLeast(0.65), |data| requests(data, "connections-64", "noop")),
        ratio("… 1 connection: p50 of durable ÷ (p50 of noop + one fdatasync)", AtMost(1.3), |data| {
            latency(data, "connections-1", "fdatasync_p50", |latency| latency.p50)
        }),
        ratio("… 1,000,000 keys", AtLeast(0.60), |data| requests(data, "keys-1000000", "noop")),
        ratio("requests/s, durable ÷ sync", AtLeast(10.0), |data| requests(data, "main", "sync")),
        ratio("requests/s, durable ÷ nginx `return 202`", AtLeast(1.05), |data| {
            requests(data, "main", "nginx")
        }),
        ratio("requests/s, durable ÷ nginx with a Lua dictionary", AtLeast(1.2), |data| {
            requests(data, "main", "nginx-lua")
        }),
        ratio("requests/s, durable ÷ webdis before Redis with AOF `always`", AtLeast(2.1), |data| {
            requests(data, "main", "webdis")
        }),
        ratio(
            "p99 of durable ÷ (p99 of noop + p99 of one fdatasync), at half of durable's peak",
            AtMost(1.5),
            |data| latency(data, "fixed-rate", "fdatasync_p99", |latency| latency.p99),
        ),
        ratio("increments/s in bulk, durable ÷ Redis pipelined ×64 without persistence", AtLeast(1.5), bulk),
        ratio("flushing, distinct keys/s ÷ a bare sorted upsert by psql", AtLeast(0.9), |data| {
            figures(data, ("durable", "flush_keys"), ("psql", "bare_upsert_keys"))
        }),
        Target {
            figure: "memory for a counter beside its key, 10 million counters, nothing pending",
            bound: AtMost(64.0),
            unit: "bytes",
            measure: |data| spread_of(&data.figure("durable", "memory_per_counter")),
        },
        ratio("start with 10 million totals ÷ `COPY counters TO STDOUT`", AtMost(2.5), |data| {
            figures(data, ("durable", "start"), ("psql", "copy_out"))
        }),
        Target {
            figure: "replay of the journal",
            bound: AtLeast(5e6),
            unit: "increments/s",
            measure: |data| spread_of(&data.figure("durable", "replay")),
        },
    ]
}

fn requests(data: &Data, series: &str, of: &str) -> Option<Spread> {
    ratio(&data.requests(series, "durable"), &data.requests(series, of))
}

/// Beside what can't be had faster: an answer that counts nothing, and one commit of the disk.
fn latency(data: &Data, series: &str, sync: &str, which: fn(&crate::raw::Latency) -> f64) -> Option<Spread> {
    let noop = data.latency(series, "noop", which);
    let least = sum(&noop, &data.disk(series, sync, &noop));
    ratio(&data.latency(series, "durable", which), &least)
}

fn bulk(data: &Data) -> Option<Spread> {
    let redis = data.increments("bulk", "redis");
    let redis = if redis.is_empty() { data.increments("pipelined", "redis") } else { redis };
    ratio(&data.increments("bulk", "durable"), &redis)
}

fn figures(data: &Data, upper: (&str, &str), lower: (&str, &str)) -> Option<Spread> {
    // The bare command may have been run by another tool, under another name.
    let lower: ByRound = match data.figure(lower.0, lower.1) {
        found if found.is_empty() => data.figure("postgres", lower.1),
        found => found,
    };
    ratio(&data.figure(upper.0, upper.1), &lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_by_the_median_of_enough_rounds() {
        let of = |median, count| Some(Spread { median, min: 0.0, max: 9.0, count });
        assert_eq!(judge(Bound::AtLeast(0.95), "", of(0.95, 5)), Verdict::Met);
        assert_eq!(judge(Bound::AtLeast(0.95), "", of(0.949, 5)), Verdict::Missed);
        assert_eq!(judge(Bound::AtMost(1.3), "", of(1.3, 6)), Verdict::Met);
        assert_eq!(judge(Bound::AtMost(1.3), "", of(1.31, 6)), Verdict::Missed);
        assert_eq!(judge(Bound::AtLeast(0.95), "", of(1.0, 4)), Verdict::TooFew);
        assert_eq!(judge(Bound::AtMost(64.0), "bytes", of(44.0, 1)), Verdict::Met);
        assert_eq!(judge(Bound::AtMost(64.0), "bytes", None), Verdict::NotMeasured);
    }
}
