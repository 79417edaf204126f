//! Any run of requests, flushes, refreshes and flushes of others, against a model that counts by
//! itself.

use std::collections::BTreeMap;

use counter::{Applied, Batch, Decoder, Entries, Entry, Seq};
use proptest::prelude::*;

use crate::batches::UnitSums;
use crate::front::Refusal;
use crate::machine::{Limits, Machine};

const MAX_COUNTERS: u64 = 6;

#[derive(Clone, Debug)]
enum Step {
    /// A request; with an id it is a unit.
    Request(Vec<(String, i64)>, Option<u8>),
    HandOver,
    /// The store applies what is in flight; the writer settles it in slices of so many rows.
    Settle(usize),
    /// Another instance flushes.
    Foreign(String, i64),
    Refresh(String),
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof!["[a-d]", "[a-h]"]
}

fn value() -> impl Strategy<Value = i64> {
    prop_oneof![4 => -5..5_i64, 1 => Just(i64::MAX), 1 => Just(i64::MIN), 1 => any::<i64>()]
}

fn step() -> impl Strategy<Value = Step> {
    let entries = proptest::collection::vec((key(), value()), 1..5);
    prop_oneof![
        8 => (entries, proptest::option::weighted(0.3, 0..5_u8)).prop_map(|(e, id)| Step::Request(e, id)),
        3 => Just(Step::HandOver),
        3 => (1..4_usize).prop_map(Step::Settle),
        1 => (key(), -3..3_i64).prop_map(|(key, value)| Step::Foreign(key, value)),
        2 => key().prop_map(Step::Refresh),
    ]
}

/// A store that counts in 128 bits, and knows which ids it has seen.
#[derive(Default)]
struct Store {
    totals: BTreeMap<String, i64>,
    set_aside: BTreeMap<String, i128>,
    watermark: Seq,
}

impl Store {
    fn apply(&mut self, batch: &Batch) -> Applied {
        assert_eq!(batch.from(), self.watermark);
        self.watermark = batch.upto();
        let mut applied = Applied::default();
        for (at, row) in batch.rows().iter().enumerate() {
            let units = batch.units().iter().flat_map(|unit| &unit.increments);
            let units: i128 = units.filter(|(of, _)| *of as usize == at).map(|(_, v)| i128::from(*v)).sum();
            let key = batch.key(row).to_owned();
            let sum = i128::from(self.totals.get(&key).copied().unwrap_or(0)) + row.sum + units;
            match i64::try_from(sum) {
                Ok(total) => drop(self.totals.insert(key.clone(), total)),
                Err(_) => *self.set_aside.entry(key.clone()).or_default() += row.sum + units,
            }
            applied.totals.push(self.totals.get(&key).copied());
        }
        applied
    }
}

/// What the machine should say, without other instances.
#[derive(Default)]
struct Model {
    totals: BTreeMap<String, i64>,
    ids: BTreeMap<u8, Vec<(String, i64)>>,
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Counted(i64),
    Replayed,
    Refused,
}

impl Model {
    fn request(&mut self, entries: &[(String, i64)], id: Option<u8>) -> Verdict {
        if let Some(before) = id.and_then(|id| self.ids.get(&id)) {
            return if before == entries { Verdict::Replayed } else { Verdict::Refused };
        }
        let mut totals = self.totals.clone();
        let mut last = 0;
        for (key, value) in entries {
            if !totals.contains_key(key) && totals.len() as u64 >= MAX_COUNTERS {
                return Verdict::Refused;
            }
            let total = totals.entry(key.clone()).or_insert(0);
            let Some(sum) = total.checked_add(*value) else { return Verdict::Refused };
            *total = sum;
            last = sum;
        }
        self.totals = totals;
        self.ids.extend(id.map(|id| (id, entries.to_vec())));
        Verdict::Counted(last)
    }
}

fn packed(entries: &[(String, i64)], id: Option<u8>) -> Vec<u8> {
    let mut packed = Entries::new();
    for (key, value) in entries {
        packed.push(key, *value).unwrap();
    }
    let Some(id) = id else { return packed.bytes().to_vec() };
    let mut fingerprint = [0; 16];
    for (at, byte) in format!("{entries:?}").bytes().enumerate() {
        fingerprint[at % 16] ^= byte.rotate_left(at as u32 / 16);
    }
    packed.to_unit(&id.to_string(), &fingerprint)
}

fn machine() -> Machine {
    Machine::new(Limits { max_counters: MAX_COUNTERS, max_ids: 100, id_window_ms: u64::MAX }, 1)
}

/// Runs the steps; at the end everything is flushed.
fn run(steps: &[Step], foreign: bool) -> (Machine, Store, BTreeMap<String, i128>) {
    let (mut machine, mut store, mut model) = (machine(), Store::default(), Model::default());
    let mut counted: BTreeMap<String, i128> = BTreeMap::new();
    let mut seq = Seq::ZERO;
    let flush = |machine: &mut Machine, store: &mut Store, slice: usize| {
        let Some(batch) = machine.batches.in_flight().cloned() else { return };
        let applied = store.apply(&batch);
        let units = UnitSums::of_batch(&batch);
        for start in (0..batch.rows().len()).step_by(slice) {
            machine.settle(&applied, &units, start..(start + slice).min(batch.rows().len()), 1);
            // Between two slices no answer of the store can be put together with what is pending.
            let (key, total) =
                store.totals.iter().next().map_or(("a", None), |(k, t)| (k.as_str(), Some(*t)));
            if machine.read(key).is_some() {
                assert_eq!(machine.refresh(key, total, store.watermark, 1), None);
            }
        }
        machine.settled();
    };
    for step in steps {
        match step {
            Step::Request(entries, id) => {
                let before: Vec<_> = ('a'..='h').map(|key| machine.read(&key.to_string())).collect();
                let outcome = machine.admit(&packed(entries, *id), 1000);
                let new = matches!(&outcome, Ok(counted) if !counted.replayed);
                if new {
                    seq = seq.next();
                    machine.batches.committed(1000);
                    for (key, value) in entries {
                        *counted.entry(key.clone()).or_default() += i128::from(*value);
                    }
                } else {
                    let after: Vec<_> = ('a'..='h').map(|key| machine.read(&key.to_string())).collect();
                    assert_eq!(before, after, "a request that was not counted changed something");
                }
                if !foreign {
                    let verdict = match outcome {
                        Ok(counted) if counted.replayed => Verdict::Replayed,
                        Ok(counted) => Verdict::Counted(counted.total),
                        Err(_) => Verdict::Refused,
                    };
                    assert_eq!(verdict, model.request(entries, *id));
                }
            }
            Step::HandOver if machine.batches.in_flight().is_none() => {
                machine.batches.seal(seq);
                machine.batches.hand_over();
            }
            Step::Settle(slice) => flush(&mut machine, &mut store, *slice),
            Step::Foreign(key, value) if foreign => {
                let total = store.totals.entry(key.clone()).or_insert(0);
                if let Some(sum) = total.checked_add(*value) {
                    *total = sum;
                    *counted.entry(key.clone()).or_default() += i128::from(*value);
                }
            }
            Step::Refresh(key) => {
                let stored = store.totals.get(key).copied();
                let answer = machine.refresh(key, stored, store.watermark, 1);
                if !foreign {
                    assert_eq!(answer, Some(model.totals.get(key).copied()));
                }
            }
            Step::HandOver | Step::Foreign(..) => {}
        }
        if !foreign {
            for (key, total) in &model.totals {
                assert_eq!(machine.read(key).map(|read| read.0), Some(*total), "{key}");
            }
        }
    }
    for _ in 0..2 {
        flush(&mut machine, &mut store, 3);
        machine.batches.seal(seq);
        machine.batches.hand_over();
    }
    flush(&mut machine, &mut store, 3);
    (machine, store, counted)
}

proptest! {
    #[test]
    fn alone_it_says_what_the_model_says(steps in proptest::collection::vec(step(), 1..60)) {
        let (machine, store, counted) = run(&steps, false);
        prop_assert_eq!(machine.batches.oldest_ms(), None);
        let stored: BTreeMap<_, _> = store.totals.iter().map(|(k, v)| (k.clone(), i128::from(*v))).collect();
        prop_assert_eq!(stored, counted);
        prop_assert!(store.set_aside.is_empty());
    }

    #[test]
    fn beside_others_nothing_is_lost_or_counted_twice(steps in proptest::collection::vec(step(), 1..60)) {
        let (mut machine, store, counted) = run(&steps, true);
        for (key, sum) in counted {
            let stored = store.totals.get(&key).map_or(0, |total| i128::from(*total));
            let aside = store.set_aside.get(&key).copied().unwrap_or(0);
            prop_assert_eq!(stored + aside, sum, "{}", key);
            let total = store.totals.get(&key).copied();
            prop_assert_eq!(machine.refresh(&key, total, store.watermark, 1), Some(total));
            // Memory may be full, and then it asks the store each time.
            prop_assert!(machine.read(&key).is_none_or(|read| Some(read.0) == total), "{}", key);
        }
    }
}

#[test]
fn a_refused_entry_is_named_and_takes_its_request_back() {
    let mut machine = machine();
    machine.admit(&packed(&[("a".into(), i64::MAX)], None), 1).unwrap();
    let request = [("new".to_owned(), 1), ("a".into(), -1), ("a".into(), 1), ("a".into(), 1)];
    let refusal = machine.admit(&packed(&request, None), 1).unwrap_err();
    let total = i64::MAX;
    assert_eq!(refusal, Refusal::Overflow { entry: 3, key: "a".to_owned(), total, value: 1 });
    assert_eq!((machine.read("new"), machine.counters()), (None, 1));
}

#[test]
fn a_batch_may_lead_from_one_end_of_the_range_to_the_other() {
    let mut machine = machine();
    machine.load("a", i64::MIN).unwrap();
    machine.loaded(Seq::ZERO);
    for value in [i64::MAX, i64::MAX, 1] {
        machine.admit(&packed(&[("a".into(), value)], None), 1).unwrap();
    }
    machine.batches.committed(1);
    machine.batches.seal(Seq(1));
    let batch = machine.batches.hand_over().unwrap();
    assert_eq!(batch.rows()[0].sum, i128::from(u64::MAX));
    assert_eq!(machine.read("a").map(|read| read.0), Some(i64::MAX));
}

#[test]
fn a_key_that_is_new_after_others_have_flushed_is_only_known_in_part() {
    let mut machine = machine();
    let request = |key: &str| packed(&[(key.to_owned(), 1)], None);
    assert!(!machine.admit(&request("a"), 1).unwrap().partial, "nobody else has flushed");
    machine.set_epoch(2);
    assert!(machine.admit(&request("b"), 1).unwrap().partial);
    assert_eq!(machine.refresh("b", Some(100), Seq::ZERO, 2), Some(Some(101)));
    let counted = machine.admit(&request("b"), 1).unwrap();
    assert_eq!((counted.total, counted.partial), (102, false));
}

/// Everything that is pending is on its way to the store.
fn hand_all_over(machine: &mut Machine, seq: u64) {
    machine.batches.committed(1);
    machine.batches.seal(Seq(seq));
    machine.batches.hand_over();
}

/// The store has set aside all of the batch in flight.
fn settle_as_set_aside(machine: &mut Machine) {
    let batch = machine.batches.in_flight().cloned().unwrap();
    let applied = Applied { totals: vec![None; batch.rows().len()], ..Applied::default() };
    machine.settle(&applied, &UnitSums::of_batch(&batch), 0..batch.rows().len(), 1);
    machine.settled();
}

/// A refused key was shown as 0 until the next start, and was no counter after it.
#[test]
fn a_key_of_which_everything_was_set_aside_is_no_counter() {
    let mut machine = machine();
    machine.admit(&packed(&[("bad".into(), 5), ("zero".into(), 0)], None), 1).unwrap();
    hand_all_over(&mut machine, 1);
    assert_eq!(machine.read("zero").map(|read| read.0), Some(0), "it is pending");
    settle_as_set_aside(&mut machine);
    assert_eq!((machine.read("bad"), machine.read("zero")), (None, None));
    assert_eq!(machine.refresh("bad", None, Seq(1), 1), Some(None));

    // A request that is refused doesn't bring it back; one that is counted does.
    let refused = [("bad".to_owned(), 1), ("bad".to_owned(), i64::MAX)];
    machine.admit(&packed(&refused, None), 1).unwrap_err();
    assert_eq!(machine.read("bad"), None);
    assert_eq!(machine.admit(&packed(&[("bad".into(), 0)], None), 1).unwrap().total, 0);
    assert_eq!(machine.read("bad").map(|read| read.0), Some(0));

    // What the store has all the same is a counter.
    assert_eq!(machine.refresh("zero", Some(7), Seq(1), 1), Some(Some(7)));
    assert_eq!(machine.read("zero").map(|read| read.0), Some(7));
}

/// What is pending beside the part that was set aside keeps a key alive, be it 0.
#[test]
fn a_key_with_something_pending_is_a_counter_though_the_store_refused_a_part() {
    let mut machine = machine();
    let request = |value| packed(&[("bad".into(), value)], None);
    machine.admit(&request(5), 1).unwrap();
    hand_all_over(&mut machine, 1);
    machine.admit(&request(0), 1).unwrap();
    machine.batches.committed(1);
    machine.batches.seal(Seq(2));
    // A refused request in the batch after it must not make memory forget that.
    let refused = [("bad".to_owned(), 1), ("bad".to_owned(), i64::MAX)];
    machine.admit(&packed(&refused, None), 1).unwrap_err();
    settle_as_set_aside(&mut machine);
    assert_eq!(machine.read("bad").map(|read| read.0), Some(0));
    assert_eq!(machine.refresh("bad", None, Seq(1), 1), Some(Some(0)));
    machine.batches.hand_over();
    assert_eq!(machine.refresh("bad", None, Seq(1), 1), Some(Some(0)), "not committed");
    assert_eq!(machine.refresh("bad", None, Seq(2), 1), Some(None), "committed, and refused");
    settle_as_set_aside(&mut machine);
    assert_eq!(machine.read("bad"), None);
}

#[test]
fn a_row_that_no_increment_can_have_written_stays_in_the_store() {
    let mut machine = machine();
    let longest = "x".repeat(counter::MAX_KEY_BYTES);
    for key in ["", &longest, &format!("{longest}x"), "a\0b", "b"] {
        machine.load(key, 7).unwrap();
        machine.loaded(Seq::ZERO);
        assert_eq!(machine.refresh(key, Some(7), Seq::ZERO, 1), Some(Some(7)), "{key:?}");
    }
    assert_eq!(machine.counters(), 2);
    assert_eq!(machine.read(&longest), Some((7, 1)));
    assert_eq!(machine.read("b"), Some((7, 1)));
}

#[test]
fn a_row_of_an_earlier_batch_is_not_taken_for_one_of_the_open_batch() {
    let mut machine = machine();
    let count = |machine: &mut Machine, keys: &[&str]| {
        let entries: Vec<_> = keys.iter().map(|key| ((*key).to_owned(), 1)).collect();
        machine.admit(&packed(&entries, None), 1).unwrap();
    };
    count(&mut machine, &["a", "b", "c"]);
    machine.batches.seal(Seq(1));
    // Row 0 is now of "b"; "a", which had it, gets a row of its own, and "c" is past the end.
    count(&mut machine, &["b", "a", "c", "a"]);
    machine.batches.seal(Seq(2));
    machine.batches.hand_over();
    machine.batches.confirmed();
    let batch = machine.batches.hand_over().unwrap();
    let rows: Vec<_> = batch.rows().iter().map(|row| (batch.key(row), row.sum)).collect();
    assert_eq!(rows, [("b", 1), ("a", 2), ("c", 1)]);
}

#[test]
fn an_id_that_was_loaded_is_answered_with_the_present_total() {
    let mut machine = machine();
    machine.load("a", 7).unwrap();
    let request = packed(&[("a".to_owned(), 3)], Some(1));
    let Some(Ok(Entry::Unit(header))) = Decoder::new(&request).next() else { panic!("no unit") };
    machine.load_id(header.id, header.fingerprint, 1);
    machine.loaded(Seq(5));
    machine.admit(&packed(&[("a".to_owned(), 10)], None), 1).unwrap();
    let counted = machine.admit(&request, 2).unwrap();
    assert_eq!((counted.total, counted.replayed, counted.partial), (17, true, false));
    let other = machine.admit(&packed(&[("a".to_owned(), 4)], Some(1)), 2);
    assert_eq!(other, Err(Refusal::IdempotencyMismatch));
    // Another journal's id may be of a key that memory doesn't hold yet: the store is asked.
    let request = packed(&[("elsewhere".to_owned(), 3)], Some(2));
    let Some(Ok(Entry::Unit(header))) = Decoder::new(&request).next() else { panic!("no unit") };
    machine.load_id(header.id, header.fingerprint, 1);
    let counted = machine.admit(&request, 2).unwrap();
    assert_eq!((counted.total, counted.replayed, counted.partial), (0, true, true));
    assert_eq!((machine.ids(), machine.batches.updates()), (2, 1));
}

/// The store has counted the first request under an id; a journal holds another one.
#[test]
fn the_request_that_the_store_knows_is_the_one_that_is_told() {
    let mut machine = machine();
    let (first, second) = (packed(&[("a".to_owned(), 3)], Some(1)), packed(&[("a".to_owned(), 4)], Some(1)));
    let Some(Ok(Entry::Unit(header))) = Decoder::new(&first).next() else { panic!("no unit") };
    machine.load_id(header.id, header.fingerprint, 1);
    machine.loaded(Seq(0));
    machine.replay(Seq(1), 2, &second);
    assert!(machine.admit(&first, 3).unwrap().replayed);
    assert_eq!(machine.admit(&second, 3), Err(Refusal::IdempotencyMismatch));
}

#[test]
fn what_is_flushed_is_told_by_the_lowest_time_of_what_is_pending() {
    let mut machine = machine();
    let admit = |machine: &mut Machine, now_ms| {
        machine.admit(&packed(&[("a".to_owned(), 1)], None), now_ms).unwrap();
        machine.batches.committed(now_ms);
    };
    assert_eq!(machine.batches.flushed_past_ms(10), 10);
    admit(&mut machine, 20);
    // The calendar is set back.
    admit(&mut machine, 15);
    admit(&mut machine, 30);
    assert_eq!(machine.batches.flushed_past_ms(40), 15);
    machine.batches.seal(Seq(3));
    admit(&mut machine, 50);
    assert!(machine.batches.hand_over().is_some());
    assert_eq!(machine.batches.flushed_past_ms(60), 15);
    machine.settled();
    assert_eq!(machine.batches.flushed_past_ms(60), 50);
    assert_eq!(machine.batches.flushed_past_ms(45), 45);
}
