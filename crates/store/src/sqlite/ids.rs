//! Idempotency keys by their age: read at a start, and gone when their time has passed.

use counter::{Fingerprint, JournalId, Seq};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::faults::Fault;
use super::writer::damaged;
use crate::expiry::Expiry;
use crate::plan::date_ms;
use crate::{Claim, Purge, Purged};

const NEWEST: &str = "
    SELECT id, fingerprint, CAST(round(unixepoch(accepted_at, 'subsec') * 1000) AS INTEGER)
      FROM idempotency_keys
     WHERE accepted_at >= strftime('%Y-%m-%dT%H:%M:%fZ', ?1 / 1000.0, 'unixepoch')
     ORDER BY accepted_at DESC LIMIT ?2";

const OLDEST: &str = "
    SELECT CAST(round(unixepoch(accepted_at, 'subsec') * 1000) AS INTEGER)
      FROM idempotency_keys ORDER BY accepted_at LIMIT 1";

/// Only where the store has all that it had confirmed.
const REPORT: &str = "
    UPDATE journals
       SET flushed_past = told.at, written_off = CASE WHEN written_off > told.at THEN written_off END
      FROM (SELECT min(strftime('%Y-%m-%dT%H:%M:%fZ', ?4 / 1000.0, 'unixepoch'),
                       strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) AS at) AS told
     WHERE id = ?1 AND owner = ?2 AND seq >= ?3
    RETURNING CAST(round(unixepoch(flushed_past, 'subsec') * 1000) AS INTEGER)";

/// Up to when each journal has flushed past or is written off. No date comes before ''.
const PAST: &str =
    "SELECT id, max(coalesce(flushed_past, ''), coalesce(written_off, '')) AS at FROM journals";

const WRITE_OFF: &str = "
    UPDATE journals SET written_off = strftime('%Y-%m-%dT%H:%M:%fZ', ?2 / 1000.0, 'unixepoch')
     WHERE id = ?1";

/// What can't be told from a repetition once ids have left.
const NOTE: &str = "
    UPDATE store SET unknowable_before = strftime('%Y-%m-%dT%H:%M:%fZ', ?1 / 1000.0, 'unixepoch')
     WHERE unknowable_before IS NULL
        OR unknowable_before < strftime('%Y-%m-%dT%H:%M:%fZ', ?1 / 1000.0, 'unixepoch')";

const REMOVE: &str = "
    DELETE FROM idempotency_keys
     WHERE id IN (SELECT id FROM idempotency_keys
                   WHERE accepted_at < strftime('%Y-%m-%dT%H:%M:%fZ', ?1 / 1000.0, 'unixepoch')
                   ORDER BY accepted_at LIMIT ?2)";

const CLOSE: &str = "
    UPDATE journals
       SET flushed_past = strftime('%Y-%m-%dT%H:%M:%fZ', ?4 / 1000.0, 'unixepoch'), written_off = NULL
     WHERE id = ?1 AND owner = ?2 AND seq >= ?3";

/// Reads the newest ids, the newest first.
pub(crate) fn load(
    connection: &Connection,
    since_ms: u64,
    limit: u32,
    each: &mut dyn FnMut(&str, Fingerprint, u64),
) -> Result<(), Fault> {
    let mut statement = connection.prepare(NEWEST)?;
    let mut rows = statement.query(params![date_ms(since_ms), limit])?;
    while let Some(row) = rows.next()? {
        let id = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        each(id, row.get(1)?, ms(row, 2)?);
    }
    Ok(())
}

pub(crate) fn purge(connection: &mut Connection, claim: &Claim, purge: &Purge) -> Result<Purged, Fault> {
    let oldest = connection.prepare_cached(OLDEST)?.query_row([], |row| ms(row, 0)).optional()?;
    let mut purged = Purged { oldest_ms: oldest, ..Purged::default() };
    let expiry = Expiry::of(purge);
    let Some(oldest_ms) = oldest.filter(|&oldest| expiry.has_passed(oldest, purge.flushed_past_ms)) else {
        return Ok(purged);
    };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (journal, owner) = (claim.journal.to_string(), claim.owner.to_string());
    let report = params![journal, owner, purge.watermark.as_i64(), date_ms(purge.flushed_past_ms)];
    let reported = transaction.prepare_cached(REPORT)?.query_row(report, |row| ms(row, 0)).optional()?;
    let Some(past_ms) = reported else { return Ok(purged) };
    if let Some(until_ms) = expiry.write_off_ms(oldest_ms, past_ms) {
        purged.written_off = write_off(&transaction, until_ms)?;
    }
    if let Some((least, least_ms)) = least_past(&transaction)? {
        let before_ms = date_ms(least_ms.saturating_sub(expiry.kept_ms));
        let removed = transaction.prepare_cached(REMOVE)?.execute(params![before_ms, purge.limit])?;
        if removed > 0 {
            transaction.prepare_cached(NOTE)?.execute([date_ms(expiry.unknowable_ms(least_ms))])?;
        }
        purged.removed = removed as u64;
        purged.kept_for = Some(least).filter(|&least| removed == 0 && least != claim.journal);
    }
    transaction.commit()?;
    Ok(purged)
}

/// Writes off the journals that have not flushed past `until_ms`; returns those that were not.
fn write_off(transaction: &Transaction<'_>, until_ms: u64) -> Result<Vec<JournalId>, Fault> {
    let silent = format!(
        "SELECT past.id, (SELECT written_off IS NULL FROM journals WHERE id = past.id) FROM ({PAST}) AS past \
         WHERE at < strftime('%Y-%m-%dT%H:%M:%fZ', ?1 / 1000.0, 'unixepoch')"
    );
    let mut statement = transaction.prepare_cached(&silent)?;
    let silent =
        statement.query_map([date_ms(until_ms)], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
    let mut newly = Vec::new();
    for row in silent.collect::<Result<Vec<_>, _>>()? {
        let (id, is_new): (String, bool) = row;
        transaction.prepare_cached(WRITE_OFF)?.execute(params![id, date_ms(until_ms)])?;
        if is_new {
            newly.push(journal_id(&id)?);
        }
    }
    Ok(newly)
}

/// The journal that has flushed past the least, and up to when.
fn least_past(transaction: &Transaction<'_>) -> Result<Option<(JournalId, u64)>, Fault> {
    let least = format!(
        "SELECT id, CAST(round(coalesce(unixepoch(at, 'subsec'), 0) * 1000) AS INTEGER) FROM ({PAST}) \
         ORDER BY at, id LIMIT 1"
    );
    let least = transaction
        .prepare_cached(&least)?
        .query_row([], |row| Ok((row.get::<_, String>(0)?, ms(row, 1)?)))
        .optional()?;
    least.map(|(id, ms)| Ok((journal_id(&id)?, ms))).transpose()
}

pub(crate) fn close(connection: &Connection, claim: &Claim, watermark: Seq) -> Result<(), Fault> {
    let (journal, owner) = (claim.journal.to_string(), claim.owner.to_string());
    let for_ever = date_ms(u64::MAX);
    connection.prepare_cached(CLOSE)?.execute(params![journal, owner, watermark.as_i64(), for_ever])?;
    Ok(())
}

fn ms(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.max(0) as u64)
}

fn journal_id(id: &str) -> Result<JournalId, Fault> {
    id.parse().map_err(|error| damaged(&error))
}
