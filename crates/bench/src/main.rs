//! `incrementer-bench`: servers under load, side by side.

use std::path::PathBuf;

use clap::Parser;

/// Servers under the same load, side by side.
#[derive(Debug, Parser)]
#[command(name = "incrementer-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Writes a page with tables and charts from the raw JSON of experiments.
    Report {
        /// What `run`, `grow`, `bulk` and `start` wrote.
        #[arg(required = true, value_name = "RAW.json")]
        raw: Vec<PathBuf>,
        /// The folder for the page and its charts.
        #[arg(long, default_value = "report", value_name = "DIR")]
        out: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Report { raw, out } => {
            for path in incrementer_bench::report::write(&raw, &out)? {
                println!("{}", path.display());
            }
            Ok(())
        }
    }
}
