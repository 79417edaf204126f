//! The SQL database that holds the totals.
//!
//! Two seams: a [`Store`] is the one connection over which the flusher writes; a [`StoreReader`]
//! is a second one for what memory doesn't hold. Both block, connect when first used, and
//! connect again by themselves on the call after one that ended in [`StoreError::Unavailable`].
//! They must not be called from inside an async runtime.
//!
//! Behind them stand PostgreSQL (12 or newer) and SQLite, which keep the same promises:
//!
//! - The watermark moves in the transaction that adds the sums, by compare-and-set, and before
//!   anything else of it is written. So a batch is in the store once or not at all.
//! - Rows are written in one order (keys bytewise), so that instances never deadlock.
//! - A row that the database refuses (a total past 64 bits, a constraint, a trigger) goes into
//!   the table `set_aside` in the same transaction: all that the batch adds to that key, the
//!   parts of units among it, which stay counted with their other rows.
//! - A row that a trigger of the operator skips without an error is taken as skipped.

mod expiry;
mod migrations;
mod pages;
mod plan;
mod postgres;
mod seam;
mod settle;
mod sqlite;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;
mod url;

pub use seam::{
    ApplyError, Claim, ClaimError, LoadError, PageQuery, Purge, Purged, Snapshot, Standing, Store,
    StoreError, StoreReader,
};
pub use url::{StoreUrl, StoreUrlError};

use std::time::Duration;

use postgres::{Limits, PostgresReader, PostgresStore};
use sqlite::{SqliteReader, SqliteStore};
use url::Place;

/// The store at `url`, to write to. Doesn't connect yet.
///
/// # Errors
/// The operating system has no resources for a connection's event loop.
pub fn open(url: &StoreUrl) -> Result<Box<dyn Store>, StoreError> {
    open_with_timeout(url, Limits::for_writing().step)
}

/// As [`open`]; PostgreSQL may take `step` for each step of a call, and more for each row.
///
/// # Errors
/// Those of [`open`].
pub fn open_with_timeout(url: &StoreUrl, step: Duration) -> Result<Box<dyn Store>, StoreError> {
    Ok(match &url.0 {
        Place::Postgres(place) => {
            Box::new(PostgresStore::new(place, Limits { step, ..Limits::for_writing() })?)
        }
        Place::Sqlite(path) => Box::new(SqliteStore::new(path, sqlite::WRITER_PATIENCE)),
    })
}

/// The store at `url`, to read from. Doesn't connect yet.
///
/// # Errors
/// Those of [`open`].
pub fn open_reader(url: &StoreUrl) -> Result<Box<dyn StoreReader>, StoreError> {
    Ok(match &url.0 {
        Place::Postgres(place) => Box::new(PostgresReader::new(place, Limits::for_reading())?),
        Place::Sqlite(path) => Box::new(SqliteReader::new(path, sqlite::READER_PATIENCE)),
    })
}
