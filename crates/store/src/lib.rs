//! The SQL database that holds the totals.
//!
//! Two seams: a [`Store`] is the one connection over which the flusher writes; a [`StoreReader`]
//! is a second one for what memory doesn't hold. Both block, connect when first used, and
//! connect again by themselves on the call after one that ended in [`StoreError::Unavailable`].

mod seam;

pub use seam::{
    ApplyError, Claim, ClaimError, LoadError, PageQuery, Snapshot, Standing, Store, StoreError, StoreReader,
};
