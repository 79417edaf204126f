//! The binary `incrementer`: settings, wiring, supervision, telemetry.

mod cli;
mod commands;
mod journal_commands;
mod limits;
mod logs;
mod run;
mod scheduling;
mod settings;
mod supervisor;
mod telemetry;
mod wire;

use std::process::ExitCode;

use crate::cli::Task;
use crate::settings::without_passwords;

/// Memory comes and goes in small pieces on every request; this allocator is fast at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (task, loaded) = match cli::parse(std::env::args_os(), std::env::vars_os().collect()) {
        Ok(parsed) => parsed,
        Err(no_task) => return ExitCode::from(no_task.report()),
    };
    logs::start(&loaded.settings.log);
    let outcome = match task {
        Task::Serve => run::serve(loaded.settings),
        Task::PrintConfig => print(&settings::effective(&loaded)),
        Task::Migrate => commands::migrate(&loaded.settings),
        Task::Inspect { json } => journal_commands::inspect(&loaded.settings.data_dir, json),
        Task::Verify => wire::store_url(&loaded.settings.store)
            .and_then(|store| journal_commands::verify(&loaded.settings.data_dir, &store)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", without_passwords(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// To stdout; a reader that has gone is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
