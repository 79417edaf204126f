//! PostgreSQL.
//!
//! A [`link::Link`] keeps one session and bounds every call; `apply` is the one statement that
//! most flushes are; `transaction` is the general case, and takes [its time](spread) where it has some; `set_aside` finds refused rows, and `probe`
//! tells them from a table that takes none.

mod apply;
mod faults;
mod ids;
mod limits;
mod link;
mod load;
mod prepare;
mod probe;
mod reader;
mod session;
mod set_aside;
mod spread;
mod tls;
mod transaction;
mod writer;

pub(crate) use limits::Limits;
pub(crate) use reader::PostgresReader;
pub(crate) use writer::PostgresStore;
