//! Between engine and store.
//!
//! [`bring_up`] makes a writer out of a journal and a store; the [`Flusher`] applies one batch at
//! a time, for as long as it takes; the [`Reader`] asks the store for what memory doesn't hold.

mod backoff;
mod bring_up;
mod flusher;
mod own;
mod reader;
mod upkeep;

pub use backoff::{Backoff, Stop, Stopper, Wait, stopper};
pub use bring_up::{StartError, Started, bring_up};
pub use flusher::{FlushError, FlushVitals, Flusher};
pub use own::Own;
pub use reader::{Reader, ReaderQueue};
