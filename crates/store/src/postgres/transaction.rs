//! Applies a batch with units or wide sums, or one that is spread: an explicit transaction, of two
//! round trips where it is not spread.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use counter::{Applied, Batch, Fingerprint};
use tokio_postgres::Row;

use super::apply::{TOTALS, Totals};
use super::faults::Fault;
use super::session::Session;
use super::set_aside;
use super::spread::Spread;
use crate::Claim;
use crate::plan::{self, Known, Plan};

/// Between two statements nothing takes long, rests included. An instance that freezes there must not
/// hold up the others for as long as the session's own limit would let it.
const BEGIN: &str = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '2s'";

const MOVE: &str = "
    UPDATE journals SET seq = $4, moved_by = $2, flushed_at = now()
     WHERE id = $1 AND owner = $2 AND seq = $3
    RETURNING (extract(epoch FROM written_off) * 1000)::bigint";

pub(crate) const ADD: &str = "
    INSERT INTO counters (key, value)
    SELECT sums.key, sums.value FROM unnest($1::text[], $2::bigint[]) AS sums (key, value)
    ON CONFLICT (key) DO UPDATE SET value = counters.value + excluded.value
    RETURNING key, value";

const WRITE_IDS: &str = "
    INSERT INTO idempotency_keys (id, fingerprint, journal, seq, accepted_at)
    SELECT ids.id, ids.fingerprint, $4::text, $5::bigint, to_timestamp(ids.accepted_ms::float8 / 1000)
      FROM unnest($1::text[], $2::bytea[], $3::bigint[]) AS ids (id, fingerprint, accepted_ms)
    ON CONFLICT (id) DO NOTHING";

const KNOWN_IDS: &str = "
    SELECT id, fingerprint, journal = $2 AND seq = $3
      FROM idempotency_keys WHERE id = ANY ($1::text[])";

/// `None`: the watermark was not at the batch's beginning, and nothing was written. After
/// [`Fault::Rows`] or [`Fault::Unclear`] nothing was written either, and the session is ready for the next transaction.
pub(crate) async fn apply(
    session: &Session,
    claim: &Claim,
    batch: &Batch,
    over: Duration,
) -> Result<Option<Applied>, Fault> {
    let applied = attempt(session, claim, batch, &mut Spread::over(over)).await;
    if matches!(applied, Ok(None) | Err(Fault::Rows(_) | Fault::Unclear { .. } | Fault::Refused(_))) {
        session.client.batch_execute("ROLLBACK").await?;
    }
    applied
}

/// Statements are sent without waiting for the answers of those before. That is safe, because the
/// server runs them in order, refuses all that follow a failed one, and makes of a COMMIT behind
/// it a ROLLBACK.
async fn attempt(
    session: &Session,
    claim: &Claim,
    batch: &Batch,
    spread: &mut Spread,
) -> Result<Option<Applied>, Fault> {
    let client = &session.client;
    // Before BEGIN, because each needs a round trip of its own the first time.
    for sql in [MOVE, ADD, WRITE_IDS, KNOWN_IDS, TOTALS, set_aside::WRITE] {
        session.statement(sql).await?;
    }
    let ids = plan::first_of_each_id(batch);
    let (begun, moved, written, known) = tokio::join!(biased;
        async { Ok::<_, Fault>(client.batch_execute(BEGIN).await?) },
        move_watermark(session, claim, batch),
        write_ids(session, claim, batch, &ids),
        known_ids(session, claim, batch),
    );
    begun?;
    let Some(Moved { written_off_ms }) = moved? else { return Ok(None) };
    written?;
    if !plan::part_unknowable(batch, ids, written_off_ms).1.is_empty() {
        // Their ids must not be written; step by step that can be done.
        return Err(Fault::Rows("ids have left the store without this journal".to_owned()));
    }
    let Some(plan) = Plan::new(batch, &known?) else {
        // Found when we wanted to write it, and purged before we looked at it.
        return Err(Fault::Away("an idempotency key left the store while it was looked up".to_owned()));
    };

    let (meant, untouched) = by_intent(batch, &plan);
    let (mut totals, mut others) = (Totals::new(batch), Totals::new(batch));
    let rounds = rounds(batch, &plan, &meant);
    let mut last = None;
    for round in &rounds {
        if let Some(part) = last.take() {
            add(session, part, &mut totals).await?;
        }
        last = Some(add_all_but_last(session, whole(round), &mut totals, spread).await?);
    }
    let (added, read, kept, committed) = tokio::join!(biased;
        async { match last { Some(part) => add(session, part, &mut totals).await, None => Ok(()) } },
        others.read(session, &untouched),
        set_aside::write(session, claim, batch, &plan.set_aside),
        async { Ok::<_, Fault>(client.batch_execute("COMMIT").await?) },
    );
    added?;
    read?;
    kept?;
    committed?;
    // Those that a trigger skipped: nothing was added to them, whatever they are.
    if meant.iter().any(|&row| !totals.has(row)) {
        let missing: Vec<u32> = meant.into_iter().filter(|&row| !totals.has(row)).collect();
        totals.read(session, &missing).await?;
    }
    let totals = totals.into_inner().into_iter().zip(others.into_inner());
    let totals = totals.map(|(added, read)| added.or(read)).collect();
    Ok(Some(Applied { totals, duplicates: plan.duplicates, set_aside: plan.set_aside }))
}

/// The watermark moved.
pub(crate) struct Moved {
    /// Up to when the journal is written off, if it is; milliseconds since the Unix epoch.
    pub(crate) written_off_ms: Option<u64>,
}

/// `None`: the watermark was not at the batch's beginning.
pub(crate) async fn move_watermark(
    session: &Session,
    claim: &Claim,
    batch: &Batch,
) -> Result<Option<Moved>, Fault> {
    let statement = session.statement(MOVE).await?;
    let (journal, owner) = (claim.journal.to_string(), claim.owner.to_string());
    let (from, upto) = (batch.from().as_i64(), batch.upto().as_i64());
    let row = session.client.query_opt(&statement, &[&journal, &owner, &from, &upto]).await?;
    let Some(row) = row else { return Ok(None) };
    let written_off_ms: Option<i64> = row.try_get(0)?;
    Ok(Some(Moved { written_off_ms: written_off_ms.map(|ms| ms.max(0) as u64) }))
}

/// Writes the ids of `units` (in the order of ids) that are not there yet.
pub(crate) async fn write_ids(
    session: &Session,
    claim: &Claim,
    batch: &Batch,
    units: &[u32],
) -> Result<(), Fault> {
    if units.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = units.iter().map(|&unit| (&*batch.units()[unit as usize].id, unit)).collect();
    insert_ids(session, claim, batch, &ids).await?;
    Ok(())
}

/// Writes these ids as those of these units; how many were not there yet.
pub(crate) async fn insert_ids(
    session: &Session,
    claim: &Claim,
    batch: &Batch,
    ids: &[(&str, u32)],
) -> Result<u64, Fault> {
    let units = ids.iter().map(|&(_, unit)| &batch.units()[unit as usize]);
    let ids: Vec<&str> = ids.iter().map(|&(id, _)| id).collect();
    let fingerprints: Vec<&[u8]> = units.clone().map(|unit| &unit.fingerprint[..]).collect();
    let accepted_ms: Vec<i64> = units.map(|unit| plan::date_ms(unit.accepted_ms)).collect();
    let statement = session.statement(WRITE_IDS).await?;
    let (journal, seq) = (claim.journal.to_string(), batch.upto().as_i64());
    Ok(session.client.execute(&statement, &[&ids, &fingerprints, &accepted_ms, &journal, &seq]).await?)
}

/// What the store holds under the ids of the batch.
pub(crate) async fn known_ids<'b>(
    session: &Session,
    claim: &Claim,
    batch: &'b Batch,
) -> Result<HashMap<&'b str, Known>, Fault> {
    // A NUL is what no text of PostgreSQL can hold, so such an id is not there either.
    let ids: HashSet<&str> =
        batch.units().iter().map(|unit| &*unit.id).filter(|id| !id.contains('\0')).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let asked: Vec<&str> = ids.iter().copied().collect();
    let statement = session.statement(KNOWN_IDS).await?;
    let (journal, seq) = (claim.journal.to_string(), batch.upto().as_i64());
    let mut known = HashMap::with_capacity(asked.len());
    for row in session.client.query(&statement, &[&asked, &journal, &seq]).await? {
        let fingerprint = fingerprint(&row, 1)?;
        if let Some(&id) = ids.get(row.try_get::<_, &str>(0)?) {
            known.insert(id, Known::Counted { fingerprint, here: row.try_get(2)? });
        }
    }
    Ok(known)
}

/// Reads a column of fingerprints.
pub(crate) fn fingerprint(row: &Row, column: usize) -> Result<Fingerprint, Fault> {
    row.try_get::<_, &[u8]>(column)?.try_into().map_err(|_| {
        Fault::Refused("the table `idempotency_keys` holds a fingerprint that isn't 16 bytes long".to_owned())
    })
}

/// The numbers of the rows that something is meant for, and of the others, both in key order.
pub(crate) fn by_intent(batch: &Batch, plan: &Plan) -> (Vec<u32>, Vec<u32>) {
    batch.in_key_order().iter().partition(|&&row| plan.sums[row as usize].is_some())
}

/// Keys and values of one statement.
pub(crate) type Round<'b> = (Vec<&'b str>, Vec<i64>);

/// The sums of `rows` as one round of statements, or more where sums are wider than 64 bits.
pub(crate) fn rounds<'b>(batch: &'b Batch, plan: &Plan, rows: &[u32]) -> Vec<Round<'b>> {
    let mut rounds: Vec<Round<'b>> = Vec::new();
    for &row in rows {
        let key = batch.key(&batch.rows()[row as usize]);
        for (round, part) in plan.sums[row as usize].into_iter().flat_map(plan::parts).enumerate() {
            if rounds.len() == round {
                rounds.push(Round::default());
            }
            rounds[round].0.push(key);
            rounds[round].1.push(part);
        }
    }
    rounds
}

/// Some neighbours of a round.
pub(crate) type Part<'r> = (&'r [&'r str], &'r [i64]);

/// A round in one part.
pub(crate) fn whole<'r>((keys, values): &'r Round<'_>) -> Part<'r> {
    (keys, values)
}

/// Adds one part and takes the totals over.
pub(crate) async fn add(
    session: &Session,
    (keys, values): Part<'_>,
    totals: &mut Totals<'_>,
) -> Result<(), Fault> {
    let statement = session.statement(ADD).await?;
    totals.collect(session, &statement, &[&keys, &values]).await?;
    Ok(())
}

/// Adds a round in parts, resting after each, and gives back the last one, which is still to be added.
async fn add_all_but_last<'r>(
    session: &Session,
    (mut keys, mut values): Part<'r>,
    totals: &mut Totals<'_>,
    spread: &mut Spread,
) -> Result<Part<'r>, Fault> {
    loop {
        let rows = spread.next_part(keys.len());
        if rows == keys.len() {
            return Ok((keys, values));
        }
        let start = Instant::now();
        add(session, (&keys[..rows], &values[..rows]), totals).await?;
        (keys, values) = (&keys[rows..], &values[rows..]);
        spread.rest(start.elapsed(), keys.len()).await;
    }
}
