//! Applies a batch in one transaction.

use std::collections::HashMap;

use counter::{Applied, Batch, SetAside};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::careful::{Item, Refusals};
use super::faults::{Fault, while_writing};
use super::writer::standing;
use crate::plan::{self, Known, Plan};
use crate::settle::committed_before;
use crate::{ApplyError, Claim, StoreError};

const MOVE: &str = "
    UPDATE journals SET seq = ?4, moved_by = ?2, flushed_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
     WHERE id = ?1 AND owner = ?2 AND seq = ?3
    RETURNING CAST(round(unixepoch(written_off, 'subsec') * 1000) AS INTEGER)";

/// An integer sum that overflows becomes a floating-point number in SQLite. The WHERE keeps the
/// sum from being made at all; then no row comes back.
const ADD: &str = "
    INSERT INTO counters (key, value) VALUES (?1, ?2)
    ON CONFLICT (key) DO UPDATE SET value = value + excluded.value
     WHERE CASE WHEN excluded.value >= 0
                THEN value <= 9223372036854775807 - excluded.value
                ELSE value >= -9223372036854775808 - excluded.value END
    RETURNING value";

const TOTAL: &str = "SELECT value FROM counters WHERE key = ?1";

const WRITE_ID: &str = "
    INSERT INTO idempotency_keys (id, fingerprint, journal, seq, accepted_at)
    VALUES (?1, ?2, ?3, ?4, strftime('%Y-%m-%dT%H:%M:%fZ', ?5 / 1000.0, 'unixepoch'))
    ON CONFLICT (id) DO NOTHING";

const KNOWN_ID: &str = "
    SELECT fingerprint, journal = ?2 AND seq = ?3 FROM idempotency_keys WHERE id = ?1";

pub(crate) fn apply(
    connection: &mut Connection,
    claim: &Claim,
    batch: &Batch,
) -> Result<Applied, ApplyError> {
    let mut refusals = Refusals::default();
    let applied = loop {
        match attempt(connection, claim, batch, &mut refusals) {
            Err(Fault::Row(_)) if refusals.take_news() => {}
            other => break other,
        }
    };
    match applied.map_err(StoreError::from)? {
        Some(applied) => Ok(applied),
        None => {
            let found = standing(connection, claim.journal).map_err(StoreError::from)?;
            committed_before(found, claim, batch)?;
            Ok(read_back(connection, claim, batch).map_err(StoreError::from)?)
        }
    }
}

/// `None`: the watermark was not at the batch's beginning, and nothing was written.
fn attempt(
    connection: &mut Connection,
    claim: &Claim,
    batch: &Batch,
    refusals: &mut Refusals,
) -> Result<Option<Applied>, Fault> {
    // Dropped on the way out, it rolls back.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (journal, owner) = (claim.journal.to_string(), claim.owner.to_string());
    let places = params![journal, owner, batch.from().as_i64(), batch.upto().as_i64()];
    let written_off_ms = |row: &Row<'_>| Ok(row.get::<_, Option<i64>>(0)?.map(|ms| ms.max(0) as u64));
    let moved = transaction.prepare_cached(MOVE)?.query_row(places, written_off_ms).optional()?;
    let Some(written_off_ms) = moved else { return Ok(None) };
    let known = write_ids(&transaction, claim, batch, written_off_ms, refusals)?;
    let Some(mut plan) = Plan::new(batch, &known) else {
        return Err(Fault::Refused(
            "an idempotency key was written and is not there: a trigger of the table is in the way"
                .to_owned(),
        ));
    };
    let mut totals = write_rows(&transaction, batch, &plan, refusals)?;
    for (number, row) in batch.rows().iter().enumerate() {
        let Some(reason) = refusals.reason(Item::Row(number as u32)) else { continue };
        if let Some(sum) = plan.sums[number].take() {
            plan.set_aside.push(plan::set_aside(batch, row, sum, reason.to_owned()));
        }
    }
    read_totals(&transaction, batch, &mut totals)?;
    write_set_aside(&transaction, claim, batch, &plan.set_aside)?;
    transaction.commit()?;
    Ok(Some(Applied { totals, duplicates: plan.duplicates, set_aside: plan.set_aside }))
}

/// Writes the ids that are not there yet, and tells what is there then.
fn write_ids<'b>(
    transaction: &Transaction<'_>,
    claim: &Claim,
    batch: &'b Batch,
    written_off_ms: Option<u64>,
    refusals: &mut Refusals,
) -> Result<HashMap<&'b str, Known>, Fault> {
    if batch.units().is_empty() {
        return Ok(HashMap::new());
    }
    let (journal, seq) = (claim.journal.to_string(), batch.upto().as_i64());
    let mut write = transaction.prepare_cached(WRITE_ID)?;
    let ids = plan::first_of_each_id(batch);
    let (ids, unknowable) = plan::part_unknowable(batch, ids, written_off_ms);
    for &number in &ids {
        let unit = &batch.units()[number as usize];
        let accepted_ms = plan::date_ms(unit.accepted_ms);
        refusals.write(transaction, Item::Id(number), || {
            let parameters = params![unit.id, unit.fingerprint, journal, seq, accepted_ms];
            write.execute(parameters).map_err(while_writing)
        })?;
    }
    let mut known = known_ids(transaction, claim, batch)?;
    for number in unknowable {
        known.entry(&batch.units()[number as usize].id).or_insert_with(plan::unknowable);
    }
    for number in ids {
        if let Some(reason) = refusals.reason(Item::Id(number)) {
            known.insert(&batch.units()[number as usize].id, Known::Refused(reason.to_owned()));
        }
    }
    Ok(known)
}

fn known_ids<'b>(
    connection: &Connection,
    claim: &Claim,
    batch: &'b Batch,
) -> Result<HashMap<&'b str, Known>, Fault> {
    let (journal, seq) = (claim.journal.to_string(), batch.upto().as_i64());
    let mut statement = connection.prepare_cached(KNOWN_ID)?;
    let mut known = HashMap::new();
    for unit in batch.units() {
        let row = statement.query_row(params![unit.id, journal, seq], |row| Ok((row.get(0)?, row.get(1)?)));
        if let Some((fingerprint, here)) = row.optional()? {
            known.insert(&*unit.id, Known::Counted { fingerprint, here });
        }
    }
    Ok(known)
}

/// Adds what the plan means for each row; the totals of those that it was added to.
fn write_rows(
    transaction: &Transaction<'_>,
    batch: &Batch,
    plan: &Plan,
    refusals: &mut Refusals,
) -> Result<Vec<Option<i64>>, Fault> {
    let mut totals = vec![None; batch.rows().len()];
    let mut add = transaction.prepare_cached(ADD)?;
    for &number in batch.in_key_order() {
        let Some(sum) = plan.sums[number as usize] else { continue };
        let key = batch.key(&batch.rows()[number as usize]);
        let total = refusals.write(transaction, Item::Row(number), || {
            let mut total = None;
            for part in plan::parts(sum) {
                total =
                    add.query_row(params![key, part], |row| row.get(0)).optional().map_err(while_writing)?;
                if total.is_none() {
                    refuse_overflow(transaction, key, part)?;
                }
            }
            Ok(total)
        })?;
        totals[number as usize] = total.flatten();
    }
    Ok(totals)
}

/// No row came back: the total would pass its range, or a trigger skipped the row (which is the
/// operator's will, and no error).
fn refuse_overflow(transaction: &Transaction<'_>, key: &str, part: i64) -> Result<(), Fault> {
    let total = transaction.prepare_cached(TOTAL)?.query_row([key], |row| row.get(0)).optional()?;
    match total {
        Some(total) if i64::checked_add(total, part).is_none() => {
            Err(Fault::Row(format!("the total {total} plus {part} is past 64 bits")))
        }
        _ => Ok(()),
    }
}

/// Fills in the totals that nothing was added to, where there are such keys.
fn read_totals(connection: &Connection, batch: &Batch, totals: &mut [Option<i64>]) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(TOTAL)?;
    for (total, row) in totals.iter_mut().zip(batch.rows()).filter(|(total, _)| total.is_none()) {
        *total = statement.query_row([batch.key(row)], |row| row.get(0)).optional()?;
    }
    Ok(())
}

fn write_set_aside(
    transaction: &Transaction<'_>,
    claim: &Claim,
    batch: &Batch,
    parts: &[SetAside],
) -> Result<(), Fault> {
    let (journal, seq) = (claim.journal.to_string(), batch.upto().as_i64());
    let mut statement = transaction.prepare_cached(
        "INSERT INTO set_aside (journal, seq, number, key, value, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for (part, number) in parts.iter().zip(1_i64..) {
        let written =
            statement.execute(params![journal, seq, number, part.key, part.value.to_string(), part.reason]);
        // Refused by whatever somebody did to this table, it must not be taken for a row's fault.
        written.map_err(|error| Fault::Refused(format!("the table `set_aside` takes no rows: {error}")))?;
    }
    Ok(())
}

/// The outcome of a batch that an earlier attempt committed without our getting the answer.
fn read_back(connection: &mut Connection, claim: &Claim, batch: &Batch) -> Result<Applied, Fault> {
    let snapshot = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let mut totals = vec![None; batch.rows().len()];
    read_totals(&snapshot, batch, &mut totals)?;
    let mut known = known_ids(&snapshot, claim, batch)?;
    for unit in batch.units() {
        // An id that the store refused is not there; what was meant for it has been set aside.
        known.entry(&unit.id).or_insert_with(|| Known::Refused(String::new()));
    }
    let duplicates = Plan::new(batch, &known).map(|plan| plan.duplicates).unwrap_or_default();
    let mut statement = snapshot.prepare_cached(
        "SELECT key, value, reason FROM set_aside WHERE journal = ?1 AND seq = ?2 ORDER BY number",
    )?;
    let rows = statement.query_map(params![claim.journal.to_string(), batch.upto().as_i64()], |row| {
        Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?))
    })?;
    let mut set_aside = Vec::new();
    for row in rows {
        let (key, value, reason) = row?;
        let value = value.parse().map_err(|_| {
            Fault::Refused("the table `set_aside` holds a value that isn't a number".to_owned())
        })?;
        set_aside.push(SetAside { key, value, reason });
    }
    Ok(Applied { totals, duplicates, set_aside })
}
