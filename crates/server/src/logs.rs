//! Log lines: a sentence that a person reads, fields that a machine queries, on stderr.

use std::io::IsTerminal;

use crate::settings::{Log, LogFormat};

/// Starts logging for the whole process. Only the first call has an effect.
pub(crate) fn start(log: &Log) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(log.level.filter())
        .with_writer(std::io::stderr)
        .with_target(false);
    // A second call fails, and what the first one set up goes on.
    let _ = match log.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_target(true).try_init(),
    };
}
