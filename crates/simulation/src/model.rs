//! What should be: counts apart from the product's code.

use counter::{Entries, Fingerprint};
use fastrand::Rng;

/// One thing that a client wants counted; with an idempotency key it may be tried again.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) entries: Vec<(usize, i64)>,
    pub(crate) unit: Option<(String, Fingerprint)>,
    /// Another request has the same idempotency key.
    pub(crate) twin: bool,
    /// Where and when it was acknowledged.
    pub(crate) acked: Vec<(usize, u64)>,
    /// Those of them that told it as a repetition.
    pub(crate) replays: Vec<(usize, u64)>,
    /// Some attempt got no answer.
    pub(crate) unsure: bool,
    pub(crate) in_flight: u32,
    pub(crate) tries: Vec<Try>,
}

/// One sending of an [`Op`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Try {
    /// When a writer took it, by a clock that is never wrong; `None` where none did.
    pub(crate) taken_ms: Option<u64>,
    /// Which site's writer that was, and in which step.
    pub(crate) taken_by: Option<(usize, u64)>,
    pub(crate) acked: bool,
}

impl Op {
    /// How often it may be counted: once, and once more for each time that its window has passed
    /// since it was counted last.
    fn most_times(&self, window_ms: u64) -> i128 {
        let mut taken: Vec<u64> = self.tries.iter().filter_map(|one| one.taken_ms).collect();
        taken.sort_unstable();
        let (mut times, mut counted) = (0, None);
        for ms in taken {
            if counted.is_none_or(|counted| ms > counted + window_ms) {
                counted = Some(ms);
                times += 1;
            }
        }
        times.max(1)
    }

    /// When a writer first took it.
    pub(crate) fn first_taken_ms(&self) -> Option<u64> {
        self.tries.iter().filter_map(|one| one.taken_ms).min()
    }

    fn value(&self, key: usize) -> i128 {
        self.entries.iter().filter(|(at, _)| *at == key).map(|(_, value)| i128::from(*value)).sum()
    }
}

/// All that was sent, and what came back.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) keys: Vec<String>,
    pub(crate) ops: Vec<Op>,
    /// The highest total that was read of a key that only grows.
    pub(crate) highest: Vec<Option<i64>>,
    next_id: u32,
}

/// Of this key, only increments above 0 are sent.
pub(crate) fn only_grows(key: usize) -> bool {
    key.is_multiple_of(2)
}

/// This key is driven to the ends of its range.
pub(crate) const EDGE: usize = 1;

impl Model {
    pub(crate) fn new(keys: usize) -> Self {
        // Some names are long, so that segments fill up.
        let name = |at: usize| format!("key-{at}{}", "-".repeat(if at % 3 == 2 { 300 } else { at * 7 }));
        Self { keys: (0..keys).map(name).collect(), ops: Vec::new(), highest: vec![None; keys], next_id: 0 }
    }

    /// Makes up something new to count.
    pub(crate) fn make_op(&mut self, rng: &mut Rng, units: u32, edge: bool) -> usize {
        let many = if rng.u32(..4) == 0 { rng.usize(1..6) } else { 1 };
        let entries: Vec<(usize, i64)> = (0..many)
            .map(|_| {
                let key = rng.usize(..self.keys.len());
                let value = match key {
                    EDGE if edge => [i64::MAX, i64::MAX / 2, i64::MIN / 2, i64::MIN, -1][rng.usize(..5)],
                    key if only_grows(key) => rng.i64(1..1_000_000),
                    _ => rng.i64(-1000..1_000_000),
                };
                (key, value)
            })
            .collect();
        let mut twin = false;
        let unit = (rng.u32(..1000) < units).then(|| {
            // Only of one that was sent once: what is set aside is set aside each time.
            let once = |op: &&mut Op| op.acked.len() == 1 && !op.unsure && op.in_flight == 0 && !op.twin;
            let used = self.ops.iter_mut().rev().find(|op| op.unit.is_some() && once(op));
            let other = used.filter(|_| rng.u32(..12) == 0).and_then(|other| {
                other.twin = true;
                other.unit.clone()
            });
            twin = other.is_some();
            self.next_id += 1;
            let id = other.map_or_else(|| format!("id-{}", self.next_id), |(id, _)| id);
            (id, rng.u128(..).to_le_bytes())
        });
        self.ops.push(Op {
            entries,
            unit,
            twin,
            acked: Vec::new(),
            replays: Vec::new(),
            unsure: false,
            in_flight: 0,
            tries: Vec::new(),
        });
        self.ops.len() - 1
    }

    /// An operation as a client sends it.
    pub(crate) fn packed(&self, op: usize) -> (Entries, Option<(String, Fingerprint)>) {
        let mut entries = Entries::new();
        for (key, value) in &self.ops[op].entries {
            // The names above are all allowed.
            let pushed = entries.push(&self.keys[*key], *value);
            debug_assert!(pushed.is_ok());
        }
        (entries, self.ops[op].unit.clone())
    }

    /// What a total may be in the end: everything that is `sure` counted once, the rest that was
    /// sent or not. What was sent again after `window_ms` may have been counted again.
    pub(crate) fn bounds(&self, key: usize, window_ms: u64, sure: impl Fn(&Op) -> bool) -> (i128, i128) {
        self.range(key, sure, |op| if op.unit.is_some() { op.most_times(window_ms) } else { 1 })
    }

    /// What an instance may show meanwhile. A request that came twice under one idempotency key
    /// may be shown twice, until the store has said that it knew the key.
    pub(crate) fn bounds_meanwhile(&self, key: usize, sure: impl Fn(&Op) -> bool) -> (i128, i128) {
        self.range(key, sure, |op| if op.unit.is_some() { op.tries.len().max(1) as i128 } else { 1 })
    }

    fn range(&self, key: usize, sure: impl Fn(&Op) -> bool, times: impl Fn(&Op) -> i128) -> (i128, i128) {
        let (mut low, mut high) = (0, 0);
        for op in &self.ops {
            let value = op.value(key);
            let most = value * times(op);
            if sure(op) {
                low += value.min(most);
                high += value.max(most);
            } else if op.unsure || op.in_flight > 0 || !op.acked.is_empty() {
                low += most.min(0);
                high += most.max(0);
            }
        }
        (low, high)
    }

    /// Whether something `sure` was counted under this key.
    pub(crate) fn has_key(&self, key: usize, sure: impl Fn(&Op) -> bool) -> bool {
        self.ops.iter().any(|op| sure(op) && op.entries.iter().any(|(at, _)| *at == key))
    }
}
