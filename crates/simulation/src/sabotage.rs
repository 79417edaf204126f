//! Faults put into the product on purpose, to see that the simulation notices.
//!
//! They are put in at the seams: a disk that lies, a store that cheats, a driver that calls in
//! the wrong order. The product's own code has no switch for them.

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "`what` says it")]
pub enum Sabotage {
    SkipSync,
    SkipNameSync,
    SkipTailSync,
    SkipIdentitySync,
    RetrySync,
    WatermarkFirst,
    WatermarkLast,
    NoCompareAndSet,
    ForgetIds,
    IgnoreOwner,
    DropSetAside,
    GuessCommit,
    TrimBeforeCommit,
    Regroup,
    ReplayTooLate,
    TornSnapshot,
    LoseDuplicates,
    AnswerOnHandOver,
    TrimKept,
    ReplayFromOwnMark,
    BlindReader,
    SkipBegunSync,
    PurgeEarly,
    PurgeAlone,
    FlushedPastNow,
    CountWrittenOff,
    ForgetIdsAtStart,
    CloseTooSoon,
    KeepMover,
    IgnoreMover,
    ForgetPurges,
}

impl Sabotage {
    /// All there are.
    pub const ALL: &[Self] = &[
        Self::SkipSync,
        Self::SkipNameSync,
        Self::SkipTailSync,
        Self::SkipIdentitySync,
        Self::RetrySync,
        Self::WatermarkFirst,
        Self::WatermarkLast,
        Self::NoCompareAndSet,
        Self::ForgetIds,
        Self::IgnoreOwner,
        Self::DropSetAside,
        Self::GuessCommit,
        Self::TrimBeforeCommit,
        Self::Regroup,
        Self::ReplayTooLate,
        Self::TornSnapshot,
        Self::LoseDuplicates,
        Self::AnswerOnHandOver,
        Self::TrimKept,
        Self::ReplayFromOwnMark,
        Self::BlindReader,
        Self::SkipBegunSync,
        Self::PurgeEarly,
        Self::PurgeAlone,
        Self::FlushedPastNow,
        Self::CountWrittenOff,
        Self::ForgetIdsAtStart,
        Self::CloseTooSoon,
        Self::KeepMover,
        Self::IgnoreMover,
        Self::ForgetPurges,
    ];

    /// Its name and what it does.
    #[must_use]
    pub fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::SkipSync => ("skip-sync", "answers without fdatasync of the segment"),
            Self::SkipNameSync => ("skip-name-sync", "never syncs the directory"),
            Self::SkipTailSync => ("skip-tail-sync", "recovery doesn't make durable again what it read"),
            Self::SkipIdentitySync => {
                ("skip-identity-sync", "the identity file is renamed without being synced")
            }
            Self::RetrySync => ("retry-sync", "tries a failed fdatasync again and believes it"),
            Self::WatermarkFirst => {
                ("watermark-first", "the watermark moves in a transaction of its own, before")
            }
            Self::WatermarkLast => {
                ("watermark-last", "the watermark moves in a transaction of its own, after")
            }
            Self::NoCompareAndSet => ("no-compare-and-set", "the watermark is set without being compared"),
            Self::ForgetIds => ("forget-ids", "idempotency keys leave the store when the journal is trimmed"),
            Self::IgnoreOwner => ("ignore-owner", "the watermark moves whoever owns the journal"),
            Self::DropSetAside => ("drop-set-aside", "what a total can't take is dropped"),
            Self::GuessCommit => ("guess-commit", "a COMMIT without an answer is taken for committed"),
            Self::TrimBeforeCommit => {
                ("trim-before-commit", "the journal is trimmed before the store has the batch")
            }
            Self::Regroup => ("regroup", "a batch takes in what is new before it is tried again"),
            Self::ReplayTooLate => ("replay-too-late", "replay begins one record too late"),
            Self::TornSnapshot => ("torn-snapshot", "totals and watermark are loaded from two snapshots"),
            Self::LoseDuplicates => ("lose-duplicates", "memory keeps what the store knew as a duplicate"),
            Self::AnswerOnHandOver => {
                ("answer-on-hand-over", "answers before the writer has seen the request")
            }
            Self::TrimKept => ("trim-kept", "applied segments go before they have been kept for their time"),
            Self::ReplayFromOwnMark => {
                ("replay-from-own-mark", "replay begins where the store once was, not where it is")
            }
            Self::BlindReader => ("blind-reader", "nobody looks whether the store has forgotten"),
            Self::SkipBegunSync => ("skip-begun-sync", "which segment was begun is written without a sync"),
            Self::PurgeEarly => ("purge-early", "ids leave the store within their window"),
            Self::PurgeAlone => ("purge-alone", "ids leave the store whatever other journals have flushed"),
            Self::FlushedPastNow => {
                ("flushed-past-now", "a journal says that it has flushed past what is pending in it")
            }
            Self::CountWrittenOff => {
                ("count-written-off", "a journal that was written off counts what ids can't tell any more")
            }
            Self::CloseTooSoon => (
                "close-too-soon",
                "a stop says that nothing is pending, whatever is, and a claim believes it",
            ),
            Self::KeepMover => ("keep-mover", "the watermark moves, and who moved it stays who first did"),
            Self::IgnoreMover => {
                ("ignore-mover", "nobody asks who moved the watermark, only who owns the journal")
            }
            Self::ForgetPurges => {
                ("forget-purges", "a claim that was forgotten is made again as if no id had left meanwhile")
            }
            Self::ForgetIdsAtStart => ("forget-ids-at-start", "a start doesn't load ids from the store"),
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|sabotage| sabotage.describe().0 == name)
    }

    pub(crate) fn skips_sync(self, file: &str) -> bool {
        match self {
            Self::SkipSync => file.ends_with(".segment"),
            Self::SkipTailSync => file == "tail.new",
            Self::SkipIdentitySync => file == "identity.json.new",
            Self::SkipBegunSync => file == "begun",
            _ => false,
        }
    }
}
