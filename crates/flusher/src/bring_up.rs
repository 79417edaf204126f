//! From an open journal and a store to a writer, or to a refusal that names the ways out.

use counter::{JournalId, OwnerId, Seq, StoreId};
use engine::{Disk, Fatal, Freshness, Now, OpenError, Seen, Starting, Writer};
use store::{Claim, ClaimError, LoadError, Standing, Store, StoreError, StoreReader};

use crate::backoff::{Backoff, Wait};
use crate::own::Own;

/// Why a start was refused. Nothing was changed, but for the database being made and migrated.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store refused for good; its text says what to do.
    #[error("{0}")]
    Refused(String),
    /// Told to stop while the store was waited for.
    #[error("told to stop before the store was reached")]
    Stopped,
    /// The journal could not be read or written.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// The journal could not be written.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// The data directory belongs to another store, and increments are pending.
    #[error(
        "the data directory holds increments that are not flushed, for another store ({theirs}) than the \
         one given ({given}). Ways out: start with the store they belong to, let it flush and stop; then \
         this one can be taken. Or name an empty data directory with --data-dir (the pending increments \
         stay where they are; `incrementer journal inspect` shows them)"
    )]
    OtherStore {
        /// For which store they are.
        theirs: StoreId,
        /// Which one was given.
        given: StoreId,
    },
    /// The store has more of this journal than the journal itself.
    #[error(
        "the store holds journal {journal} up to seq {watermark}, but the data directory ends at seq {last}: \
         it was restored from an older copy, or the store belongs to a newer one. Ways out: bring back the \
         newest copy of the data directory; or, if that is lost, name an empty one with --data-dir: a new \
         journal begins, and every total that was flushed stays in the store"
    )]
    JournalBehind {
        /// The journal.
        journal: JournalId,
        /// What the store has.
        watermark: Seq,
        /// What the data directory has.
        last: Seq,
    },
    /// Somebody else flushed under the name of this journal.
    #[error(
        "another server has taken over this journal: the store holds journal {journal} up to seq {watermark}, \
         flushed by owner {flushed_by}, which is none of the last 48 starts of this data directory; from here it \
         was flushed up to seq {applied}. It was copied and the copy started, or it is an older copy itself; so the records in it are \
         not those that the store holds (and if the store came back older in between, by a failover or a \
         restore, it may lack what this one had flushed). Ways out: go on with the other data directory; or, where that is lost, name an empty one with --data-dir: a \
         new journal begins, and every total that was flushed stays in the store. `incrementer journal inspect` \
         shows what this one holds"
    )]
    OtherOwner {
        /// The journal.
        journal: JournalId,
        /// What the store has.
        watermark: Seq,
        /// Who flushed it up to there, as far as the store tells, or else who owns it.
        flushed_by: OwnerId,
        /// What this data directory knows of it.
        applied: Seq,
    },
    /// The store lost what had been applied, and the journal no longer has it.
    #[error(
        "the store holds journal {journal} up to seq {watermark}, but the data directory begins at seq \
         {first_kept}: seq {from} to {upto} were applied once and are lost in the store (a failover or a \
         restore lost its last commits). Ways out: bring back a newer copy of the store; or accept that these \
         are lost and let the store go on after them: INSERT INTO journals (id, owner, seq, moved_by, \
         flushed_past) VALUES ('{journal}', '{owner}', {upto}, '{owner}', '9999-12-31T23:59:59.999Z') ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, \
         seq = excluded.seq, moved_by = excluded.moved_by; and start again, which applies what the data directory still has; or name an empty one with \
         --data-dir, and what this one has stays in it: `incrementer journal inspect` shows it. For the next \
         time: the setting journal.keep keeps what was applied, so that it can be applied again",
        from = .watermark.0 + 1,
        upto = .first_kept.0 - 1
    )]
    StoreForgot {
        /// The journal.
        journal: JournalId,
        /// What the store has.
        watermark: Seq,
        /// The oldest record that is left.
        first_kept: Seq,
        /// The newest start of this data directory.
        owner: OwnerId,
    },
}

/// An engine that is up to date with its store.
#[derive(Debug)]
pub struct Started<D: Disk> {
    /// To be run.
    pub writer: Writer<D>,
    /// What the flusher writes as.
    pub own: Own,
    /// The watermarks of the other journals when the totals were loaded.
    pub others: Vec<(JournalId, Seq)>,
    /// How many records were replayed.
    pub replayed: u64,
    /// How many counters were loaded.
    pub loaded: u64,
    /// How many idempotency keys were loaded.
    pub loaded_ids: u64,
}

/// Brings an engine up: makes the store ready, checks that it and the journal belong together,
/// claims the journal, loads totals and idempotency keys, replays what the store doesn't have. A store that is
/// away is waited for. `claim_as` makes the claim's random owner; `now` tells when the totals
/// were asked for.
///
/// # Errors
/// See [`StartError`].
pub fn bring_up<D: Disk>(
    mut starting: Starting<D>,
    store: &mut dyn Store,
    reader: &mut dyn StoreReader,
    owner: OwnerId,
    freshness: &Freshness,
    now: &dyn Fn() -> Now,
    stop: &dyn Wait,
) -> Result<Started<D>, StartError> {
    let mut waiting =
        Waiting { backoff: Backoff::new(u64::from_le_bytes(first_half(owner.0))), stop, said: false };
    let id = waiting.until(&mut || store.prepare())?;
    starting = fit_store(starting, id)?;
    let journal = starting.identity().journal;
    let claim = Claim { journal, owner };
    loop {
        let standing = waiting.until(&mut || store.standing(journal))?;
        check_end(&starting, standing)?;
        check_owner(&starting, standing)?;
        check_beginning(&starting, standing)?;
        starting.set_owner(owner, standing.map(seen))?;
        match store.claim(&claim, standing, now().unix_ms) {
            Ok(()) => break,
            Err(ClaimError::Moved) => {}
            Err(ClaimError::Store(error)) => waiting.after(error)?,
        }
    }
    let (others, watermark, loaded, loaded_ids) = loop {
        // In this order: what others flush after the look is seen as a move by the next one.
        let began = now();
        let others = waiting.until(&mut || reader.others(journal))?;
        starting.unload();
        let mut loaded = 0;
        let outcome = store.load(journal, &mut |key, total| {
            loaded += 1;
            starting.load(key, total)
        });
        match outcome {
            Ok(watermark) => match load_ids(&mut starting, store, now().unix_ms) {
                Ok(loaded_ids) => {
                    freshness.looked(began.elapsed_ms(), false);
                    break (others, watermark, loaded, loaded_ids);
                }
                Err(error) => waiting.after(error)?,
            },
            Err(LoadError::Stopped(reason)) => return Err(StartError::Refused(reason)),
            Err(LoadError::Store(error)) => waiting.after(error)?,
        }
    };
    // From the claim on nobody else moves the watermark, so this only fails where somebody does.
    let claimed = Some(Standing { owner, watermark, moved_by: None });
    check_end(&starting, claimed)?;
    check_beginning(&starting, claimed)?;
    let former = starting.identity().owners.iter().map(|known| known.id).filter(|known| *known != owner);
    let own = Own::new(claim, former.collect());
    let (writer, replayed) = starting.replay(watermark, now())?;
    Ok(Started { writer, own, others, replayed, loaded, loaded_ids })
}

/// Loads the idempotency keys of the window, as many as memory may hold. Their snapshot may be
/// younger than that of the totals: an id that another instance has flushed in between is known, and
/// its total is asked for as after any flush of others.
fn load_ids<D: Disk>(
    starting: &mut Starting<D>,
    store: &mut dyn Store,
    now_ms: u64,
) -> Result<u64, StoreError> {
    let (since_ms, limit) = starting.wanted_ids(now_ms);
    let mut loaded = 0;
    if limit > 0 {
        store.load_ids(since_ms, limit, &mut |id, fingerprint, accepted_ms| {
            loaded += 1;
            starting.load_id(id, fingerprint, accepted_ms);
        })?;
    }
    Ok(loaded)
}

/// Sees to it that the journal belongs to store `id`.
fn fit_store<D: Disk>(mut starting: Starting<D>, id: StoreId) -> Result<Starting<D>, StartError> {
    match starting.identity().store {
        Some(theirs) if theirs == id => {}
        None => starting.set_store(id)?,
        Some(theirs) => {
            if starting.holds_increments_after(starting.applied())? {
                return Err(StartError::OtherStore { theirs, given: id });
            }
            let old = starting.identity().journal;
            starting = starting.begin_anew(id)?;
            let new = starting.identity().journal;
            tracing::info!(
                %old, %new, store = %id,
                "The store is another one than before and nothing was pending: a new journal begins"
            );
        }
    }
    Ok(starting)
}

/// Whether the journal reaches to the watermark.
fn check_end<D: Disk>(starting: &Starting<D>, standing: Option<Standing>) -> Result<(), StartError> {
    let (journal, last) = (starting.identity().journal, starting.last());
    match standing {
        Some(Standing { watermark, .. }) if watermark > last => {
            Err(StartError::JournalBehind { journal, watermark, last })
        }
        _ => Ok(()),
    }
}

/// Whether the journal still has what comes after the watermark.
fn check_beginning<D: Disk>(starting: &Starting<D>, standing: Option<Standing>) -> Result<(), StartError> {
    let journal = starting.identity().journal;
    let watermark = standing.map_or(Seq::ZERO, |standing| standing.watermark);
    let first_kept = starting.first_kept();
    if watermark.next() < first_kept {
        let known = starting.identity().owners.first().map(|known| known.id);
        let owner = known.or(standing.map(|standing| standing.owner)).unwrap_or(OwnerId([0; 16]));
        return Err(StartError::StoreForgot { journal, watermark, first_kept, owner });
    }
    if watermark < starting.applied() {
        let applied = starting.applied();
        tracing::warn!(
            %journal, %watermark, %applied,
            "The store forgot a part of what it had confirmed; the journal still has it, and it is applied again"
        );
    }
    Ok(())
}

/// Whether all that the store holds of the journal came from this data directory: whether one of
/// its starts flushed last. (All before that did too, or that start would have been refused.) Where
/// another directory has taken the journal over and not flushed since, it can be taken back.
fn check_owner<D: Disk>(starting: &Starting<D>, standing: Option<Standing>) -> Result<(), StartError> {
    let Some(Standing { owner, watermark, moved_by }) = standing else { return Ok(()) };
    let (identity, applied) = (starting.identity(), starting.applied());
    let is_ours = match (moved_by, identity.reach_of(owner)) {
        (Some(mover), _) => identity.reach_of_start(mover).is_some_and(|reach| watermark <= reach),
        // A version flushed last that didn't tell who it was. The owner may have flushed; one that
        // is unknown has not where the watermark is as this directory left it.
        (None, Some(reach)) => watermark <= reach,
        (None, None) => watermark == applied,
    };
    if is_ours || watermark == Seq::ZERO {
        return Ok(());
    }
    let flushed_by = moved_by.unwrap_or(owner);
    Err(StartError::OtherOwner { journal: identity.journal, watermark, flushed_by, applied })
}

fn seen(Standing { owner, watermark, moved_by }: Standing) -> Seen {
    Seen { owner, watermark, moved_by }
}

/// Waits for a store that is away.
struct Waiting<'a> {
    backoff: Backoff,
    stop: &'a dyn Wait,
    said: bool,
}

impl Waiting<'_> {
    fn until<T>(&mut self, attempt: &mut dyn FnMut() -> Result<T, StoreError>) -> Result<T, StartError> {
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(error) => self.after(error)?,
            }
        }
    }

    fn after(&mut self, error: StoreError) -> Result<(), StartError> {
        match error {
            StoreError::Refused(reason) => Err(StartError::Refused(reason)),
            StoreError::Unavailable(reason) => {
                if !std::mem::replace(&mut self.said, true) {
                    tracing::warn!(reason, "The store is away; waiting for it before increments are taken");
                }
                if self.stop.wait(self.backoff.pause()) { Ok(()) } else { Err(StartError::Stopped) }
            }
        }
    }
}

fn first_half(bytes: [u8; 16]) -> [u8; 8] {
    let mut half = [0; 8];
    half.copy_from_slice(&bytes[..8]);
    half
}
