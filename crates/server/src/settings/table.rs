//! The one table of settings.

use std::path::Path;
use std::time::Duration;

use super::store_target::{StoreTarget, store_target};
use super::values::{ack, count, duration, log_format, log_level, show_duration, show_size, size};
use super::{CONFIG_VARIABLE, Settings};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// The smallest segment, and the smallest journal: four of them.
pub(super) const MIN_SEGMENT_BYTES: u64 = 64 * KIB;
/// At least so many segments make up `journal.max_bytes`.
pub(super) const MIN_SEGMENTS: u64 = 4;

/// One setting.
pub(crate) struct Setting {
    /// As in `flush.max_updates`; flag and variable are made of it.
    pub(crate) name: &'static str,
    /// What `--help` writes for its value.
    pub(crate) value_name: &'static str,
    /// Whether TOML writes it without quotes.
    pub(crate) bare: bool,
    /// Which commands take its flag.
    pub(crate) reach: Reach,
    /// Its value where none is given.
    pub(crate) default: Default,
    /// What it does, for users.
    pub(crate) doc: &'static str,
    /// Parses a value and puts it in its place.
    pub(super) set: fn(&mut Settings, &str) -> Result<(), String>,
    /// Prints it so that `set` takes it back.
    pub(crate) show: fn(&Settings) -> String,
}

/// Which commands take a flag. File and environment may name every setting for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// `serve` alone.
    Serve,
    /// `serve` and `migrate`.
    Store,
    /// All commands.
    All,
}

/// A setting's value where none is given.
pub(crate) enum Default {
    /// Always this.
    Fixed(&'static str),
    /// It depends on other settings or on the machine.
    Derived {
        /// In words.
        says: &'static str,
        /// Puts it in its place. All that is given, and every fixed default, is in place before.
        derive: fn(&mut Settings),
    },
}

impl Setting {
    /// As in `flush-max-updates`, without the dashes before it.
    pub(crate) fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }

    /// As in `INCREMENTER_FLUSH_MAX_UPDATES`.
    pub(crate) fn variable(&self) -> String {
        format!("INCREMENTER_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// The part of the name before the dot, and the one after it.
    pub(crate) fn section_and_key(&self) -> (Option<&'static str>, &'static str) {
        match self.name.split_once('.') {
            Some((section, key)) => (Some(section), key),
            None => (None, self.name),
        }
    }
}

/// All variables that belong to incrementer.
pub(super) fn variables() -> impl Iterator<Item = String> {
    TABLE.iter().map(Setting::variable).chain([CONFIG_VARIABLE.to_owned()])
}

/// Every setting; those of one section stand together, those without one first.
pub(crate) static TABLE: &[Setting] = &[
    Setting {
        name: "listen",
        value_name: "ADDRESS",
        bare: false,
        reach: Reach::Serve,
        default: Default::Fixed("127.0.0.1:3333"),
        doc: "The IP address and port that HTTP is served on. Use 0.0.0.0:3333 or [::]:3333 to be \
            reached from other machines; there is no TLS and no login, so put a proxy before it.",
        set: |s, text| {
            s.listen = text.parse().map_err(|_| {
                format!(
                    "{text:?} is no IP address with a port; write one such as 127.0.0.1:3333 or [::1]:3333"
                )
            })?;
            Ok(())
        },
        show: |s| s.listen.to_string(),
    },
    Setting {
        name: "store",
        value_name: "URL",
        bare: false,
        reach: Reach::Store,
        default: Default::Derived {
            says: "sqlite: and the file incrementer.db in the data directory",
            derive: |s| {
                let dir = s.data_dir.strip_prefix(Path::new(".")).unwrap_or(&s.data_dir);
                s.store = StoreTarget::Sqlite(dir.join("incrementer.db"));
            },
        },
        doc: "The SQL database that holds the totals: postgres://USER:PASSWORD@HOST:PORT/DATABASE, or \
            sqlite:PATH. Where none is given, the variable DATABASE_URL is taken. A flag shows in \
            the list of processes: put a password into the file or the environment.",
        set: |s, text| {
            s.store = store_target(text)?;
            Ok(())
        },
        show: |s| s.store.to_string(),
    },
    Setting {
        name: "data_dir",
        value_name: "DIRECTORY",
        bare: false,
        reach: Reach::All,
        default: Default::Fixed("./data"),
        doc: "Where the journal lives. One server alone uses a data directory. It must be on a local \
            disk that keeps what fdatasync has confirmed.",
        set: |s, text| {
            if text.is_empty() {
                return Err("it is empty; name a directory, such as ./data".into());
            }
            s.data_dir = text.into();
            Ok(())
        },
        show: |s| s.data_dir.display().to_string(),
    },
    Setting {
        name: "ack",
        value_name: "WHEN",
        bare: false,
        reach: Reach::Serve,
        default: Default::Fixed("durable"),
        doc: "When a request is answered. durable: once its increment would survive a power loss. \
            memory: at once; a power loss can take the last 100 ms with it, kill -9 can not.",
        set: |s, text| {
            s.ack = ack(text)?;
            Ok(())
        },
        show: |s| s.ack.to_string(),
    },
    Setting {
        name: "max_counters",
        value_name: "COUNT",
        bare: true,
        reach: Reach::Serve,
        default: Default::Fixed("50000000"),
        doc: "How many counters memory may hold; a new key past it is refused with 503.",
        set: |s, text| {
            // The range keeps it below u32::MAX, so nothing is cut off.
            s.max_counters = count(text, 1..=u64::from(u32::MAX) - 1)? as u32;
            Ok(())
        },
        show: |s| s.max_counters.to_string(),
    },
    Setting {
        name: "shutdown_timeout",
        value_name: "TIME",
        bare: false,
        reach: Reach::Serve,
        default: Default::Fixed("10s"),
        doc: "How long a stop may take to answer what is in flight and to flush. What it can't bring \
            into the store stays in the journal.",
        set: |s, text| {
            s.shutdown_timeout = duration(text, Duration::ZERO..=Duration::from_secs(3600))?;
            Ok(())
        },
        show: |s| show_duration(s.shutdown_timeout),
    },
    Setting {
        name: "flush.max_updates",
        value_name: "COUNT",
        bare: true,
        reach: Reach::Serve,
        default: Default::Fixed("10000"),
        doc: "A flush begins when so many updates are pending, one for each key that changed.",
        set: |s, text| {
            s.flush.max_updates = count(text, 1..=100_000)? as u32;
            Ok(())
        },
        show: |s| s.flush.max_updates.to_string(),
    },
    Setting {
        name: "flush.interval",
        value_name: "TIME",
        bare: false,
        reach: Reach::Serve,
        default: Default::Fixed("5s"),
        doc: "A flush begins at the latest so long after the oldest pending increment.",
        set: |s, text| {
            s.flush.interval = duration(text, Duration::from_millis(1)..=Duration::from_secs(3600))?;
            Ok(())
        },
        show: |s| show_duration(s.flush.interval),
    },
    Setting {
        name: "flush.timeout",
        value_name: "TIME",
        bare: false,
        reach: Reach::Serve,
        default: Default::Fixed("30s"),
        doc: "How long PostgreSQL may take for a step of a flush, and 1 ms more for each update in it, \
            until the connection is given up and the same batch is tried again.",
        set: |s, text| {
            s.flush.timeout = duration(text, Duration::from_millis(100)..=Duration::from_secs(3600))?;
            Ok(())
        },
        show: |s| show_duration(s.flush.timeout),
    },
    Setting {
        name: "journal.max_bytes",
        value_name: "SIZE",
        bare: false,
        reach: Reach::Serve,
        default: Default::Fixed("10GiB"),
        doc: "How much the journal may hold while the store is away; past it increments are refused \
            with 503 until the store is back.",
        set: |s, text| {
            s.journal.max_bytes = size(text, MIN_SEGMENTS * MIN_SEGMENT_BYTES..=1024 * TIB)?;
            Ok(())
        },
        show: |s| show_size(s.journal.max_bytes),
    },
    Setting {
        name: "journal.keep",
        value_name: "TIME",
        bare: false,
        reach: Reach::Serve,
        default: Default::Fixed("0s"),
        doc: "How long the journal keeps what the store has, so that a store that comes back older \
            (a failover, a restore) is filled up again. It is best effort within journal.max_bytes: \
            what is pending comes first.",
        set: |s, text| {
            s.journal.keep = duration(text, Duration::ZERO..=Duration::from_secs(10_000 * 3600))?;
            Ok(())
        },
        show: |s| show_duration(s.journal.keep),
    },
    Setting {
        name: "journal.segment_bytes",
        value_name: "SIZE",
        bare: false,
        reach: Reach::Serve,
        default: Default::Derived {
            says: "32MiB, or a quarter of journal.max_bytes where that is less",
            derive: |s| {
                let quarter = s.journal.max_bytes / MIN_SEGMENTS;
                s.journal.segment_bytes = quarter.clamp(MIN_SEGMENT_BYTES, 32 * MIB);
            },
        },
        doc: "The size of one file of the journal; at most a quarter of journal.max_bytes.",
        set: |s, text| {
            s.journal.segment_bytes = size(text, MIN_SEGMENT_BYTES..=4 * GIB)?;
            Ok(())
        },
        show: |s| show_size(s.journal.segment_bytes),
    },
    Setting {
        name: "read.max_age",
        value_name: "TIME",
        bare: false,
        reach: Reach::Serve,
        default: Default::Fixed("5s"),
        doc: "How old a total may be that other instances change and this one only reads.",
        set: |s, text| {
            s.read.max_age = duration(text, Duration::ZERO..=Duration::from_secs(3600))?;
            Ok(())
        },
        show: |s| show_duration(s.read.max_age),
    },
    Setting {
        name: "idempotency.window",
        value_name: "TIME",
        bare: false,
        reach: Reach::Serve,
        default: Default::Fixed("24h"),
        doc: "For how long a repetition under an Idempotency-Key is not counted again. An id stays in the \
            store a quarter longer. Give all instances of a store the same: the shortest holds.",
        set: |s, text| {
            let year = Duration::from_secs(365 * 24 * 3600);
            s.idempotency.window = duration(text, Duration::from_secs(1)..=year)?;
            Ok(())
        },
        show: |s| show_duration(s.idempotency.window),
    },
    Setting {
        name: "idempotency.max_ids",
        value_name: "COUNT",
        bare: true,
        reach: Reach::Serve,
        default: Default::Fixed("1000000"),
        doc: "How many idempotency keys memory may hold, the newest; a start loads as many from the store. \
            A repetition of one that it doesn't hold is counted once all the same, but not told as such.",
        set: |s, text| {
            s.idempotency.max_ids = count(text, 0..=100_000_000)? as u32;
            Ok(())
        },
        show: |s| s.idempotency.max_ids.to_string(),
    },
    Setting {
        name: "http.workers",
        value_name: "COUNT",
        bare: true,
        reach: Reach::Serve,
        default: Default::Derived {
            says: "one for each core",
            derive: |s| {
                s.http.workers = std::thread::available_parallelism().map_or(1, usize::from).min(1024)
            },
        },
        doc: "How many threads serve HTTP.",
        set: |s, text| {
            s.http.workers = count(text, 1..=1024)? as usize;
            Ok(())
        },
        show: |s| s.http.workers.to_string(),
    },
    Setting {
        name: "http.event_loop",
        value_name: "WAY",
        bare: false,
        reach: Reach::Serve,
        default: Default::Fixed("auto"),
        doc: "How the HTTP workers talk to the kernel: io_uring, epoll, or auto, which takes io_uring \
            where the system lets it (Linux 6.1 or newer; most containers don't) and epoll elsewhere.",
        set: |s, text| {
            s.http.event_loop = text.parse()?;
            Ok(())
        },
        show: |s| s.http.event_loop.to_string(),
    },
    Setting {
        name: "http.max_connections",
        value_name: "COUNT",
        bare: true,
        reach: Reach::Serve,
        default: Default::Fixed("20000"),
        doc: "How many connections may be open at once; one more is answered 503 and closed.",
        set: |s, text| {
            s.http.max_connections = count(text, 1..=1_000_000)? as usize;
            Ok(())
        },
        show: |s| s.http.max_connections.to_string(),
    },
    Setting {
        name: "http.max_body_bytes",
        value_name: "SIZE",
        bare: false,
        reach: Reach::Serve,
        default: Default::Fixed("1MiB"),
        doc: "The longest body of a request with one increment; a longer one is refused with 413.",
        set: |s, text| {
            s.http.max_body_bytes = size(text, KIB..=GIB)? as usize;
            Ok(())
        },
        show: |s| show_size(s.http.max_body_bytes as u64),
    },
    Setting {
        name: "http.max_bulk_body_bytes",
        value_name: "SIZE",
        bare: false,
        reach: Reach::Serve,
        default: Default::Fixed("16MiB"),
        doc: "The longest body of a request with many increments; a longer one is refused with 413.",
        set: |s, text| {
            s.http.max_bulk_body_bytes = size(text, KIB..=GIB)? as usize;
            Ok(())
        },
        show: |s| show_size(s.http.max_bulk_body_bytes as u64),
    },
    Setting {
        name: "http.body_timeout",
        value_name: "TIME",
        bare: false,
        reach: Reach::Serve,
        default: Default::Fixed("10s"),
        doc: "How long a client may take to send a body; then it gets 408.",
        set: |s, text| {
            s.http.body_timeout = duration(text, Duration::from_millis(1)..=Duration::from_secs(3600))?;
            Ok(())
        },
        show: |s| show_duration(s.http.body_timeout),
    },
    Setting {
        name: "http.header_timeout",
        value_name: "TIME",
        bare: false,
        reach: Reach::Serve,
        default: Default::Fixed("10s"),
        doc: "How long a client may take to send the head of a request; then it gets 408.",
        set: |s, text| {
            s.http.header_timeout = duration(text, Duration::from_millis(1)..=Duration::from_secs(3600))?;
            Ok(())
        },
        show: |s| show_duration(s.http.header_timeout),
    },
    Setting {
        name: "log.format",
        value_name: "FORMAT",
        bare: false,
        reach: Reach::All,
        default: Default::Fixed("text"),
        doc: "How log lines look: text for people, json for machines. They go to stderr.",
        set: |s, text| {
            s.log.format = log_format(text)?;
            Ok(())
        },
        show: |s| s.log.format.to_string(),
    },
    Setting {
        name: "log.level",
        value_name: "LEVEL",
        bare: false,
        reach: Reach::All,
        default: Default::Fixed("info"),
        doc: "What is logged: off, error, warn, info, debug or trace, or directives such as \
            info,engine=debug.",
        set: |s, text| {
            s.log.level = log_level(text)?;
            Ok(())
        },
        show: |s| s.log.level.to_string(),
    },
];
