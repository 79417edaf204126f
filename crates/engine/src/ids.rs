//! The idempotency keys that memory can answer for.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use counter::Fingerprint;

/// What memory knows of an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It never came, or was forgotten.
    No,
    /// It came with the same body, and was answered with this total.
    Same { total: i64 },
    /// It came with another body.
    Other,
}

#[derive(Debug)]
struct Remembered {
    fingerprint: Fingerprint,
    total: i64,
}

/// Bounded: the oldest is forgotten when there are too many.
#[derive(Debug)]
pub(crate) struct Ids {
    max: usize,
    known: HashMap<Arc<str>, Remembered>,
    /// Oldest first, with when they were accepted.
    order: VecDeque<(Arc<str>, u64)>,
}

impl Ids {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, known: HashMap::new(), order: VecDeque::new() }
    }

    pub(crate) fn look_up(&self, id: &str, fingerprint: &Fingerprint) -> Known {
        match self.known.get(id) {
            None => Known::No,
            Some(known) if known.fingerprint == *fingerprint => Known::Same { total: known.total },
            Some(_) => Known::Other,
        }
    }

    pub(crate) fn remember(&mut self, id: &str, fingerprint: Fingerprint, total: i64, accepted_ms: u64) {
        let id: Arc<str> = id.into();
        if self.known.insert(Arc::clone(&id), Remembered { fingerprint, total }).is_none() {
            self.order.push_back((id, accepted_ms));
        }
        while self.order.len() > self.max {
            self.forget_oldest();
        }
    }

    /// Forgets what was accepted before `before_ms`.
    pub(crate) fn forget(&mut self, before_ms: u64) {
        while self.order.front().is_some_and(|(_, accepted_ms)| *accepted_ms < before_ms) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((id, _)) = self.order.pop_front() {
            self.known.remove(&id);
        }
    }
}
