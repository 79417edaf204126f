//! The connection over which an instance writes.

use std::path::Path;
use std::time::Duration;

use counter::{Applied, Batch, Fingerprint, IdError, JournalId, OwnerId, Seq, StoreId};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::faults::Fault;
use super::file::{File, Use};
use super::{apply, ids, prepare};
use crate::plan::date_ms;
use crate::{ApplyError, Claim, ClaimError, LoadError, Purge, Purged, Standing, Store, StoreError};

/// A [`Store`] in a SQLite file.
pub(crate) struct SqliteStore {
    file: File,
}

impl SqliteStore {
    pub(crate) fn new(path: &Path, patience: Duration) -> Self {
        Self { file: File::new(path, Use::Write, patience) }
    }
}

impl Store for SqliteStore {
    fn prepare(&mut self) -> Result<StoreId, StoreError> {
        Ok(prepare::prepare(&mut self.file)?)
    }

    fn standing(&mut self, journal: JournalId) -> Result<Option<Standing>, StoreError> {
        Ok(standing(self.file.connection()?, journal)?)
    }

    fn claim(&mut self, claim: &Claim, seen: Option<Standing>, now_ms: u64) -> Result<(), ClaimError> {
        let taken = self.file.connection().and_then(|connection| take(connection, claim, seen, now_ms));
        if taken.map_err(StoreError::from)? { Ok(()) } else { Err(ClaimError::Moved) }
    }

    fn load(
        &mut self,
        journal: JournalId,
        each: &mut dyn FnMut(&str, i64) -> Result<(), String>,
    ) -> Result<Seq, LoadError> {
        let loaded = self.file.connection().and_then(|connection| load(connection, journal, each));
        loaded.map_err(StoreError::from)?.map_err(LoadError::Stopped)
    }

    /// Not spread: until it commits, nobody else could write to the file.
    fn apply_over(&mut self, claim: &Claim, batch: &Batch, _over: Duration) -> Result<Applied, ApplyError> {
        let connection = self.file.connection().map_err(StoreError::from)?;
        apply::apply(connection, claim, batch)
    }

    fn load_ids(
        &mut self,
        since_ms: u64,
        limit: u32,
        each: &mut dyn FnMut(&str, Fingerprint, u64),
    ) -> Result<(), StoreError> {
        Ok(ids::load(self.file.connection()?, since_ms, limit, each)?)
    }

    fn purge(&mut self, claim: &Claim, purge: &Purge) -> Result<Purged, StoreError> {
        Ok(ids::purge(self.file.connection()?, claim, purge)?)
    }

    fn close(&mut self, claim: &Claim, watermark: Seq) -> Result<(), StoreError> {
        Ok(ids::close(self.file.connection()?, claim, watermark)?)
    }
}

/// The journal's row.
pub(crate) fn standing(connection: &Connection, journal: JournalId) -> Result<Option<Standing>, Fault> {
    let mut statement =
        connection.prepare_cached("SELECT owner, seq, moved_by FROM journals WHERE id = ?1")?;
    let row = statement.query_row([journal.to_string()], |row| {
        Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, Option<String>>(2)?))
    });
    let Some((owner, seq, moved_by)) = row.optional()? else { return Ok(None) };
    let id = |text: String| text.parse::<OwnerId>().map_err(|error| damaged(&error));
    let moved_by = moved_by.map(id).transpose()?;
    Ok(Some(Standing { owner: id(owner)?, watermark: Seq::from_i64(seq), moved_by }))
}

/// The journals' table holds what no version writes.
pub(crate) fn damaged(error: &IdError) -> Fault {
    Fault::Refused(format!("the table `journals` is damaged: {error}"))
}

/// Whether the row is the claimer's now. An earlier attempt of the same claim, whose answer was
/// lost, counts: nobody else knows the owner's id.
fn take(connection: &Connection, claim: &Claim, seen: Option<Standing>, now_ms: u64) -> Result<bool, Fault> {
    let (journal, owner, now_ms) = (claim.journal.to_string(), claim.owner.to_string(), date_ms(now_ms));
    let Some(seen) = seen else {
        // min() of NULL is NULL.
        let make = "INSERT INTO journals (id, owner, seq, written_off) \
                    SELECT ?1, ?2, 0, min(unknowable_before, strftime('%Y-%m-%dT%H:%M:%fZ', ?3 / 1000.0, 'unixepoch')) \
                      FROM store WHERE true ON CONFLICT (id) DO NOTHING";
        let made = connection.execute(make, params![journal, owner, now_ms])?;
        let ours = Standing { owner: claim.owner, watermark: Seq::ZERO, moved_by: None };
        return Ok(made == 1 || standing(connection, claim.journal)? == Some(ours));
    };
    // How far the journal has flushed is not known before the new owner tells. A journal that was
    // closed may hold requests, if the store forgot an earlier claim. And what the owner before told
    // may be of a copy of the data directory, where other records lie.
    let take = "UPDATE journals SET owner = ?2, claimed_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), \
                 written_off = CASE WHEN flushed_past IS NULL THEN written_off ELSE (SELECT nullif(max(coalesce(written_off, ''), coalesce( \
                 min(unknowable_before, strftime('%Y-%m-%dT%H:%M:%fZ', ?6 / 1000.0, 'unixepoch')), '')), '') \
                         FROM store) END, flushed_past = NULL \
                 WHERE id = ?1 AND owner IN (?2, ?3) AND seq = ?4 AND moved_by IS ?5";
    let (before, seq) = (seen.owner.to_string(), seen.watermark.as_i64());
    let moved_by = seen.moved_by.map(|moved_by| moved_by.to_string());
    Ok(connection.execute(take, params![journal, owner, before, seq, moved_by, now_ms])? == 1)
}

/// The inner error is the receiver's reason to stop.
fn load(
    connection: &mut Connection,
    journal: JournalId,
    each: &mut dyn FnMut(&str, i64) -> Result<(), String>,
) -> Result<Result<Seq, String>, Fault> {
    let snapshot = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let watermark = standing(&snapshot, journal)?.map_or(Seq::ZERO, |standing| standing.watermark);
    let mut statement = snapshot.prepare("SELECT key, value FROM counters")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let key = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        if let Err(reason) = each(key, row.get(1)?) {
            return Ok(Err(reason));
        }
    }
    Ok(Ok(watermark))
}
