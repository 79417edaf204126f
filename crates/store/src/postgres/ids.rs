//! Idempotency keys by their age: read at a start, and gone when their time has passed.

use std::pin::pin;

use counter::{Fingerprint, JournalId, Seq};
use futures_util::StreamExt;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::faults::Fault;
use super::session::Session;
use super::transaction::fingerprint;
use super::writer::damaged;
use crate::expiry::Expiry;
use crate::plan::date_ms;
use crate::{Claim, Purge, Purged};

/// Rows between two looks at the clock, which costs as much as a row does.
const ROWS_A_STEP: usize = 1024;

const NEWEST: &str = "
    SELECT id, fingerprint, (extract(epoch FROM accepted_at) * 1000)::bigint
      FROM idempotency_keys WHERE accepted_at >= to_timestamp($1::bigint::float8 / 1000)
     ORDER BY accepted_at DESC LIMIT $2::bigint";

const OLDEST: &str = "
    SELECT (extract(epoch FROM accepted_at) * 1000)::bigint
      FROM idempotency_keys ORDER BY accepted_at LIMIT 1";

/// What it says holds for ever, so it doesn't matter how late it arrives. Only where the store has
/// all that it had confirmed, though.
const REPORT: &str = "
    UPDATE journals
       SET flushed_past = LEAST(to_timestamp($4::bigint::float8 / 1000), now()),
           written_off = CASE WHEN written_off > LEAST(to_timestamp($4::bigint::float8 / 1000), now())
                              THEN written_off END
     WHERE id = $1 AND owner = $2 AND seq >= $3
    RETURNING (extract(epoch FROM flushed_past) * 1000)::bigint";

/// Ids leave only after this has been committed, and a flush of such a journal reads it under the
/// lock on the journal's row. Whoever holds that lock now is not silent.
const WRITE_OFF: &str = "
    WITH silent AS (
        SELECT id, written_off IS NULL AS newly
          FROM journals
         WHERE GREATEST(flushed_past, written_off, '-infinity') < to_timestamp($1::bigint::float8 / 1000)
         ORDER BY id FOR UPDATE SKIP LOCKED
    )
    UPDATE journals SET written_off = to_timestamp($1::bigint::float8 / 1000)
      FROM silent WHERE journals.id = silent.id
    RETURNING journals.id, silent.newly";

/// Held while a purge looks at the journals: whoever claims one waits, or is seen. Nobody waits for
/// a claim or for another purge.
const ALONE: &str = "SELECT single FROM store FOR UPDATE NOWAIT";

/// Up to when all journals have flushed past, if the oldest id may leave then ($1); never later than what
/// this journal has just reported ($3), whoever has closed it since. What it means for
/// journals that are not among them is noted, before any id leaves.
const NOTE: &str = "
    UPDATE store
       SET unknowable_before =
               GREATEST(unknowable_before, past.least - $2::bigint::float8 * interval '1 millisecond')
      FROM (SELECT LEAST(min(GREATEST(flushed_past, written_off, '-infinity')),
                         to_timestamp($3::bigint::float8 / 1000)) AS least FROM journals) AS past
     WHERE past.least > to_timestamp($1::bigint::float8 / 1000)
    RETURNING floor(extract(epoch FROM past.least) * 1000)::bigint";

/// Rows that somebody else is about to remove are left to him.
const REMOVE: &str = "
    DELETE FROM idempotency_keys
     WHERE id = ANY (ARRAY (
        SELECT id FROM idempotency_keys WHERE accepted_at < to_timestamp($1::bigint::float8 / 1000)
         ORDER BY accepted_at LIMIT $2::bigint FOR UPDATE SKIP LOCKED))";

const HELD_BY: &str = "
    SELECT id FROM journals
     WHERE id <> $1
       AND GREATEST(flushed_past, written_off, '-infinity') <= to_timestamp($2::bigint::float8 / 1000)
     ORDER BY GREATEST(flushed_past, written_off, '-infinity'), id LIMIT 1";

const CLOSE: &str = "
    UPDATE journals SET flushed_past = to_timestamp($4::bigint::float8 / 1000), written_off = NULL
     WHERE id = $1 AND owner = $2 AND seq >= $3";

/// Streams the newest ids, the newest first.
pub(crate) async fn load(
    session: &Session,
    since_ms: u64,
    limit: u32,
    each: &mut dyn FnMut(&str, Fingerprint, u64),
) -> Result<(), Fault> {
    let step = session.limits.step;
    let ask = async {
        let statement = session.statement(NEWEST).await?;
        let parameters: [&(dyn ToSql + Sync); 2] = [&date_ms(since_ms), &i64::from(limit)];
        Ok(session.client.query_raw(&statement, parameters).await?)
    };
    let mut rows = pin!(session.step(step, ask).await?);
    loop {
        let some = async {
            for _ in 0..ROWS_A_STEP {
                let Some(row) = rows.next().await else { return Ok(false) };
                let row = row?;
                each(row.try_get(0)?, fingerprint(&row, 1)?, ms(&row, 2)?);
            }
            Ok(true)
        };
        if !session.step(step, some).await? {
            return Ok(());
        }
    }
}

/// Each step is a transaction of its own: none holds a lock while it waits for another.
pub(crate) async fn purge(session: &Session, claim: &Claim, purge: &Purge) -> Result<Purged, Fault> {
    let client = &session.client;
    let oldest = client.query_opt(&session.statement(OLDEST).await?, &[]).await?;
    let Some(oldest_ms) = oldest.map(|row| ms(&row, 0)).transpose()? else { return Ok(Purged::default()) };
    let mut purged = Purged { oldest_ms: Some(oldest_ms), ..Purged::default() };
    let expiry = Expiry::of(purge);
    if !expiry.has_passed(oldest_ms, purge.flushed_past_ms) {
        return Ok(purged);
    }
    let (journal, owner) = (claim.journal.to_string(), claim.owner.to_string());
    let (watermark, past) = (purge.watermark.as_i64(), date_ms(purge.flushed_past_ms));
    let report = session.statement(REPORT).await?;
    let reported = client.query_opt(&report, &[&journal, &owner, &watermark, &past]).await?;
    let Some(past_ms) = reported.map(|row| ms(&row, 0)).transpose()? else { return Ok(purged) };
    if let Some(until_ms) = expiry.write_off_ms(oldest_ms, past_ms) {
        let rows = client.query(&session.statement(WRITE_OFF).await?, &[&date_ms(until_ms)]).await?;
        for row in &rows {
            if row.try_get(1)? {
                purged.written_off.push(journal_id(row)?);
            }
        }
    }
    if let Some(least_ms) = note(session, expiry, oldest_ms, past_ms).await? {
        let remove = session.statement(REMOVE).await?;
        let before = date_ms(least_ms.saturating_sub(expiry.kept_ms));
        purged.removed = client.execute(&remove, &[&before, &i64::from(purge.limit)]).await?;
    }
    if purged.removed == 0 {
        let needed = date_ms(oldest_ms.saturating_add(expiry.kept_ms));
        let held_by = client.query_opt(&session.statement(HELD_BY).await?, &[&journal, &needed]).await?;
        purged.kept_for = held_by.map(|row| journal_id(&row)).transpose()?;
    }
    Ok(purged)
}

/// Up to when all journals have flushed past, once that is noted; `None` where no id may leave, or
/// where somebody else has the store's row just now. No lock is held while the server waits for us.
async fn note(session: &Session, expiry: Expiry, oldest_ms: u64, past_ms: u64) -> Result<Option<u64>, Fault> {
    let (client, alone) = (&session.client, session.statement(ALONE).await?);
    let note = session.statement(NOTE).await?;
    let needed = date_ms(oldest_ms.saturating_add(expiry.kept_ms));
    let margin = i64::try_from(expiry.margin_ms).unwrap_or(i64::MAX);
    let past = date_ms(past_ms);
    let parameters: [&(dyn ToSql + Sync); 3] = [&needed, &margin, &past];
    let (begun, locked, noted, committed) = tokio::join!(biased;
        client.batch_execute("BEGIN"),
        client.query_one(&alone, &[]),
        client.query_opt(&note, &parameters),
        client.batch_execute("COMMIT"),
    );
    begun?;
    match locked {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => return Ok(None),
        locked => locked?,
    };
    let noted = noted?.map(|row| ms(&row, 0)).transpose()?;
    committed?;
    Ok(noted)
}

pub(crate) async fn close(session: &Session, claim: &Claim, watermark: Seq) -> Result<(), Fault> {
    let (journal, owner) = (claim.journal.to_string(), claim.owner.to_string());
    let for_ever = date_ms(u64::MAX);
    let close = session.statement(CLOSE).await?;
    session.client.execute(&close, &[&journal, &owner, &watermark.as_i64(), &for_ever]).await?;
    Ok(())
}

fn ms(row: &Row, column: usize) -> Result<u64, Fault> {
    Ok(row.try_get::<_, i64>(column)?.max(0) as u64)
}

fn journal_id(row: &Row) -> Result<JournalId, Fault> {
    let id: &str = row.try_get(0)?;
    id.parse().map_err(|error| damaged(&error))
}
