//! What the tests of both stores share.
#![allow(
    dead_code,
    unused_macros,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses a part of it; a test may panic"
)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use counter::{Applied, Batch, JournalId, OpenBatch, OwnerId, Seq, Unit};
use store::testing::ThrowawayPostgres;
use store::{ApplyError, Claim, Store, StoreError, StoreReader, StoreUrl};

/// Runs each of these functions, which take a `&Fixture`, on both stores.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod postgres { $(#[test] fn $name() { super::$name(&super::Fixture::postgres()); })+ }
        mod sqlite { $(#[test] fn $name() { super::$name(&super::Fixture::sqlite()); })+ }
    };
}

/// One empty store, and a second way into it for looking and for meddling.
pub enum Fixture {
    Postgres { server: &'static ThrowawayPostgres, database: String },
    Sqlite { directory: tempfile::TempDir },
}

/// The server that all tests of one binary share; it ends with the process.
pub fn server() -> &'static ThrowawayPostgres {
    static SERVER: OnceLock<ThrowawayPostgres> = OnceLock::new();
    SERVER.get_or_init(ThrowawayPostgres::start)
}

impl Fixture {
    pub fn postgres() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let database = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        Self::Postgres { server: server(), database }
    }

    pub fn sqlite() -> Self {
        Self::Sqlite { directory: tempfile::tempdir().unwrap() }
    }

    pub fn url(&self) -> StoreUrl {
        match self {
            Self::Postgres { server, database } => server.url(database).parse().unwrap(),
            Self::Sqlite { .. } => StoreUrl::sqlite(self.file()),
        }
    }

    fn file(&self) -> PathBuf {
        match self {
            Self::Postgres { .. } => unreachable!("PostgreSQL has no file"),
            Self::Sqlite { directory } => directory.path().join("store.db"),
        }
    }

    /// A store that is ready for use.
    pub fn store(&self) -> Box<dyn Store> {
        let mut store = store::open(&self.url()).unwrap();
        store.prepare().unwrap();
        store
    }

    pub fn reader(&self) -> Box<dyn StoreReader> {
        store::open_reader(&self.url()).unwrap()
    }

    /// A store with a journal that it has claimed.
    pub fn claimed(&self) -> (Box<dyn Store>, Claim) {
        let mut store = self.store();
        let claim = new_claim();
        store.claim(&claim, None, u64::MAX).unwrap();
        (store, claim)
    }

    /// Rows as text: columns separated by `|`, rows by line ends.
    pub fn sql(&self, sql: &str) -> String {
        if let Self::Postgres { server, database } = self {
            return server.sql(database, sql);
        }
        let connection = rusqlite::Connection::open(self.file()).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        let Ok(mut statement) = connection.prepare(sql) else {
            connection.execute_batch(sql).unwrap();
            return String::new();
        };
        let columns = statement.column_count();
        let row = |row: &rusqlite::Row<'_>| {
            let value = |column| match row.get_ref(column).unwrap() {
                rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                other => format!("{other:?}"),
            };
            Ok((0..columns).map(value).collect::<Vec<_>>().join("|"))
        };
        statement.query_map([], row).unwrap().collect::<Result<Vec<_>, _>>().unwrap().join("\n")
    }

    /// The table of totals as it is.
    pub fn table(&self) -> String {
        self.sql("SELECT key, value FROM counters ORDER BY key")
    }

    /// A trigger that refuses whatever would make a total 13.
    pub fn refuse_thirteen(&self) {
        self.sql(match self {
            Self::Postgres { .. } => {
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                   IF NEW.value = 13 THEN RAISE EXCEPTION 'no thirteen here'; END IF; RETURN NEW; END $$;
                 CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON counters FOR EACH ROW EXECUTE FUNCTION refuse()"
            }
            Self::Sqlite { .. } => {
                "CREATE TRIGGER refuse_new BEFORE INSERT ON counters WHEN NEW.value = 13
                   BEGIN SELECT RAISE(ABORT, 'no thirteen here'); END;
                 CREATE TRIGGER refuse_old BEFORE UPDATE ON counters WHEN NEW.value = 13
                   BEGIN SELECT RAISE(ABORT, 'no thirteen here'); END;"
            }
        });
    }
}

pub fn new_claim() -> Claim {
    Claim { journal: JournalId::random().unwrap(), owner: OwnerId::random().unwrap() }
}

/// Builds a batch by the names of keys.
#[derive(Default)]
pub struct Building {
    open: OpenBatch,
    rows: HashMap<String, u32>,
}

impl Building {
    pub fn row(&mut self, key: &str) -> u32 {
        let next = self.rows.len() as u32;
        *self.rows.entry(key.to_owned()).or_insert_with(|| self.open.open_row(key, next))
    }

    pub fn add(mut self, key: &str, value: i64) -> Self {
        let row = self.row(key);
        self.open.add(row, value);
        self
    }

    pub fn unit(mut self, id: &str, fingerprint: u8, increments: &[(&str, i64)]) -> Self {
        let increments = increments.iter().map(|&(key, value)| (self.row(key), value)).collect();
        let (id, fingerprint) = (id.into(), [fingerprint; 16]);
        self.open.push_unit(Unit { id, fingerprint, accepted_ms: 1_700_000_000_123, increments });
        self
    }

    pub fn batch(mut self, from: u64, upto: u64) -> Batch {
        self.open.freeze(Seq(from), Seq(upto))
    }
}

/// A batch of plain increments.
pub fn plain(from: u64, upto: u64, increments: &[(&str, i64)]) -> Batch {
    let add = |building: Building, &(key, value): &(&str, i64)| building.add(key, value);
    increments.iter().fold(Building::default(), add).batch(from, upto)
}

/// What was set aside, without the reasons.
pub fn set_aside(applied: &Applied) -> Vec<(&str, i128)> {
    applied.set_aside.iter().map(|part| (part.key.as_str(), part.value)).collect()
}

/// Whether a call ended in `Unavailable`; other ends panic.
pub fn is_away<T: std::fmt::Debug>(result: Result<T, ApplyError>) -> bool {
    match result {
        Err(ApplyError::Store(StoreError::Unavailable(_))) => true,
        other => panic!("{other:?}"),
    }
}

/// Looks until `done`, which something else that runs brings about.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::yield_now();
    }
}
