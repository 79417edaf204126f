//! How long a call may take.

use std::time::Duration;

/// Time-outs of this side. The server has its own for locks and idle transactions, which pass
/// first where it is alive; these are for one that is frozen or cut off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For name resolution, TCP, TLS, authentication and the session's settings together.
    pub(crate) connect: Duration,
    /// For one round trip, or for the next piece of a long answer.
    pub(crate) step: Duration,
    /// What each row of a batch adds to a step.
    pub(crate) per_row: Duration,
}

impl Limits {
    /// A flush can take a while on a loaded server, and nobody waits for it.
    pub(crate) fn for_writing() -> Self {
        Self {
            connect: Duration::from_secs(5),
            step: Duration::from_secs(30),
            per_row: Duration::from_millis(1),
        }
    }

    /// Somebody waits for the answer: connecting and asking take at most 5 s together.
    pub(crate) fn for_reading() -> Self {
        Self { connect: Duration::from_secs(2), step: Duration::from_secs(3), per_row: Duration::ZERO }
    }

    /// For a step that writes `rows` rows.
    pub(crate) fn step_for(&self, rows: usize) -> Duration {
        self.step.saturating_add(self.per_row.saturating_mul(u32::try_from(rows).unwrap_or(u32::MAX)))
    }
}
