//! What the front door shows about the server behind it.

/// Asked by `/readyz` and `/metrics`, on a worker's thread: an answer must not block.
pub trait Telemetry: Send + Sync + 'static {
    /// Whether the server can take increments.
    fn readiness(&self) -> Readiness;

    /// Appends the metrics in Prometheus' text format 0.0.4.
    fn metrics(&self, out: &mut String);
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can (200).
    Ready {
        /// What doesn't work as it should, a sentence each: store away, lag over 10 s.
        degraded: Vec<String>,
    },
    /// It can't (503).
    NotReady {
        /// Why, in a sentence.
        reason: String,
    },
}
