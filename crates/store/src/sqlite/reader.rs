//! The connection for what memory doesn't hold.

use std::path::Path;
use std::time::Duration;

use counter::{JournalId, Seq};
use rusqlite::{OptionalExtension, TransactionBehavior, params};

use super::faults::Fault;
use super::file::{File, Use};
use super::writer::{damaged, standing};
use crate::pages::Bounds;
use crate::{PageQuery, Snapshot, Standing, StoreError, StoreReader};

/// A [`StoreReader`] in a SQLite file.
pub(crate) struct SqliteReader {
    file: File,
}

impl SqliteReader {
    pub(crate) fn new(path: &Path, patience: Duration) -> Self {
        Self { file: File::new(path, Use::Read, patience) }
    }

    fn read_totals(&mut self, journal: JournalId, keys: &[&str]) -> Result<Snapshot, Fault> {
        let connection = self.file.connection()?;
        let snapshot = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let watermark = standing(&snapshot, journal)?.map_or(Seq::ZERO, |standing| standing.watermark);
        let mut statement = snapshot.prepare_cached("SELECT value FROM counters WHERE key = ?1")?;
        let mut total = |key: &&str| statement.query_row([key], |row| row.get(0)).optional();
        let totals = keys.iter().map(&mut total).collect::<Result<_, _>>()?;
        Ok(Snapshot { watermark, totals })
    }

    fn read_page(&mut self, query: &PageQuery<'_>) -> Result<Vec<String>, Fault> {
        let Some(Bounds { lower, inclusive, upper }) = Bounds::of(query) else { return Ok(Vec::new()) };
        let sql = match (inclusive, &upper) {
            (true, None) => "SELECT key FROM counters WHERE key >= ?1 ORDER BY key LIMIT ?2",
            (false, None) => "SELECT key FROM counters WHERE key > ?1 ORDER BY key LIMIT ?2",
            (true, Some(_)) => "SELECT key FROM counters WHERE key >= ?1 AND key < ?3 ORDER BY key LIMIT ?2",
            (false, Some(_)) => "SELECT key FROM counters WHERE key > ?1 AND key < ?3 ORDER BY key LIMIT ?2",
        };
        let mut statement = self.file.connection()?.prepare_cached(sql)?;
        let rows = match &upper {
            None => statement.query(params![lower, query.limit])?,
            Some(upper) => statement.query(params![lower, query.limit, upper])?,
        };
        let keys: Result<_, rusqlite::Error> = rows.mapped(|row| row.get(0)).collect();
        Ok(keys?)
    }

    fn read_others(&mut self, journal: JournalId) -> Result<Vec<(JournalId, Seq)>, Fault> {
        let sql = "SELECT id, seq FROM journals WHERE id <> ?1 ORDER BY id";
        let mut statement = self.file.connection()?.prepare_cached(sql)?;
        let rows =
            statement.query_map([journal.to_string()], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
        rows.map(|row| {
            let (id, seq) = row?;
            let id = id.parse().map_err(|error| damaged(&error))?;
            Ok((id, Seq::from_i64(seq)))
        })
        .collect()
    }
}

impl StoreReader for SqliteReader {
    fn totals(&mut self, journal: JournalId, keys: &[&str]) -> Result<Snapshot, StoreError> {
        Ok(self.read_totals(journal, keys)?)
    }

    fn page(&mut self, query: &PageQuery<'_>) -> Result<Vec<String>, StoreError> {
        Ok(self.read_page(query)?)
    }

    fn standing(&mut self, journal: JournalId) -> Result<Option<Standing>, StoreError> {
        Ok(standing(self.file.connection()?, journal)?)
    }

    fn others(&mut self, journal: JournalId) -> Result<Vec<(JournalId, Seq)>, StoreError> {
        Ok(self.read_others(journal)?)
    }
}
