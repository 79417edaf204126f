//! Whether a table takes any row at all, where the code of an error doesn't tell.
//!
//! A policy or a trigger that refuses one row may say just what a missing permission or a broken
//! trigger says of every row. So rows are tried, each under a savepoint that is rolled back: one
//! that is taken shows that the table takes rows, and what it refused was refused for its own sake.

use counter::{Batch, JournalId};

use super::faults::Fault;
use super::session::Session;
use super::transaction::{ADD, Round, insert_ids, rounds};
use crate::Claim;
use crate::plan::Plan;

/// So many rows of a batch are tried, chosen at random: another attempt tries others.
const SAMPLES: usize = 8;

/// Some keys that nobody else is changing; waiting for a lock here could end in a deadlock.
const EXISTING: &str = "SELECT key FROM counters ORDER BY key LIMIT 4 FOR UPDATE SKIP LOCKED";

/// Whether `counters` takes rows: one of a key that nobody has, or one of those that it holds.
/// `taken` is one of `meant` that it has taken in this transaction. Where there is none, no
/// counter is locked yet, so rows of the batch may be tried as well, in any order.
pub(super) async fn takes_rows(
    session: &Session,
    batch: &Batch,
    plan: &Plan,
    meant: &[u32],
    taken: Option<usize>,
) -> Result<bool, Fault> {
    // Without any row it is the statement that fails: a table or a column that is missing, or a
    // permission to write at all.
    if !adds(session, &[Round::default()]).await? {
        return Ok(false);
    }
    let random = random()?;
    if adds(session, &[(vec![&format!("incrementer probe {random}")], vec![1])]).await? {
        return Ok(true);
    }
    if let Some(taken) = taken {
        let row = &batch.rows()[meant[taken] as usize];
        return adds(session, &[(vec![batch.key(row)], vec![0])]).await;
    }
    let existing = session.step(session.limits.step, async {
        let rows = session.client.query(EXISTING, &[]).await?;
        rows.iter().map(|row| Ok(row.try_get::<_, String>(0)?)).collect::<Result<Vec<_>, Fault>>()
    });
    for key in existing.await? {
        if adds(session, &[(vec![&key], vec![0])]).await? {
            return Ok(true);
        }
    }
    for at in samples(random, meant.len()) {
        if adds(session, &rounds(batch, plan, &meant[at..=at])).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// As [`takes_rows`] for `idempotency_keys` and the units `ids`.
pub(super) async fn takes_ids(
    session: &Session,
    claim: &Claim,
    batch: &Batch,
    ids: &[u32],
    taken: Option<usize>,
) -> Result<bool, Fault> {
    let insert = async |ids: &[(&str, u32)]| {
        let work = async { insert_ids(session, claim, batch, ids).await };
        would(session, work).await
    };
    if insert(&[]).await?.is_none() {
        return Ok(false);
    }
    let random = random()?;
    let made_up = format!("incrementer probe {random}");
    if let Some(&unit) = ids.first()
        && insert(&[(&made_up, unit)]).await?.is_some()
    {
        return Ok(true);
    }
    if taken.is_some() {
        return Ok(true);
    }
    for at in samples(random, ids.len()) {
        // One that was there is left as it is, and tells nothing.
        if insert(&[(&batch.units()[ids[at] as usize].id, ids[at])]).await? == Some(1) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the server would add these.
async fn adds(session: &Session, rounds: &[Round<'_>]) -> Result<bool, Fault> {
    let work = async {
        let statement = session.statement(ADD).await?;
        for (keys, values) in rounds {
            session.client.query(&statement, &[keys, values]).await?;
        }
        Ok(())
    };
    Ok(would(session, work).await?.is_some())
}

/// Does `work` and takes it back; `None` where the server refused it.
async fn would<T>(
    session: &Session,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<Option<T>, Fault> {
    let tried = async {
        session.client.batch_execute("SAVEPOINT probe").await?;
        let tried = match work.await {
            Ok(done) => Some(done),
            Err(Fault::Rows(_) | Fault::Unclear { .. }) => None,
            Err(fault) => return Err(fault),
        };
        session.client.batch_execute("ROLLBACK TO SAVEPOINT probe; RELEASE SAVEPOINT probe").await?;
        Ok(tried)
    };
    session.step(session.limits.step, tried).await
}

/// Any id will do for its bytes.
fn random() -> Result<JournalId, Fault> {
    JournalId::random().map_err(|error| Fault::Away(format!("no randomness for a probe: {error}")))
}

/// At most [`SAMPLES`] positions below `count`.
fn samples(random: JournalId, count: usize) -> impl Iterator<Item = usize> {
    let numbers = random.0.chunks_exact(2).map(|pair| usize::from(pair[0]) * 256 + usize::from(pair[1]));
    let positions: Vec<usize> =
        numbers.take(SAMPLES).filter_map(|number| number.checked_rem(count)).collect();
    positions.into_iter()
}
