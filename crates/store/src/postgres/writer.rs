//! The connection over which an instance writes.

use counter::{Applied, Batch, Fingerprint, IdError, JournalId, OwnerId, Seq, StoreId};
use tokio_postgres::Row;

use super::faults::Fault;
use super::limits::Limits;
use super::link::Link;
use super::session::Session;
use super::{apply, ids, load, prepare};
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

    fn claim(&mut self, claim: &Claim, seen: Option<Standing>) -> Result<(), ClaimError> {
        let limit = self.link.limits().step;
        let claimed = self.link.call(limit, async |session| take(session, claim, seen).await);
        if claimed.map_err(StoreError::from)? { Ok(()) } else { Err(ClaimError::Moved) }
    }

    fn load(
        &mut self,
        journal: JournalId,
        each: &mut dyn FnMut(&str, i64) -> Result<(), String>,
    ) -> Result<Seq, LoadError> {
        load::load(&mut self.link, journal, each)
    }

    fn apply(&mut self, claim: &Claim, batch: &Batch) -> Result<Applied, ApplyError> {
        apply::apply(&mut self.link, claim, batch)
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

/// Whether the row is the claimer's now. An earlier attempt of the same claim, whose answer was
/// lost, counts: nobody else knows the owner's id.
async fn take(session: &Session, claim: &Claim, seen: Option<Standing>) -> Result<bool, Fault> {
    let (journal, owner) = (claim.journal.to_string(), claim.owner.to_string());
    let Some(seen) = seen else {
        let make = "INSERT INTO journals (id, owner, seq) VALUES ($1, $2, 0) ON CONFLICT (id) DO NOTHING";
        let made = session.client.execute(&session.statement(make).await?, &[&journal, &owner]).await?;
        return Ok(made == 1
            || standing(session, claim.journal).await?
                == Some(Standing { owner: claim.owner, watermark: Seq::ZERO, moved_by: None }));
    };
    // A journal that was closed takes requests again from now on.
    let take = "UPDATE journals SET owner = $2, claimed_at = now(), \
                 flushed_past = CASE WHEN flushed_past > now() THEN now() ELSE flushed_past END \
                 WHERE id = $1 AND owner IN ($3, $2) AND seq = $4 AND moved_by IS NOT DISTINCT FROM $5";
    let (before, seq) = (seen.owner.to_string(), seen.watermark.as_i64());
    let moved_by = seen.moved_by.map(|moved_by| moved_by.to_string());
    let take = session.statement(take).await?;
    let taken = session.client.execute(&take, &[&journal, &owner, &before, &seq, &moved_by]).await?;
    Ok(taken == 1)
}
