//! `incrementer-bench`: servers under load, side by side.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use incrementer_bench::{bulk, figures, fixed_rate, grow, profile, report, run, serve};

// As in the server, so that baselines differ in the counting alone.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Servers under the same load, side by side.
#[derive(Debug, Parser)]
#[command(name = "incrementer-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Many increments in a request, and pipelined, beside Redis: increments/s, into raw JSON
    Bulk(bulk::Options),
    /// Starts, flushes, memory and replay, beside what PostgreSQL takes bare, into raw JSON
    Figures(figures::Options),
    /// Latency at half of durable's peak, durable beside the HTTP layer alone, into raw JSON
    FixedRate(fixed_rate::Options),
    /// How cost grows, one axis at a time: keys, then connections; writes raw JSON
    Grow(grow::Options),
    /// Where the CPU time of the durable server goes under load: a flame graph and a table
    Profile(profile::Options),
    /// Writes a page with tables and charts from the raw JSON of experiments
    Report {
        /// What the other commands wrote
        #[arg(required = true, value_name = "RAW.json")]
        raw: Vec<PathBuf>,
        /// The folder for the page and its charts
        #[arg(long, default_value = "report", value_name = "DIR")]
        out: PathBuf,
    },
    /// Puts servers under the same load in turn, checks what they stored, writes raw JSON
    Run(run::Options),
    /// Serves a baseline on the product's own HTTP layer until it is stopped
    Serve(serve::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Bulk(options) => bulk::run(&options),
        Command::Figures(options) => figures::run(&options),
        Command::FixedRate(options) => fixed_rate::run(&options),
        Command::Grow(options) => grow::run(&options),
        Command::Profile(options) => profile::run(&options),
        Command::Report { raw, out } => report::write(&raw, &out),
        Command::Run(options) => run::run(&options),
        Command::Serve(options) => serve::run(&options),
    };
    match outcome {
        Ok(written) => {
            for path in written {
                println!("{}", path.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
