//! The single writer of incrementer.

mod front;

pub use front::{Counted, Front, Page, PageRequest, Refusal};
