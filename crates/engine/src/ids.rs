//! The idempotency keys that memory can answer for.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use counter::Fingerprint;

/// What memory knows of an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It never came, or was forgotten.
    No,
    /// It came with the same body, and was answered with this total; `None` where only the store
    /// was told of it.
    Same { total: Option<i64> },
    /// It came with another body.
    Other,
}

#[derive(Debug)]
struct Remembered {
    fingerprint: Fingerprint,
    total: Option<i64>,
    accepted_ms: u64,
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

    /// Takes an id over from the store. They come newest first, before any is remembered.
    pub(crate) fn load(&mut self, id: &str, fingerprint: Fingerprint, accepted_ms: u64) {
        if self.order.len() >= self.max {
            return;
        }
        let id: Arc<str> = id.into();
        self.known.insert(Arc::clone(&id), Remembered { fingerprint, total: None, accepted_ms });
        self.order.push_front((id, accepted_ms));
    }

    pub(crate) fn remember(&mut self, id: &str, fingerprint: Fingerprint, total: i64, accepted_ms: u64) {
        let id: Arc<str> = id.into();
        let total = Some(total);
        self.known.insert(Arc::clone(&id), Remembered { fingerprint, total, accepted_ms });
        self.order.push_back((id, accepted_ms));
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

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    fn forget_oldest(&mut self) {
        let Some((id, accepted_ms)) = self.order.pop_front() else { return };
        // One that came again after its window is a younger one by now.
        if self.known.get(&id).is_some_and(|known| known.accepted_ms == accepted_ms) {
            self.known.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Fingerprint = [1; 16];
    const TWO: Fingerprint = [2; 16];

    #[test]
    fn the_oldest_are_forgotten_whether_they_were_loaded_or_remembered() {
        let mut ids = Ids::new(3);
        for (id, accepted_ms) in [("c", 3), ("b", 2), ("a", 1), ("too many", 0)] {
            ids.load(id, ONE, accepted_ms);
        }
        assert_eq!(ids.len(), 3);
        assert_eq!(ids.look_up("a", &ONE), Known::Same { total: None });
        assert_eq!(ids.look_up("too many", &ONE), Known::No);
        ids.remember("d", ONE, 9, 4);
        assert_eq!(ids.look_up("a", &ONE), Known::No);
        assert_eq!(ids.look_up("b", &TWO), Known::Other);
        assert_eq!(ids.look_up("d", &ONE), Known::Same { total: Some(9) });
        ids.forget(4);
        assert_eq!((ids.len(), ids.look_up("c", &ONE)), (1, Known::No));
    }

    #[test]
    fn one_that_came_again_after_its_window_is_as_young_as_that() {
        let mut ids = Ids::new(9);
        ids.remember("a", ONE, 1, 10);
        ids.remember("a", TWO, 2, 20);
        ids.forget(15);
        assert_eq!(ids.look_up("a", &TWO), Known::Same { total: Some(2) });
        ids.forget(21);
        assert_eq!((ids.len(), ids.look_up("a", &TWO)), (0, Known::No));
    }

    #[test]
    fn with_room_for_none_none_is_kept() {
        let mut ids = Ids::new(0);
        ids.load("a", ONE, 1);
        ids.remember("b", ONE, 1, 1);
        assert_eq!((ids.len(), ids.look_up("b", &ONE)), (0, Known::No));
    }
}
