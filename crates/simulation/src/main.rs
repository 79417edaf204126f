//! `simulate`: replays one seed, or runs many.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use simulation::{Report, Sabotage};

/// Runs the whole of incrementer on simulated disks, clocks, stores and clients; the seed decides
/// every fault.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
struct Arguments {
    /// Runs this one seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Prints every event of the run.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Runs these seeds, the last one excluded, such as 0..10000.
    #[arg(long, value_parser = range)]
    seeds: Option<Range<u64>>,
    /// How many runs go on at the same time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Breaks the product on purpose; see --list-sabotage.
    #[arg(long, value_parser = sabotage)]
    sabotage: Option<Sabotage>,
    /// Shows how the product can be broken on purpose.
    #[arg(long)]
    list_sabotage: bool,
}

fn range(text: &str) -> anyhow::Result<Range<u64>> {
    let (from, to) = text.split_once("..").context("two numbers with .. between them, such as 0..1000")?;
    let range = from.trim().parse()?..to.trim().parse()?;
    if range.is_empty() {
        bail!("there is no seed in {text}");
    }
    Ok(range)
}

fn sabotage(name: &str) -> anyhow::Result<Sabotage> {
    Sabotage::named(name).with_context(|| format!("{name:?} is not in --list-sabotage"))
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list_sabotage {
        for sabotage in Sabotage::ALL {
            let (name, what) = sabotage.describe();
            println!("{name:20} {what}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let failures = match (arguments.seed, arguments.seeds) {
        (Some(seed), _) => replay(seed, arguments.sabotage, arguments.trace),
        (None, Some(seeds)) => soak(seeds, arguments.jobs.max(1), arguments.sabotage),
        (None, None) => bail!("name a seed with --seed N, or many with --seeds A..B; --help explains more"),
    };
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn replay(seed: u64, sabotage: Option<Sabotage>, trace: bool) -> usize {
    let report = simulation::run(seed, sabotage, trace);
    if let Some(trace) = &report.trace {
        print!("{trace}");
    }
    let counts = report.counts.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>();
    println!("seed {seed}: digest {:016x}; {}", report.digest, counts.join(", "));
    tell(&report);
    usize::from(report.broken.is_some())
}

fn tell(report: &Report) {
    if let Some(broken) = &report.broken {
        println!("seed {} fails: {broken}", report.seed);
    }
}

fn soak(seeds: Range<u64>, jobs: usize, sabotage: Option<Sabotage>) -> usize {
    let total = seeds.end - seeds.start;
    let template = "{bar:40} {pos}/{len} seeds, {per_sec}, {eta} to go, {msg}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(total).with_style(style).with_message("none failed");
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(Vec::new());
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = simulation::run(seed, sabotage, false);
                    bar.inc(1);
                    if let (Some(broken), Ok(mut failed)) = (report.broken, failed.lock()) {
                        failed.push((seed, broken));
                        bar.set_message(format!("{} failed", failed.len()));
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut failed = failed.into_inner().unwrap_or_default();
    failed.sort_unstable();
    for (seed, broken) in failed.iter().take(20) {
        println!("seed {seed} fails: {broken}");
    }
    if failed.len() > 20 {
        println!("… and {} more", failed.len() - 20);
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} of {total} seeds fail; {:.0} seeds/s", failed.len(), total as f64 / seconds.max(1e-9));
    if let Some((seed, _)) = failed.first() {
        println!("to see how: simulate --seed {seed} --trace");
    }
    failed.len()
}
