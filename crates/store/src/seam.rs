//! What the rest of the house knows of a store.

use std::time::Duration;

use counter::{Applied, Batch, Fingerprint, JournalId, OwnerId, Seq, StoreId};

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It may pass: no connection, a time-out, a restart, a deadlock. Nothing is known of the
    /// call's effect. Try again.
    #[error("the store is away: {0}")]
    Unavailable(String),
    /// It won't pass by itself: wrong password, wrong encoding, no permission, a schema that a
    /// newer version wrote. The text says what to do.
    #[error("{0}")]
    Refused(String),
}

/// Why a watermark did not move. In each case nothing was written, save where
/// [`Unavailable`](StoreError::Unavailable) leaves it open.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The call failed; apply the same batch again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another start owns the journal: its data directory was copied, or replaced.
    #[error("journal {journal} now belongs to another instance (owner {owner})")]
    Fenced {
        /// The journal in question.
        journal: JournalId,
        /// Who owns it now.
        owner: OwnerId,
    },
    /// The store's watermark is not where this batch begins, nor where it ends, or its row is
    /// gone (then it counts as 0): a failover or a restore lost what had been applied.
    #[error("the store's watermark is {watermark}, which is not the {expected} that it had confirmed")]
    Forgot {
        /// What the store holds.
        watermark: Seq,
        /// What it should hold.
        expected: Seq,
    },
}

/// Why a journal could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The call failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal's row is no longer as it was seen: look again before claiming.
    #[error("the journal's row changed between the look and the claim")]
    Moved,
}

/// Why the totals could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The call failed; what was handed over so far is void.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The receiver gave up, with this reason.
    #[error("{0}")]
    Stopped(String),
}

/// A journal's row in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The start that owns it.
    pub owner: OwnerId,
    /// The highest seq of the journal that the store holds.
    pub watermark: Seq,
    /// The start that moved the watermark to where it is; it need not be the owner, who may have
    /// flushed nothing yet. `None` before the first flush, or where a version moved it that didn't
    /// tell.
    pub moved_by: Option<OwnerId>,
}

/// Which start of which journal writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The journal.
    pub journal: JournalId,
    /// This start of its instance.
    pub owner: OwnerId,
}

/// Asks that idempotency keys leave the store, as far as they may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purge {
    /// For how long a repetition must not count, milliseconds. Ids are kept a quarter longer: an
    /// eighth, so that clocks may differ by as much, and an eighth in which a journal that nobody kept
    /// them for may come back without anything being in doubt.
    pub window_ms: u64,
    /// Whatever this journal accepted before this is in the store up to `watermark`; milliseconds
    /// since the Unix epoch. A store whose clock says less takes its own.
    pub flushed_past_ms: u64,
    /// The store's watermark of this journal, as last confirmed. Where the store holds less, it
    /// forgot, and nothing is done.
    pub watermark: Seq,
    /// So many ids may leave in one call.
    pub limit: u32,
}

/// What came of a [`Purge`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// When the oldest id was accepted that was there before; milliseconds since the Unix epoch.
    pub oldest_ms: Option<u64>,
    /// How many ids have left.
    pub removed: u64,
    /// The journal for which old ids are kept, because it has not flushed past them; `None` where
    /// none was found, or ids have left.
    pub kept_for: Option<JournalId>,
    /// Journals that have been silent for so long that ids leave without them from now on.
    pub written_off: Vec<JournalId>,
}

/// The one connection over which an instance writes. The flusher owns it; calls block, each for
/// a bounded time.
pub trait Store: Send {
    /// Makes the store ready: creates the database where it is missing, migrates it (safe when
    /// several start at once), and tells its id.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn prepare(&mut self) -> Result<StoreId, StoreError>;

    /// The journal's row, if there is one. Changes nothing.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn standing(&mut self, journal: JournalId) -> Result<Option<Standing>, StoreError>;

    /// Makes `claim.owner` the owner of the journal, provided that its row still is as `seen`
    /// (`None`: still missing; it is made, with watermark 0). `now_ms` is the claimer's time,
    /// milliseconds since the Unix epoch.
    ///
    /// Ids may have left that the journal still needs: the store may have forgotten its last claim, or
    /// another copy of its data directory told how far it has flushed. So what was told is taken back, and
    /// what the journal accepted before `now_ms` and too long ago counts only if its id is still
    /// known; otherwise it is set aside.
    ///
    /// # Errors
    /// [`ClaimError::Moved`] where the row is not as `seen`.
    fn claim(&mut self, claim: &Claim, seen: Option<Standing>, now_ms: u64) -> Result<(), ClaimError>;

    /// Hands every total to `each`, in any order, and returns the journal's watermark of the same
    /// snapshot. `each` may stop it with a reason; it must not call a store itself.
    ///
    /// # Errors
    /// See [`LoadError`].
    fn load(
        &mut self,
        journal: JournalId,
        each: &mut dyn FnMut(&str, i64) -> Result<(), String>,
    ) -> Result<Seq, LoadError>;

    /// Applies `batch` in one transaction: the watermark moves from `batch.from()` to
    /// `batch.upto()` (if `claim` still owns the journal), with the owner beside it as who moved
    /// it; ids in order, keys in order. Where the
    /// watermark is found at `batch.upto()` already, an earlier attempt was committed, and the
    /// totals are read. What the store refuses for good (a total past 64 bits, a constraint) is
    /// set aside in the same transaction.
    ///
    /// # Errors
    /// See [`ApplyError`].
    fn apply(&mut self, claim: &Claim, batch: &Batch) -> Result<Applied, ApplyError> {
        self.apply_over(claim, batch, Duration::ZERO)
    }

    /// As [`apply`](Self::apply), where nothing is pressing: the transaction may take as long as `over`
    /// in addition, so that others get the processors in between. Its rows are locked for as long.
    ///
    /// # Errors
    /// See [`ApplyError`].
    fn apply_over(&mut self, claim: &Claim, batch: &Batch, over: Duration) -> Result<Applied, ApplyError>;

    /// Hands the newest idempotency keys to `each`, the newest first: those that were accepted at
    /// `since_ms` (milliseconds since the Unix epoch) or later, at most `limit`. `each` must not
    /// call a store itself.
    ///
    /// # Errors
    /// See [`StoreError`]; what was handed over so far is true all the same.
    fn load_ids(
        &mut self,
        since_ms: u64,
        limit: u32,
        each: &mut dyn FnMut(&str, Fingerprint, u64),
    ) -> Result<(), StoreError>;

    /// Lets idempotency keys leave that are older than the window, once every journal has flushed
    /// past them. A look at the oldest id is all that it costs where none is old enough. It waits
    /// for no other instance's work on ids, and several may call it at once.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn purge(&mut self, claim: &Claim, purge: &Purge) -> Result<Purged, StoreError>;

    /// Says that nothing is pending in the journal, and that nothing more is taken: ids need not be
    /// kept for it. The next claim ends that. Without effect where `claim` no longer owns the
    /// journal, or the store holds less than `watermark` of it.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn close(&mut self, claim: &Claim, watermark: Seq) -> Result<(), StoreError>;
}

/// Totals of some keys as one snapshot saw them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The watermark of the asking instance's journal: what of it these totals contain.
    pub watermark: Seq,
    /// One for each key that was asked for, in the same order; `None` where there is no such key.
    pub totals: Vec<Option<i64>>,
}

/// Which keys a page wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageQuery<'a> {
    /// Keys begin with this; empty for all.
    pub prefix: &'a str,
    /// Keys come after this one, bytewise; `None` from the first.
    pub after: Option<&'a str>,
    /// At most so many.
    pub limit: u32,
}

/// A second connection, for reads alone. Calls block, each for a bounded time (at most a few
/// seconds: somebody waits for the answer).
pub trait StoreReader: Send {
    /// The totals of `keys`, and the watermark of `journal` in the same snapshot.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn totals(&mut self, journal: JournalId, keys: &[&str]) -> Result<Snapshot, StoreError>;

    /// Keys in bytewise order.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn page(&mut self, query: &PageQuery<'_>) -> Result<Vec<String>, StoreError>;

    /// The journal's row, if there is one.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn standing(&mut self, journal: JournalId) -> Result<Option<Standing>, StoreError>;

    /// The watermarks of all journals but `journal`: when they are as they were, no other
    /// instance has changed a total.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn others(&mut self, journal: JournalId) -> Result<Vec<(JournalId, Seq)>, StoreError>;
}
