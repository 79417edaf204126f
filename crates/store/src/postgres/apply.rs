//! Applies a batch: by one statement, which is one round trip, unless it is to be spread.

use std::pin::pin;
use std::time::Duration;

use counter::{Applied, Batch};
use futures_util::StreamExt;
use tokio_postgres::types::ToSql;

use super::faults::Fault;
use super::link::Link;
use super::session::Session;
use super::spread::PART_ROWS;
use super::writer::standing;
use super::{set_aside, transaction};
use crate::plan::{Known, Plan};
use crate::settle::committed_before;
use crate::{ApplyError, Claim, StoreError};

/// Moves the watermark and adds the sums, both or neither.
///
/// The INSERT takes its rows from a join with `moved`. Whichever side of it the planner puts
/// first, no row comes out of the join before `moved` has given one, and it gives one only after
/// its UPDATE has locked and changed the journal's row. So that lock comes before those of the
/// counters, as in every other transaction of ours; and where the UPDATE hits nothing, there is
/// nothing to insert. A nested loop with the one row of `moved` keeps the order of the arrays,
/// which is the order in which all instances lock counters.
///
/// A COPY into a temporary table and an INSERT from there takes as long for 100,000 rows (median
/// 0.55 s against 0.58 s with psql, whose arrays are text), and several round trips.
///
/// At READ COMMITTED an UPDATE that had to wait for another transaction tests its WHERE again on
/// what that one left, and ON CONFLICT adds to the newest version of a row.
const MOVE_AND_ADD: &str = "
    WITH moved AS (
        UPDATE journals SET seq = $4, moved_by = $2, flushed_at = now()
         WHERE id = $1 AND owner = $2 AND seq = $3
        RETURNING id
    )
    INSERT INTO counters (key, value)
    SELECT sums.key, sums.value
      FROM moved, unnest($5::text[], $6::bigint[]) AS sums (key, value)
    ON CONFLICT (key) DO UPDATE SET value = counters.value + excluded.value
    RETURNING key, value";

/// Changes nothing that counts; see [`confirm`].
const CONFIRM: &str = "
    UPDATE journals SET flushed_at = now() WHERE id = $1 AND owner = $2 AND seq = $3";

pub(crate) const TOTALS: &str = "SELECT key, value FROM counters WHERE key = ANY ($1::text[])";

pub(crate) fn apply(
    link: &mut Link,
    claim: &Claim,
    batch: &Batch,
    over: Duration,
) -> Result<Applied, ApplyError> {
    let limit = link.limits().step_for(batch.rows().len() + batch.units().len()).saturating_add(over);
    let is_spread = !over.is_zero() && batch.rows().len() > PART_ROWS;
    let mut applied = match plain_sums(batch).filter(|_| !is_spread) {
        Some(sums) => link.call(limit, async |session| move_and_add(session, claim, batch, sums).await),
        None => link.call(limit, async |session| transaction::apply(session, claim, batch, over).await),
    };
    if let Err(Fault::Rows(_) | Fault::Unclear { .. }) = applied {
        applied = link.call_in_steps(async |session| set_aside::apply(session, claim, batch).await);
    }
    match applied.map_err(StoreError::from)? {
        Some(applied) => Ok(applied),
        None => settle(link, claim, batch),
    }
}

/// The sums in key order, where one statement can add them: no unit, none wider than 64 bits, and
/// at least one (otherwise the statement's answer would not tell whether the watermark moved).
fn plain_sums(batch: &Batch) -> Option<Vec<i64>> {
    if batch.rows().is_empty() || !batch.units().is_empty() {
        return None;
    }
    let rows = batch.in_key_order().iter().map(|&row| &batch.rows()[row as usize]);
    rows.map(|row| if row.plain { i64::try_from(row.sum).ok() } else { None }).collect()
}

/// `None`: no row came back, so the watermark was not at the batch's beginning (or, where a
/// trigger skips every row, it did move; [`settle`] finds that out as well).
async fn move_and_add(
    session: &Session,
    claim: &Claim,
    batch: &Batch,
    sums: Vec<i64>,
) -> Result<Option<Applied>, Fault> {
    let keys: Vec<&str> = (0..batch.rows().len()).map(|at| batch.key_in_order(at)).collect();
    let (journal, owner) = (claim.journal.to_string(), claim.owner.to_string());
    let (from, upto) = (batch.from().as_i64(), batch.upto().as_i64());
    let statement = session.statement(MOVE_AND_ADD).await?;
    let mut totals = Totals::new(batch);
    let returned =
        totals.collect(session, &statement, &[&journal, &owner, &from, &upto, &keys, &sums]).await?;
    if returned == 0 {
        return Ok(None);
    }
    if returned < keys.len() {
        totals.read_missing(session).await?;
    }
    Ok(Some(Applied { totals: totals.into_inner(), ..Applied::default() }))
}

/// The watermark did not move: an earlier attempt moved it, or it is not ours to move.
fn settle(link: &mut Link, claim: &Claim, batch: &Batch) -> Result<Applied, ApplyError> {
    let limit = link.limits().step_for(batch.rows().len() + batch.units().len());
    let found = link.call(limit, async |session| standing(session, claim.journal).await);
    committed_before(found.map_err(StoreError::from)?, claim, batch)?;
    link.call(limit, async |session| confirm(session, claim, batch).await).map_err(StoreError::from)?;
    let applied = link.call(limit, async |session| read_back(session, claim, batch).await);
    Ok(applied.map_err(StoreError::from)?)
}

/// A commit that waits for a standby becomes visible without it when its session is ended, as by
/// a restart. What has been found may thus be missing after a failover. A commit of our own comes
/// after it in the log, and waits until all of that is where `synchronous_commit` wants it.
async fn confirm(session: &Session, claim: &Claim, batch: &Batch) -> Result<(), Fault> {
    let statement = session.statement(CONFIRM).await?;
    let (journal, owner) = (claim.journal.to_string(), claim.owner.to_string());
    match session.client.execute(&statement, &[&journal, &owner, &batch.upto().as_i64()]).await? {
        1 => Ok(()),
        _ => Err(Fault::Away("the journal's row changed while it was looked at".to_owned())),
    }
}

/// The outcome of a batch that an earlier attempt committed without our getting the answer.
async fn read_back(session: &Session, claim: &Claim, batch: &Batch) -> Result<Applied, Fault> {
    let mut totals = Totals::new(batch);
    totals.read_missing(session).await?;
    let set_aside = set_aside::read(session, claim, batch).await?;
    let mut known = transaction::known_ids(session, claim, batch).await?;
    for unit in batch.units() {
        // An id that the store refused is not there; what was meant for it has been set aside.
        known.entry(&unit.id).or_insert_with(|| Known::Refused(String::new()));
    }
    let duplicates = Plan::new(batch, &known).map(|plan| plan.duplicates).unwrap_or_default();
    Ok(Applied { totals: totals.into_inner(), duplicates, set_aside })
}

/// The names of rows.
pub(crate) fn keys<'b>(batch: &'b Batch, rows: &[u32]) -> Vec<&'b str> {
    rows.iter().map(|&row| batch.key(&batch.rows()[row as usize])).collect()
}

/// Collects totals by row number from answers whose order nothing guarantees.
pub(crate) struct Totals<'b> {
    batch: &'b Batch,
    /// Where in key order the next answer is expected: they come as they were asked for.
    next: usize,
    totals: Vec<Option<i64>>,
}

impl<'b> Totals<'b> {
    pub(crate) fn new(batch: &'b Batch) -> Self {
        Self { batch, next: 0, totals: vec![None; batch.rows().len()] }
    }

    /// Whether that row has one.
    pub(crate) fn has(&self, row: u32) -> bool {
        self.totals[row as usize].is_some()
    }

    pub(crate) fn into_inner(self) -> Vec<Option<i64>> {
        self.totals
    }

    /// Runs a statement that answers with keys and totals; how many came. It reads to the very
    /// end of the answer, because a deferred constraint fails after the last row.
    pub(crate) async fn collect(
        &mut self,
        session: &Session,
        statement: &tokio_postgres::Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<usize, Fault> {
        let rows = session.client.query_raw(statement, parameters.iter().copied()).await?;
        let mut rows = pin!(rows);
        let mut count = 0;
        while let Some(row) = rows.next().await {
            let row = row?;
            self.put(row.try_get(0)?, row.try_get(1)?);
            count += 1;
        }
        Ok(count)
    }

    /// Reads the totals of `rows`; those without a key keep `None`.
    pub(crate) async fn read(&mut self, session: &Session, rows: &[u32]) -> Result<(), Fault> {
        if rows.is_empty() {
            return Ok(());
        }
        let statement = session.statement(TOTALS).await?;
        self.next = 0;
        self.collect(session, &statement, &[&keys(self.batch, rows)]).await?;
        Ok(())
    }

    /// Reads the totals of all rows that have none yet.
    pub(crate) async fn read_missing(&mut self, session: &Session) -> Result<(), Fault> {
        let order = self.batch.in_key_order().iter().copied();
        let missing: Vec<u32> = order.filter(|&row| self.totals[row as usize].is_none()).collect();
        self.read(session, &missing).await
    }

    fn put(&mut self, key: &str, total: i64) {
        let order = self.batch.in_key_order();
        let expected = self.next < order.len() && self.batch.key_in_order(self.next) == key;
        let found = if expected {
            Ok(self.next)
        } else {
            let key_at = |row: u32| self.batch.key(&self.batch.rows()[row as usize]);
            order.binary_search_by(|&row| key_at(row).as_bytes().cmp(key.as_bytes()))
        };
        // A key that was not asked for can only be the work of a trigger; it is not ours.
        if let Ok(at) = found {
            self.totals[order[at] as usize] = Some(total);
            self.next = at + 1;
        }
    }
}
