//! The runs and figures of some experiments, as the page asks for them.

use crate::raw::{Experiment, Figure, Latency, Run};
use crate::stats::{Spread, paired_ratio, spread};

/// What was measured in which round.
pub(super) type ByRound = Vec<(u32, f64)>;

/// The order in which servers stand everywhere: ours by how much they do, then their peers.
const ORDER: [&str; 9] =
    ["noop", "memory", "durable", "sync", "nginx", "nginx-lua", "webdis", "redis", "redis-aof"];

#[derive(Debug)]
pub(super) struct Data {
    pub(super) experiments: Vec<Experiment>,
    /// Of all experiments. Their rounds are numbered on, so that no pair reaches across two.
    pub(super) runs: Vec<Run>,
    pub(super) figures: Vec<Figure>,
}

impl Data {
    pub(super) fn of(experiments: Vec<Experiment>) -> Self {
        let (mut runs, mut figures) = (Vec::new(), Vec::new());
        let mut passed = 0;
        for experiment in &experiments {
            let number_on = |round: &mut u32| *round += if *round > 0 { passed } else { 0 };
            let (mut its_runs, mut its_figures) = (experiment.runs.clone(), experiment.figures.clone());
            its_runs.iter_mut().for_each(|run| number_on(&mut run.round));
            its_figures.iter_mut().for_each(|figure| number_on(&mut figure.round));
            let rounds = its_runs.iter().map(|run| run.round);
            passed =
                rounds.chain(its_figures.iter().map(|figure| figure.round)).max().unwrap_or(0).max(passed);
            runs.extend(its_runs);
            figures.extend(its_figures);
        }
        Self { experiments, runs, figures }
    }

    /// The names of the series of runs that lie on no axis, in the order in which they came.
    pub(super) fn series(&self) -> Vec<&str> {
        let flat = self.runs.iter().filter(|run| run.point.is_none() && run.round > 0);
        in_order_of_coming(flat.map(|run| run.series.as_str()))
    }

    /// The runs of one series without its warm-up, failed ones included.
    pub(super) fn runs_of<'a>(&'a self, series: &'a str) -> impl Iterator<Item = &'a Run> {
        self.runs.iter().filter(move |run| run.series == series && run.round > 0)
    }

    /// The servers of one series.
    pub(super) fn servers<'a>(&'a self, series: &'a str) -> Vec<&'a str> {
        let mut servers = in_order_of_coming(self.runs_of(series).map(|run| run.server.as_str()));
        servers.sort_by_key(|server| place(server));
        servers
    }

    /// What `value` says of the runs that count.
    pub(super) fn measured(
        &self,
        series: &str,
        server: &str,
        value: impl Fn(&Run) -> Option<f64>,
    ) -> ByRound {
        let runs = self.runs_of(series).filter(|run| run.server == server && run.counts());
        runs.filter_map(|run| Some((run.round, value(run)?))).collect()
    }

    pub(super) fn requests(&self, series: &str, server: &str) -> ByRound {
        self.measured(series, server, |run| Some(run.requests_per_s()))
    }

    pub(super) fn increments(&self, series: &str, server: &str) -> ByRound {
        self.measured(series, server, |run| Some(run.increments_per_s()))
    }

    pub(super) fn latency(&self, series: &str, server: &str, which: impl Fn(&Latency) -> f64) -> ByRound {
        self.measured(series, server, |run| run.latency_us.as_ref().map(&which))
    }

    /// A figure by subject and quantity; those on an axis of growth don't belong here.
    pub(super) fn figure(&self, subject: &str, quantity: &str) -> ByRound {
        let is_it = |figure: &&Figure| {
            figure.subject == subject && figure.quantity == quantity && figure.point.is_none()
        };
        let counts = |figure: &&Figure| figure.failures.is_empty();
        self.figures.iter().filter(is_it).filter(counts).map(|figure| (figure.round, figure.value)).collect()
    }

    /// A figure of the disk in the rounds of `series`; where it was measured on its own, its
    /// median stands for every round.
    pub(super) fn disk(&self, series: &str, quantity: &str, rounds: &[(u32, f64)]) -> ByRound {
        let of_series = self.figures.iter().filter(|figure| {
            figure.series == series && figure.quantity == quantity && figure.failures.is_empty()
        });
        let paired: ByRound = of_series.map(|figure| (figure.round, figure.value)).collect();
        if !paired.is_empty() {
            return paired;
        }
        let median = spread_of(&self.figure("disk", quantity)).map(|spread| spread.median);
        rounds.iter().filter_map(|(round, _)| Some((*round, median?))).collect()
    }
}

/// Where a server stands; those that nobody knows come last.
pub(super) fn place(server: &str) -> usize {
    ORDER.iter().position(|known| *known == server).unwrap_or(ORDER.len())
}

pub(super) fn in_order_of_coming<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

pub(super) fn spread_of(values: &[(u32, f64)]) -> Option<Spread> {
    spread(&values.iter().map(|(_, value)| *value).collect::<Vec<_>>())
}

/// What both have in a round, added up.
pub(super) fn sum(left: &[(u32, f64)], right: &[(u32, f64)]) -> ByRound {
    let other = |round| right.iter().find(|(of, _)| *of == round).map(|(_, value)| *value);
    left.iter().filter_map(|(round, value)| Some((*round, value + other(*round)?))).collect()
}

pub(super) fn ratio(upper: &[(u32, f64)], lower: &[(u32, f64)]) -> Option<Spread> {
    paired_ratio(upper, lower)
}
