//! What is measured without load: starts, flushes, memory, replay, each beside what the bare tool takes.

mod database;
mod instance;
mod loaded;
mod replay;

use std::path::{Path, PathBuf};

use indicatif::ProgressBar;

use crate::process::{Interrupt, Interrupted};
use crate::raw::Figure;
use crate::record::Record;
use crate::run::{bar_of, beside, tell};

/// Which of them, and how large.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How often each figure is measured, in rotated order
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Totals in the table for starts, flushes and memory
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(1000..=50_000_000))]
    totals: u32,
    /// Different keys in a flush, at most as many as there are totals
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Increments in a journal that is replayed, at least
    #[arg(long, default_value_t = 4_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    replayed: u32,
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

/// Measures all of them and returns the file, which is written anew after each round.
///
/// # Errors
/// The server's binary or wrk is missing, something can't be started or fails before anything could be
/// measured, a signal came, or a figure doesn't count; the last two name the file.
pub fn run(options: &Options) -> anyhow::Result<Vec<PathBuf>> {
    anyhow::ensure!(
        options.batch <= options.totals,
        "a batch of {} different keys needs as many totals, not {}",
        options.batch,
        options.totals
    );
    let interrupt = Interrupt::on_signals()?;
    crate::load::check()?;
    crate::run::check_postgres()?;
    let incrementer = beside(options.incrementer.as_deref(), "--incrementer")?;
    let out = options.out.as_deref();
    let record = Record::begin("figures", "figures", out, &options.directory, &incrementer)?;
    let steps = loaded::steps(options) + replay::steps(options);
    let mut work = Work { options, incrementer: &incrementer, interrupt, record, bar: bar_of(steps) };
    let outcome = replay::all(&mut work).and_then(|()| loaded::all(&mut work));
    work.bar.finish_and_clear();
    work.record.end(outcome)
}

/// What both parts share.
struct Work<'a> {
    options: &'a Options,
    incrementer: &'a Path,
    interrupt: Interrupt,
    record: Record,
    bar: ProgressBar,
}

impl Work<'_> {
    /// Takes the figures of one round. One that can't be had stands there with the reason.
    ///
    /// # Errors
    /// A signal came, or the file can't be written.
    fn keep(&mut self, figures: Vec<Figure>) -> anyhow::Result<()> {
        for figure in figures {
            let Figure { round, subject, quantity, value, unit, failures, .. } = &figure;
            let outcome = if failures.is_empty() { "ok".to_owned() } else { failures.join("; ") };
            tell(
                &self.bar,
                &format!("round {round} {subject:<8} {quantity:<18} {value:>14.3} {unit}: {outcome}"),
            );
            self.record.experiment.figures.push(figure);
        }
        self.record.save()
    }

    /// The figures of a round, or those names with the reason why there are none.
    ///
    /// # Errors
    /// A signal came.
    fn or_failed(
        &self,
        outcome: anyhow::Result<Vec<Figure>>,
        names: &[Name],
        round: u32,
    ) -> Result<Vec<Figure>, Interrupted> {
        let error = match outcome {
            Ok(figures) => return Ok(figures),
            Err(error) => format!("{error:#}"),
        };
        self.interrupt.check()?;
        let failed =
            names.iter().map(|name| Figure { failures: vec![error.clone()], ..name.figure(round, 0.0) });
        Ok(failed.collect())
    }
}

/// What a figure is called.
#[derive(Clone, Copy, Debug)]
struct Name {
    series: &'static str,
    subject: &'static str,
    quantity: &'static str,
    unit: &'static str,
}

impl Name {
    fn figure(self, round: u32, value: f64) -> Figure {
        Figure {
            series: self.series.to_owned(),
            point: None,
            round,
            subject: self.subject.to_owned(),
            quantity: self.quantity.to_owned(),
            value,
            unit: self.unit.to_owned(),
            failures: Vec::new(),
        }
    }
}
