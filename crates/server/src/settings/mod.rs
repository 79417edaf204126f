//! What a user may set, and from where: flags over environment over file over defaults.
//!
//! One table ([`TABLE`]) has one row for each setting: its name, default, explanation, parser and
//! printer. Flags, variables, file, `--help`, `--print-config` and the sample file all come from
//! it.

mod load;
mod print;
mod store_target;
mod table;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use load::{ConfigFile, Loaded, Sources};
pub(crate) use print::effective;
pub(crate) use store_target::{StoreTarget, without_passwords};
pub(crate) use table::{Default, Reach, Setting, TABLE};
pub(crate) use values::{Ack, LogFormat, LogLevel};

/// The variable that names the file of settings, as `--config` does.
pub(crate) const CONFIG_VARIABLE: &str = "INCREMENTER_CONFIG";

/// Every setting, parsed and within its bounds. The rows of [`TABLE`] explain them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    pub(crate) store: StoreTarget,
    pub(crate) data_dir: PathBuf,
    pub(crate) ack: Ack,
    pub(crate) max_counters: u32,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) flush: Flush,
    pub(crate) journal: Journal,
    pub(crate) read: Read,
    pub(crate) idempotency: Idempotency,
    pub(crate) http: Http,
    pub(crate) log: Log,
}

/// When a flush begins: at so many updates, or after so long, whichever is first; and how long the
/// store may take to answer it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Flush {
    pub(crate) max_updates: u32,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
}

/// How much the journal may hold, and for how long what the store has.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Journal {
    pub(crate) max_bytes: u64,
    pub(crate) keep: Duration,
    pub(crate) segment_bytes: u64,
}

/// How old an answer may be.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Read {
    pub(crate) max_age: Duration,
}

/// How long an idempotency key holds, and how many memory may hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Idempotency {
    pub(crate) window: Duration,
    pub(crate) max_ids: u32,
}

/// The bounds of the HTTP front.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Http {
    pub(crate) workers: usize,
    pub(crate) event_loop: http_front::EventLoop,
    pub(crate) max_connections: usize,
    pub(crate) max_body_bytes: usize,
    pub(crate) max_bulk_body_bytes: usize,
    pub(crate) body_timeout: Duration,
    pub(crate) header_timeout: Duration,
}

/// What is logged, and how it looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Log {
    pub(crate) format: LogFormat,
    pub(crate) level: LogLevel,
}

impl Settings {
    /// Where loading starts; every value is replaced by a given one or by a default.
    fn unset() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 0)),
            store: StoreTarget::Sqlite(PathBuf::new()),
            data_dir: PathBuf::new(),
            ack: Ack::Durable,
            max_counters: 0,
            shutdown_timeout: Duration::ZERO,
            flush: Flush::default(),
            journal: Journal::default(),
            read: Read::default(),
            idempotency: Idempotency::default(),
            http: Http::default(),
            log: Log::default(),
        }
    }
}

#[cfg(test)]
mod tests;
