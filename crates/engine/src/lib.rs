//! The single writer of incrementer: totals, pending batch and journal have one owner.
//!
//! A front door's threads hand requests over in [lanes](Engine::front); the writer takes all that
//! waits, appends one record to the journal, syncs it, and answers. Beside it, the flusher brings
//! batches into the store and reports through [`Controls`]. Nothing but the writer touches totals
//! or batches, so there are no locks on them, a batch is exactly "every record up to seq m", and
//! the same input gives the same state.

mod batches;
mod bell;
mod clock;
mod control;
mod counters;
mod engine;
mod freshness;
mod front;
mod ids;
mod lane;
mod linger;
mod machine;
#[cfg(test)]
mod machine_tests;
mod start;
mod vitals;
mod writer;

pub use batches::SEAL_AT_KEYS;
pub use clock::{Clock, Now, SystemClock};
pub use control::{Control, Controls, WriterGone};
pub use engine::{Engine, EngineFront, Lookup};
pub use freshness::Freshness;
pub use front::{Counted, Front, Page, PageRequest, Refusal};
pub use journal::{Disk, Fatal, OpenError, Seen};
pub use machine::Limits;
pub use start::Starting;
pub use vitals::{Phase, Vitals};
pub use writer::{Ack, Policy, Scratch, Turn, Writer};
