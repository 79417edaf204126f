//! How cost grows, one axis at a time: keys, and connections.
//!
//! At each number of keys the server and its table hold that many counters before anything is
//! measured. Along the connections nothing else changes.

mod bulk;
mod flush;
mod keys;

use std::path::PathBuf;

use indicatif::ProgressBar;

use crate::files;
use crate::process::{Interrupt, Interrupted};
use crate::raw::{Figure, Point, Run};
use crate::record::Record;
use crate::report::whole;
use crate::run::once::Setting;
use crate::run::server::Kind;
use crate::run::{self, bar_of, disk, summary, tell};

/// A run takes so many milliseconds beside its load: a PostgreSQL is made, things start and stop.
const BESIDE_LOAD_MS: u64 = 4000;
/// So many keys are filled in within a millisecond, on a small machine; so the bar believes.
const FILLED_IN_A_MS: u64 = 80;

/// What grows, and the load at each point.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What grows
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Axis::Keys, Axis::Connections])]
    axes: Vec<Axis>,
    /// Numbers of keys, at each of which server and table hold that many counters
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = clap::value_parser!(u32).range(1..=50_000_000),
        default_values_t = [1_000, 10_000, 100_000, 1_000_000, 10_000_000])]
    keys: Vec<u32>,
    /// Numbers of connections
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = clap::value_parser!(u32).range(1..=20_000),
        default_values_t = [1, 4, 16, 64, 256, 1024, 4096])]
    connections: Vec<u32>,
    /// Keys where connections grow
    #[arg(long, default_value_t = run::KEYS, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    at_keys: u32,
    /// Connections where keys grow
    #[arg(long, default_value_t = run::CONNECTIONS, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    at_connections: u32,
    /// How often each point is measured, there and back
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long the load lasts at each point, in seconds
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// The same load before that, in seconds; it isn't measured, but its sums are checked
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=3600))]
    warm_up: u32,
    /// Threads of the load, at most one for each connection
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// The server's binary; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    incrementer: Option<PathBuf>,
    /// Where data directories and databases are made; what is there is removed at the end
    #[arg(long, default_value = "/var/tmp", value_name = "DIR")]
    directory: PathBuf,
    /// The file for the raw JSON; by default in `bench-results/`, named after the time
    #[arg(long, value_name = "RAW.json")]
    out: Option<PathBuf>,
}

/// What grows while all else stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Axis {
    /// Counters that exist
    Keys,
    /// Clients at once
    Connections,
}

impl Axis {
    fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Connections => "connections",
        }
    }
}

/// One point of one axis.
struct Step {
    axis: Axis,
    value: u32,
    setting: Setting,
}

impl Options {
    /// In order, each point once.
    fn steps(&self) -> anyhow::Result<Vec<Step>> {
        let mut steps = Vec::new();
        for axis in [Axis::Keys, Axis::Connections] {
            let mut values = match axis {
                _ if !self.axes.contains(&axis) => Vec::new(),
                Axis::Keys => self.keys.clone(),
                Axis::Connections => self.connections.clone(),
            };
            values.sort_unstable();
            values.dedup();
            for value in values {
                steps.push(self.step(axis, value)?);
            }
        }
        Ok(steps)
    }

    fn step(&self, axis: Axis, value: u32) -> anyhow::Result<Step> {
        let (keys, connections) = match axis {
            Axis::Keys => (value, self.at_connections),
            Axis::Connections => (self.at_keys, value),
        };
        let options = run::Options {
            servers: vec![Kind::Noop, Kind::Durable],
            rounds: self.rounds,
            seconds: self.seconds,
            warm_up: self.warm_up,
            connections,
            threads: self.threads,
            keys,
            // Nothing here has a pool.
            pool: 1,
            series: None,
            incrementer: self.incrementer.clone(),
            directory: self.directory.clone(),
            out: self.out.clone(),
        };
        let setting = Setting::new(&options, &format!("grow-{}", axis.name()))?;
        Ok(Step { axis, value, setting })
    }
}

impl Step {
    fn point(&self) -> Point {
        Point { axis: self.axis.name().to_owned(), value: self.value.into() }
    }

    /// How many milliseconds it takes, about.
    fn costs_ms(&self, kind: Kind) -> u64 {
        let options = &self.setting.options;
        let load = u64::from(options.warm_up + options.seconds) * 1000 + BESIDE_LOAD_MS;
        load + if self.is_filled(kind) { keys::costs_ms(self.value) } else { 0 }
    }

    fn is_filled(&self, kind: Kind) -> bool {
        self.axis == Axis::Keys && kind == Kind::Durable
    }

    /// Measures one server at this point. What goes wrong with it stands in the run, and then
    /// nothing that was measured beside counts either.
    fn measure(
        &self,
        kind: Kind,
        round: u32,
        place: u32,
        interrupt: &Interrupt,
        bar: &ProgressBar,
    ) -> Result<(Run, Vec<Figure>), Interrupted> {
        if !self.is_filled(kind) {
            let run = self.setting.once(kind, round, place, interrupt, bar)?;
            return Ok((Run { point: Some(self.point()), ..run }, Vec::new()));
        }
        let mut run = self.setting.planned(kind, round, place);
        run.point = Some(self.point());
        let mut figures = Vec::new();
        if let Err(error) = keys::measure(&self.setting, &mut run, &mut figures, interrupt, bar) {
            interrupt.check()?;
            run.failures.push(format!("{error:#}"));
        }
        if !run.failures.is_empty() {
            let why = "the run that it was measured beside doesn't count";
            figures.iter_mut().for_each(|figure| figure.failures.push(why.to_owned()));
        }
        Ok((run, figures))
    }
}

/// Measures all points, and returns the file, which is written anew after each of them.
///
/// # Errors
/// wrk or the server's binary is missing, there may not be as many open files as connections, a
/// file can't be written, a signal came, or a run doesn't count; the last two name the file.
pub fn run(options: &Options) -> anyhow::Result<Vec<PathBuf>> {
    let steps = options.steps()?;
    let most = steps.iter().map(|step| step.setting.options.connections).max().unwrap_or_default();
    files::allow(most)?;
    let interrupt = Interrupt::on_signals()?;
    let incrementer = run::beside(options.incrementer.as_deref(), "--incrementer")?;
    let out = options.out.as_deref();
    let mut record = Record::begin("grow", "grow", out, &options.directory, &incrementer)?;
    let outcome = all_rounds(options, &steps, &interrupt, &mut record);
    record.end(outcome)
}

fn all_rounds(
    options: &Options,
    steps: &[Step],
    interrupt: &Interrupt,
    record: &mut Record,
) -> anyhow::Result<()> {
    let servers = [Kind::Noop, Kind::Durable];
    let costs_ms = |step: &Step| servers.map(|kind| step.costs_ms(kind)).iter().sum::<u64>();
    let bar = bar_of(u64::from(options.rounds) * steps.iter().map(costs_ms).sum::<u64>());
    bar.enable_steady_tick(std::time::Duration::from_secs(1));
    for round in 1..=options.rounds {
        for series in in_order(steps.iter().map(|step| step.setting.series.as_str())) {
            record.experiment.figures.extend(disk::syncs(&options.directory, series, round)?);
        }
        for (at, step) in there_and_back(steps, round).enumerate() {
            let mut order = servers;
            order.rotate_left((round as usize + at) % servers.len());
            for (place, kind) in (1..).zip(order) {
                let point = format!("{} {}", whole(step.value.into()), step.axis.name());
                bar.set_message(format!("round {round}, {point}, {kind}"));
                let until = bar.position() + step.costs_ms(kind);
                let (run, figures) = step.measure(kind, round, place, interrupt, &bar)?;
                bar.set_position(until);
                tell(&bar, &format!("{point}: {}", summary(&run)));
                let experiment = &mut record.experiment;
                experiment.machine.versions.extend(step.setting.postgres_version.borrow().iter().cloned());
                experiment.runs.push(run);
                experiment.figures.extend(figures);
                record.save()?;
            }
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// The next round goes the other way, so that what drifts while a round lasts isn't taken for
/// growth.
fn there_and_back(steps: &[Step], round: u32) -> Box<dyn Iterator<Item = &Step> + '_> {
    if round % 2 == 1 { Box::new(steps.iter()) } else { Box::new(steps.iter().rev()) }
}

/// Each once.
fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(arguments: &[&str]) -> Result<Options, clap::Error> {
        Line::try_parse_from([&["grow"], arguments].concat()).map(|line| line.options)
    }

    /// Axis, keys, connections and threads of each point.
    fn points(arguments: &[&str]) -> Vec<(&'static str, u32, u32, u32)> {
        let this = std::env::current_exe().unwrap();
        let with_binary = [arguments, &["--incrementer", this.to_str().unwrap()]].concat();
        let steps = parse(&with_binary).unwrap().steps().unwrap();
        let point = |step: &Step| {
            let planned = step.setting.planned(Kind::Durable, 1, 1);
            let load = planned.load;
            assert_eq!(planned.series, format!("grow-{}", step.axis.name()));
            (step.axis.name(), load.keys as u32, load.connections, load.threads)
        };
        steps.iter().map(point).collect()
    }

    #[test]
    fn one_axis_grows_at_a_time_over_enough_points() {
        let points = points(&[]);
        let (keys, connections): (Vec<_>, Vec<_>) = points.into_iter().partition(|point| point.0 == "keys");
        let grow: Vec<u32> = keys.iter().map(|point| point.1).collect();
        assert_eq!(grow, [1000, 10_000, 100_000, 1_000_000, 10_000_000]);
        assert!(keys.iter().all(|(_, _, connections, threads)| (*connections, *threads) == (400, 16)));
        let grow: Vec<(u32, u32)> = connections.iter().map(|point| (point.2, point.3)).collect();
        assert_eq!(grow, [(1, 1), (4, 4), (16, 16), (64, 16), (256, 16), (1024, 16), (4096, 16)]);
        assert!(connections.iter().all(|point| point.1 == 10_000));
    }

    #[test]
    fn a_list_is_taken_in_order_and_each_point_once() {
        let arguments =
            ["--keys", "70,5,70", "--connections", "2", "--at-keys", "9", "--at-connections", "3"];
        assert_eq!(points(&arguments), [("keys", 5, 3, 3), ("keys", 70, 3, 3), ("connections", 9, 2, 2)]);
        assert_eq!(points(&["--axes", "connections", "--connections", "8"]), [("connections", 10_000, 8, 8)]);
        for refused in [["--keys", "0"], ["--keys", "50000001"], ["--connections", "5,x"], ["--axes", "rows"]]
        {
            assert!(parse(&refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_round_goes_back_where_the_one_before_went() {
        let this = std::env::current_exe().unwrap();
        let arguments = ["--axes", "keys", "--keys", "1,2,3", "--incrementer", this.to_str().unwrap()];
        let steps = parse(&arguments).unwrap().steps().unwrap();
        let order = |round| there_and_back(&steps, round).map(|step| step.value).collect::<Vec<_>>();
        assert_eq!([order(1), order(2), order(3)], [[1, 2, 3], [3, 2, 1], [1, 2, 3]]);
    }
}
