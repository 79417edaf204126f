//! Finds the rows that the server refuses, and sets them aside.

use std::ops::Range;

use counter::{Applied, Batch, SetAside};

use super::apply::Totals;
use super::faults::Fault;
use super::probe;
use super::session::Session;
use super::transaction::{Moved, add, by_intent, known_ids, move_watermark, rounds, whole, write_ids};
use crate::Claim;
use crate::plan::{self, Known, Plan};

pub(crate) const WRITE: &str = "
    INSERT INTO set_aside (journal, seq, number, key, value, reason)
    SELECT $1::text, $2::bigint, parts.number::integer, parts.key, parts.value::numeric, parts.reason
      FROM unnest($3::text[], $4::text[], $5::text[]) WITH ORDINALITY AS parts (key, value, reason, number)";

const READ: &str = "
    SELECT key, value::text, reason FROM set_aside WHERE journal = $1 AND seq = $2 ORDER BY number";

/// Deferred constraints would fail at COMMIT, where nobody can tell which row it was.
const BEGIN: &str = "BEGIN; SET CONSTRAINTS ALL IMMEDIATE";

/// Applies a batch of which the server has refused a part: in one transaction, everything that it
/// takes, and what it refuses into the table `set_aside`. The parts are found by halving, under
/// savepoints, and always from the first key to the last, so that the order in which counters
/// are locked stays that of every other transaction.
///
/// `None`: the watermark was not at the batch's beginning, and nothing was written.
pub(crate) async fn apply(session: &Session, claim: &Claim, batch: &Batch) -> Result<Option<Applied>, Fault> {
    let applied = attempt(session, claim, batch).await;
    if matches!(applied, Ok(None) | Err(Fault::Rows(_) | Fault::Unclear { .. } | Fault::Refused(_))) {
        session
            .step(session.limits.step, async { Ok(session.client.batch_execute("ROLLBACK").await?) })
            .await?;
    }
    applied
}

async fn attempt(session: &Session, claim: &Claim, batch: &Batch) -> Result<Option<Applied>, Fault> {
    let limit = session.limits.step_for(batch.rows().len() + batch.units().len());
    let begin = async {
        session.client.batch_execute(BEGIN).await?;
        move_watermark(session, claim, batch).await
    };
    let Some(Moved { written_off_ms }) = session.step(limit, begin).await? else { return Ok(None) };

    let ids = plan::first_of_each_id(batch);
    let (ids, unknowable) = plan::part_unknowable(batch, ids, written_off_ms);
    let write_range = async |range: Range<usize>| write_ids(session, claim, batch, &ids[range]).await;
    let probe = async |taken| probe::takes_ids(session, claim, batch, &ids, taken).await;
    let refused_ids = halve(session, ids.len(), write_range, probe).await?;
    let mut known = session.step(limit, known_ids(session, claim, batch)).await?;
    for (at, reason) in refused_ids {
        known.insert(&batch.units()[ids[at] as usize].id, Known::Refused(reason));
    }
    for unit in unknowable {
        known.entry(&batch.units()[unit as usize].id).or_insert_with(plan::unknowable);
    }
    let Some(mut plan) = Plan::new(batch, &known) else {
        return Err(Fault::Away("an idempotency key left the store while it was looked up".to_owned()));
    };

    let (meant, _) = by_intent(batch, &plan);
    let mut totals = Totals::new(batch);
    let add_range = async |range: Range<usize>| {
        for round in rounds(batch, &plan, &meant[range]) {
            add(session, whole(&round), &mut totals).await?;
        }
        Ok(())
    };
    let probe = async |taken| probe::takes_rows(session, batch, &plan, &meant, taken).await;
    let refused = halve(session, meant.len(), add_range, probe).await?;
    // A statement that failed may have answered for some rows before.
    let mut totals = if refused.is_empty() { totals } else { Totals::new(batch) };
    for (at, reason) in refused {
        let row = meant[at];
        if let Some(sum) = plan.sums[row as usize].take() {
            plan.set_aside.push(plan::set_aside(batch, &batch.rows()[row as usize], sum, reason));
        }
    }
    session.step(limit, totals.read_missing(session)).await?;
    session.step(limit, write(session, claim, batch, &plan.set_aside)).await?;
    session.step(limit, async { Ok(session.client.batch_execute("COMMIT").await?) }).await?;
    let Plan { duplicates, set_aside, .. } = plan;
    Ok(Some(Applied { totals: totals.into_inner(), duplicates, set_aside }))
}

/// Has `attempt` write all of `0..count` in ascending order, in ranges under a savepoint each,
/// halving those that are refused. Returns the single ones that are, with the server's reason.
/// At most 2 × `count` attempts, and about 2 × log2(`count`) for one refused row.
///
/// Where it is [`Fault::Unclear`] whether a row was refused or the table takes none, `probe` has to
/// show that the table takes rows, before the halving and once more after it: otherwise it ends in
/// [`Fault::Refused`], and nothing is set aside. `probe` is told one of those that were taken.
async fn halve(
    session: &Session,
    count: usize,
    mut attempt: impl AsyncFnMut(Range<usize>) -> Result<(), Fault>,
    probe: impl AsyncFn(Option<usize>) -> Result<bool, Fault>,
) -> Result<Vec<(usize, String)>, Fault> {
    let (mut refused, mut taken, mut doubt) = (Vec::new(), None, None);
    let all = 0..count;
    let mut waiting = vec![all];
    while let Some(range) = waiting.pop() {
        if range.is_empty() {
            continue;
        }
        let limit = session.limits.step_for(range.len());
        let tried = session.step(limit, async {
            session.client.batch_execute("SAVEPOINT part").await?;
            let tried = attempt(range.clone()).await;
            let end = match tried {
                Ok(()) => "RELEASE SAVEPOINT part",
                Err(Fault::Rows(_) | Fault::Unclear { .. }) => {
                    "ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part"
                }
                Err(fault) => return Err(fault),
            };
            session.client.batch_execute(end).await?;
            Ok(tried)
        });
        let reason = match tried.await? {
            Ok(()) => {
                taken = Some(range.start);
                continue;
            }
            Err(Fault::Unclear { said, otherwise }) => {
                if doubt.is_none() && !probe(taken).await? {
                    return Err(Fault::Refused(otherwise));
                }
                doubt.get_or_insert(otherwise);
                said
            }
            Err(Fault::Rows(reason)) => reason,
            Err(fault) => return Err(fault),
        };
        if range.len() == 1 {
            refused.push((range.start, reason));
        } else {
            let middle = range.start + range.len() / 2;
            waiting.push(middle..range.end);
            waiting.push(range.start..middle);
        }
    }
    match doubt {
        // Somebody may have changed the table or its policies in the middle of it.
        Some(otherwise) if !probe(taken).await? => Err(Fault::Refused(otherwise)),
        _ => Ok(refused),
    }
}

/// Writes what was set aside.
pub(crate) async fn write(
    session: &Session,
    claim: &Claim,
    batch: &Batch,
    parts: &[SetAside],
) -> Result<(), Fault> {
    if parts.is_empty() {
        return Ok(());
    }
    let keys: Vec<&str> = parts.iter().map(|part| &*part.key).collect();
    let values: Vec<String> = parts.iter().map(|part| part.value.to_string()).collect();
    let reasons: Vec<&str> = parts.iter().map(|part| &*part.reason).collect();
    let statement = session.statement(WRITE).await?;
    let (journal, seq) = (claim.journal.to_string(), batch.upto().as_i64());
    session.client.execute(&statement, &[&journal, &seq, &keys, &values, &reasons]).await?;
    Ok(())
}

/// Reads what an earlier attempt of the batch has set aside.
pub(crate) async fn read(session: &Session, claim: &Claim, batch: &Batch) -> Result<Vec<SetAside>, Fault> {
    let statement = session.statement(READ).await?;
    let (journal, seq) = (claim.journal.to_string(), batch.upto().as_i64());
    let rows = session.client.query(&statement, &[&journal, &seq]).await?;
    let part = |row: &tokio_postgres::Row| {
        let value = row.try_get::<_, &str>(1)?.parse();
        let value = value.map_err(|_| {
            Fault::Refused("the table `set_aside` holds a value that isn't a number".to_owned())
        })?;
        Ok(SetAside { key: row.try_get(0)?, value, reason: row.try_get(2)? })
    };
    rows.iter().map(part).collect()
}
