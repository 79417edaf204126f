//! Latency at half of what durable could do, from a load tool that doesn't wait for answers before
//! it asks on: a request that should have been sent while all connections were busy counts as late.

mod oha;

use std::path::PathBuf;

use anyhow::ensure;
use indicatif::ProgressBar;

use crate::files;
use crate::process::{Interrupt, Interrupted};
use crate::raw::{Run, SumCheck};
use crate::record::Record;
use crate::run::once::{Meter, Setting, failures_of_load, failures_of_warm_up, unaccounted};
use crate::run::server::{Kind, Server};
use crate::run::{self, bar_of, clock, disk, summary, tell};
use oha::{Plan, Told};

const SERIES: &str = "fixed-rate";
/// Of durable's peak.
const SHARE: f64 = 0.5;
/// A run with fewer answers than this share of what was to be sent didn't hold the rate.
const HELD: f64 = 0.98;
const SERVERS: [Kind; 2] = [Kind::Durable, Kind::Noop];

/// Which load, and how long.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How often each server is measured, in rotated order
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long each time, in seconds
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// The same load before that, in seconds; it isn't measured, but its sum is checked
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
    warm_up: u32,
    /// Connections of the load
    #[arg(long, default_value_t = run::CONNECTIONS, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
    /// Threads of wrk while it looks for the peak, at most one for each connection
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Different keys, chosen at random
    #[arg(long, default_value_t = run::KEYS, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    keys: u32,
    /// Requests per second; by default half of durable's peak, which wrk finds out first
    #[arg(long, value_name = "REQUESTS/S", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Option<u32>,
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

/// Runs the comparison and returns its file, as [`run::run`] does. The run that looked for the peak
/// is in it as round 0.
///
/// # Errors
/// oha is missing, and those of [`run::run`].
pub fn run(options: &Options) -> anyhow::Result<Vec<PathBuf>> {
    oha::check()?;
    files::allow(options.connections)?;
    let interrupt = Interrupt::on_signals()?;
    let setting = Setting::new(&options.of_wrk(), SERIES)?;
    let out = options.out.as_deref();
    let mut record = Record::begin(SERIES, SERIES, out, &options.directory, &setting.incrementer)?;
    let comparison = Comparison { options, setting, interrupt };
    let outcome = comparison.all_rounds(&mut record);
    record.end(outcome)
}

impl Options {
    fn of_wrk(&self) -> run::Options {
        run::Options {
            servers: SERVERS.to_vec(),
            rounds: self.rounds,
            seconds: self.seconds,
            warm_up: self.warm_up,
            connections: self.connections,
            threads: self.threads,
            keys: self.keys,
            pool: 16,
            series: None,
            incrementer: self.incrementer.clone(),
            directory: self.directory.clone(),
            out: None,
        }
    }

    /// Of one run.
    fn milliseconds(&self) -> u64 {
        u64::from(self.warm_up + self.seconds) * 1000
    }
}

struct Comparison<'a> {
    options: &'a Options,
    setting: Setting,
    interrupt: Interrupt,
}

impl Comparison<'_> {
    fn all_rounds(&self, record: &mut Record) -> anyhow::Result<()> {
        let peaks = u64::from(self.options.rate.is_none());
        let runs = u64::from(self.options.rounds) * SERVERS.len() as u64 + peaks;
        let bar = bar_of(self.options.milliseconds() * runs);
        let rate = match self.options.rate {
            Some(rate) => f64::from(rate),
            None => self.half_of_peak(record, &bar)?,
        };
        for round in 1..=self.options.rounds {
            record.experiment.figures.extend(disk::syncs(&self.options.directory, SERIES, round)?);
            let mut order = SERVERS;
            order.rotate_left((round as usize - 1) % SERVERS.len());
            for (place, kind) in (1..).zip(order) {
                bar.set_message(format!("round {round}, {kind} at {rate:.0} requests/s"));
                let run = self.once(kind, rate, round, place, &bar)?;
                self.keep(run, record, &bar)?;
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn half_of_peak(&self, record: &mut Record, bar: &ProgressBar) -> anyhow::Result<f64> {
        bar.set_message("the peak of durable");
        let peak = self.setting.once(Kind::Durable, 0, 1, &self.interrupt, bar)?;
        let (counts, per_s) = (peak.failures.is_empty(), peak.requests_per_s());
        self.keep(peak, record, bar)?;
        ensure!(counts, "durable's peak doesn't count, so there is no half of it");
        Ok((per_s * SHARE).round().max(1.0))
    }

    fn keep(&self, run: Run, record: &mut Record, bar: &ProgressBar) -> anyhow::Result<()> {
        tell(bar, &summary(&run));
        let versions = &mut record.experiment.machine.versions;
        versions.extend(self.setting.postgres_version.borrow().iter().cloned());
        record.experiment.runs.push(run);
        record.save()
    }

    fn once(
        &self,
        kind: Kind,
        rate: f64,
        round: u32,
        place: u32,
        bar: &ProgressBar,
    ) -> Result<Run, Interrupted> {
        let mut run = self.setting.planned(kind, round, place);
        "oha".clone_into(&mut run.load.tool);
        run.load.threads = oha::threads() as u32;
        run.load.rate = Some(rate);
        let done_before = bar.position();
        if let Err(error) = self.measure(kind, &mut run, rate, bar) {
            self.interrupt.check()?;
            run.failures.push(format!("{error:#}"));
        }
        bar.set_position(done_before + self.options.milliseconds());
        Ok(run)
    }

    fn measure(&self, kind: Kind, run: &mut Run, rate: f64, bar: &ProgressBar) -> anyhow::Result<()> {
        let options = self.options;
        let server = Server::start(kind, &self.setting, &self.interrupt)?;
        let (route, _, status) = kind.request();
        let plan = Plan { address: server.address, route, status, connections: options.connections, rate };
        plan.prepare(server.directory(), options.keys)?;
        let warm_up =
            plan.run(server.directory(), options.warm_up, &self.interrupt, clock(bar, options.warm_up))?;
        run.failures.extend(failures_of_warm_up(&warm_up.errors));
        let meter = Meter::begin(kind, &server, route)?;
        let told =
            plan.run(server.directory(), options.seconds, &self.interrupt, clock(bar, options.seconds))?;
        write(&told, run);
        run.failures.extend(failures_of_load(run));
        run.failures.extend(rate_not_held(run.requests, rate * f64::from(options.seconds)));
        // It waited for every answer.
        meter.end(run, 0)?;
        if let Some((stored, _)) = server.stop(&self.interrupt)? {
            // Each increment is 1.
            let check = SumCheck { sent: warm_up.accepted + told.accepted, stored, ..SumCheck::default() };
            run.failures.extend(unaccounted(&check));
            run.sum_check = Some(check);
        }
        Ok(())
    }
}

fn write(told: &Told, run: &mut Run) {
    (run.requests, run.increments) = (told.accepted, told.accepted);
    run.seconds = told.seconds;
    run.latency_us = told.latency_us.clone();
    run.errors = told.errors.clone();
}

fn rate_not_held(answered: u64, planned: f64) -> Option<String> {
    let share = answered as f64 / planned;
    (share < HELD).then(|| {
        format!("the rate wasn't held: {answered} requests were answered, {planned:.0} were to be sent")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_that_was_not_held_is_told() {
        assert_eq!(rate_not_held(980, 1000.0), None);
        assert_eq!(rate_not_held(1001, 1000.0), None);
        let told = rate_not_held(979, 1000.0).unwrap();
        assert_eq!(told, "the rate wasn't held: 979 requests were answered, 1000 were to be sent");
    }
}
