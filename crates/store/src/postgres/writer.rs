//! The connection over which an instance writes.

use std::time::Duration;

use counter::{Applied, Batch, Fingerprint, IdError, JournalId, OwnerId, Seq, StoreId};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::faults::Fault;
use super::limits::Limits;
use super::link::Link;
use super::session::Session;
use super::{apply, ids, load, prepare};
use crate::plan::date_ms;
use crate::url::PostgresPlace;
use crate::{ApplyError, Claim, ClaimError, LoadError, Purge, Purged, Standing, Store, StoreError};

/// A [`Store`] in PostgreSQL.
pub(crate) struct PostgresStore {
    link: Link,
}

impl PostgresStore {
    pub(crate) fn new(place: &PostgresPlace, limits: Limits) -> Result<Self, StoreError> {
        Ok(Self { link: Link::new(place, limits, true)? })
    }
}

impl Store for PostgresStore {
    fn prepare(&mut self) -> Result<StoreId, StoreError> {
        prepare::prepare(&mut self.link)
    }

    fn standing(&mut self, journal: JournalId) -> Result<Option<Standing>, StoreError> {
        let limit = self.link.limits().step;
        Ok(self.link.call(limit, async |session| standing(session, journal).await)?)
    }

    fn claim(&mut self, claim: &Claim, seen: Option<Standing>, now_ms: u64) -> Result<(), ClaimError> {
        let limit = self.link.limits().step;
        let claimed = self.link.call(limit, async |session| take(session, claim, seen, now_ms).await);
        if claimed.map_err(StoreError::from)? { Ok(()) } else { Err(ClaimError::Moved) }
    }

    fn load(
        &mut self,
        journal: JournalId,
        each: &mut dyn FnMut(&str, i64) -> Result<(), String>,
    ) -> Result<Seq, LoadError> {
        load::load(&mut self.link, journal, each)
    }

    fn apply_over(&mut self, claim: &Claim, batch: &Batch, over: Duration) -> Result<Applied, ApplyError> {
        apply::apply(&mut self.link, claim, batch, over)
    }

    fn load_ids(
        &mut self,
        since_ms: u64,
        limit: u32,
        each: &mut dyn FnMut(&str, Fingerprint, u64),
    ) -> Result<(), StoreError> {
        Ok(self.link.call_in_steps(async |session| ids::load(session, since_ms, limit, each).await)?)
    }

    fn purge(&mut self, claim: &Claim, purge: &Purge) -> Result<Purged, StoreError> {
        let limit = self.link.limits().step_for(purge.limit as usize);
        Ok(self.link.call(limit, async |session| ids::purge(session, claim, purge).await)?)
    }

    fn close(&mut self, claim: &Claim, watermark: Seq) -> Result<(), StoreError> {
        let limit = self.link.limits().step;
        Ok(self.link.call(limit, async |session| ids::close(session, claim, watermark).await)?)
    }
}

/// The journal's row.
pub(crate) async fn standing(session: &Session, journal: JournalId) -> Result<Option<Standing>, Fault> {
    let statement = session.statement("SELECT owner, seq, moved_by FROM journals WHERE id = $1").await?;
    let row = session.client.query_opt(&statement, &[&journal.to_string()]).await?;
    row.map(|row| read_standing(&row)).transpose()
}

fn read_standing(row: &Row) -> Result<Standing, Fault> {
    let id = |text: &str| text.parse::<OwnerId>().map_err(|error| damaged(&error));
    let moved_by: Option<&str> = row.try_get(2)?;
    Ok(Standing {
        owner: id(row.try_get(0)?)?,
        watermark: Seq::from_i64(row.try_get(1)?),
        moved_by: moved_by.map(id).transpose()?,
    })
}

/// The journals' table holds what no version writes.
pub(crate) fn damaged(error: &IdError) -> Fault {
    Fault::Refused(format!("the table `journals` is damaged: {error}"))
}

/// Min of both, and NULL where no id has left. It is read when no purge can be about to raise it:
/// see [`LOCK`].
const MAKE: &str = "
    INSERT INTO journals (id, owner, seq, written_off)
    SELECT $1::text, $2::text, 0, CASE WHEN unknowable_before IS NOT NULL
           THEN LEAST(unknowable_before, to_timestamp($3::bigint::float8 / 1000)) END
      FROM store
    ON CONFLICT (id) DO NOTHING";

/// How far the journal has flushed is not known before the new owner tells. A journal that was closed may
/// hold requests, if the store forgot an earlier claim. And what the owner before told may be of a copy of
/// the data directory, where other records lie.
const TAKE: &str = "
    UPDATE journals
       SET owner = $2, claimed_at = now(),
           flushed_past = NULL,
           written_off = CASE WHEN flushed_past IS NULL THEN written_off ELSE GREATEST(written_off,
               (SELECT CASE WHEN unknowable_before IS NOT NULL
                       THEN LEAST(unknowable_before, to_timestamp($6::bigint::float8 / 1000)) END
                  FROM store)) END
     WHERE id = $1 AND owner IN ($3, $2) AND seq = $4 AND moved_by IS NOT DISTINCT FROM $5";

/// A purge holds this row while it looks at all journals and notes which ids leave; it doesn't
/// wait for a claim, and what it notes is here by then.
const LOCK: &str = "SELECT single FROM store FOR SHARE";

/// Whether the row is the claimer's now. An earlier attempt of the same claim, whose answer was
/// lost, counts: nobody else knows the owner's id.
///
/// The statements are sent without waiting for answers, so that no lock is held by somebody who
/// isn't there any more; see [`transaction`](super::transaction).
async fn take(session: &Session, claim: &Claim, seen: Option<Standing>, now_ms: u64) -> Result<bool, Fault> {
    let (journal, owner, now_ms) = (claim.journal.to_string(), claim.owner.to_string(), date_ms(now_ms));
    let before = seen.map(|seen| (seen.owner.to_string(), seen.watermark.as_i64()));
    let moved_by = seen.and_then(|seen| seen.moved_by).map(|moved_by| moved_by.to_string());
    let change = session.statement(if seen.is_some() { TAKE } else { MAKE }).await?;
    let parameters: Vec<&(dyn ToSql + Sync)> = match &before {
        Some((before, seq)) => vec![&journal, &owner, before, seq, &moved_by, &now_ms],
        None => vec![&journal, &owner, &now_ms],
    };
    let lock = session.statement(LOCK).await?;
    let (begun, locked, changed, committed) = tokio::join!(biased;
        session.client.batch_execute("BEGIN"),
        session.client.query_one(&lock, &[]),
        session.client.execute(&change, &parameters),
        session.client.batch_execute("COMMIT"),
    );
    begun?;
    locked?;
    let changed = changed?;
    committed?;
    let ours = Standing { owner: claim.owner, watermark: Seq::ZERO, moved_by: None };
    Ok(changed == 1 || seen.is_none() && standing(session, claim.journal).await? == Some(ours))
}
