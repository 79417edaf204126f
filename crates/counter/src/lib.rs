//! The values of incrementer and their rules, without any I/O.
//!
//! One word for each thing: a [`Key`] names a counter; an increment adds a value (a signed
//! 64-bit integer) to a key; its total is the sum so far. [`Entries`] is the packed form in
//! which increments travel from a front door to the journal; a [`Batch`] is what is pending up
//! to one [`Seq`], summed by key, on its way into the store.

mod batch;
mod entries;
mod ids;
mod key;
mod varint;

pub use batch::{Applied, Batch, OpenBatch, Row, SetAside, Unit};
pub use entries::{Damaged, Decoder, Entries, Entry, Fingerprint, UnitHeader};
pub use ids::{IdError, JournalId, OwnerId, Seq, StoreId};
pub use key::{Key, KeyError, MAX_KEY_BYTES};
