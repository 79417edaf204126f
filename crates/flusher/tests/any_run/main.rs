//! Any run of requests, flushes and crashes gives the model's totals: engine, journal and flusher
//! on real files, with SQLite as the store, two instances on it. What the simulation does with a
//! disk and a store of its own, without power failures, and in few steps, so that a failure
//! shrinks to the shortest run that shows it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod instance;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use counter::JournalId;
use engine::Now;
use instance::{Fault, Instance};
use proptest::prelude::*;
use store::StoreUrl;
use tempfile::TempDir;

const INSTANCES: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    Request(Vec<(u8, i64)>),
    /// An earlier request again, at any instance, under its idempotency key.
    Repeat(usize),
    Turn,
    /// Time passes: a batch becomes due by its age.
    Wait,
    Flush(Fault),
    Drain,
    /// The process dies where it stands, and starts again.
    Crash,
    /// It flushes what it can, ends well, and starts again.
    Stop,
}

fn step() -> impl Strategy<Value = Step> {
    let entries = proptest::collection::vec((0..6_u8, -9..10_i64), 1..4);
    let fault = prop_oneof![3 => Just(Fault::None), 1 => Just(Fault::Before), 1 => Just(Fault::After)];
    prop_oneof![
        10 => entries.prop_map(Step::Request),
        3 => any::<usize>().prop_map(Step::Repeat),
        8 => Just(Step::Turn),
        1 => Just(Step::Wait),
        5 => fault.prop_map(Step::Flush),
        1 => Just(Step::Drain),
        2 => Just(Step::Crash),
        1 => Just(Step::Stop),
    ]
}

/// What a client has sent, and what it knows of it.
#[derive(Debug)]
struct Request {
    /// The last one is a key of its own, at 1: it shows in the table whether the request counted.
    entries: Vec<(String, i64)>,
    has_id: bool,
    acknowledged: bool,
    /// It may count although nobody said so.
    unanswered: bool,
}

struct World {
    directory: TempDir,
    instances: Vec<Option<Instance>>,
    requests: Vec<Request>,
    max_updates: usize,
    now: Now,
}

impl World {
    fn new(max_updates: usize) -> Self {
        let mut world = Self {
            directory: tempfile::tempdir().unwrap(),
            instances: (0..INSTANCES).map(|_| None).collect(),
            requests: Vec::new(),
            max_updates,
            now: Now { elapsed: Duration::ZERO, unix_ms: 1_700_000_000_000 },
        };
        (0..INSTANCES).for_each(|at| world.start(at));
        world
    }

    fn url(&self) -> StoreUrl {
        StoreUrl::sqlite(self.directory.path().join("totals.db"))
    }

    fn journal(&self, at: usize) -> PathBuf {
        self.directory.path().join(format!("journal-{at}"))
    }

    fn start(&mut self, at: usize) {
        let (journal, url) = (self.journal(at), self.url());
        self.instances[at] = Some(Instance::start(&journal, &url, self.max_updates, self.now));
    }

    fn running(&mut self, at: usize) -> &mut Instance {
        self.instances[at].as_mut().unwrap()
    }

    fn step(&mut self, at: usize, step: &Step) {
        let now = self.now;
        match step {
            Step::Request(entries) => {
                let number = self.requests.len();
                let mut entries: Vec<_> =
                    entries.iter().map(|(key, value)| (format!("key-{key}"), *value)).collect();
                entries.push((format!("request-{number}"), 1));
                let has_id = number.is_multiple_of(3);
                self.requests.push(Request { entries, has_id, acknowledged: false, unanswered: false });
                self.send(at, number);
            }
            Step::Repeat(which) => {
                let known: Vec<usize> =
                    (0..self.requests.len()).filter(|number| self.requests[*number].has_id).collect();
                if !known.is_empty() {
                    self.send(at, known[which % known.len()]);
                }
            }
            Step::Turn => {
                let answers = self.running(at).turn(now);
                self.note(answers);
            }
            Step::Wait => {
                self.now.elapsed += Duration::from_secs(6);
                self.now.unix_ms += 6000;
            }
            Step::Flush(fault) => self.running(at).flush(*fault),
            Step::Drain => {
                let answers = self.running(at).drain(now);
                self.note(answers);
            }
            Step::Crash => {
                for number in self.running(at).in_flight() {
                    self.requests[number].unanswered = true;
                }
                self.instances[at] = None;
                self.start(at);
            }
            Step::Stop => {
                let answers = self.running(at).drain(now);
                self.note(answers);
                self.instances[at].take().unwrap().finish(now);
                self.start(at);
            }
        }
    }

    fn send(&mut self, at: usize, number: usize) {
        let Request { entries, has_id, .. } = &self.requests[number];
        let id = has_id.then(|| format!("id-{number}"));
        self.instances[at].as_mut().unwrap().send(number, entries, id.as_deref());
    }

    fn note(&mut self, answers: Vec<(usize, Result<engine::Counted, engine::Refusal>)>) {
        for (number, answer) in answers {
            answer.unwrap_or_else(|refusal| panic!("request {number} was refused: {refusal}"));
            self.requests[number].acknowledged = true;
        }
    }

    /// Everything is flushed, and the table is what it should be; so is what a start makes of it.
    fn end(mut self) {
        for at in 0..INSTANCES {
            let now = self.now;
            let answers = self.running(at).drain(now);
            self.note(answers);
            self.instances[at] = None;
        }
        let found = self.table();
        let counted: BTreeSet<usize> = (0..self.requests.len())
            .filter(|number| found.contains_key(&format!("request-{number}")))
            .collect();
        let mut expected: BTreeMap<String, i64> = BTreeMap::new();
        for (number, request) in self.requests.iter().enumerate() {
            let counts = counted.contains(&number);
            assert!(counts || !request.acknowledged, "request {number} was acknowledged and is lost");
            assert!(!counts || request.acknowledged || request.unanswered, "request {number} from nowhere");
            for (key, value) in request.entries.iter().filter(|_| counts) {
                *expected.entry(key.clone()).or_default() += value;
            }
        }
        assert_eq!(found, expected);
        for at in 0..INSTANCES {
            self.start(at);
            for (key, total) in &expected {
                let now = self.now;
                assert_eq!(self.running(at).total(key, now), Some(*total), "{key} after a start");
            }
        }
    }

    fn table(&self) -> BTreeMap<String, i64> {
        let mut table = BTreeMap::new();
        let mut store = store::open(&self.url()).unwrap();
        let mut keep = |key: &str, total| {
            table.insert(key.to_owned(), total);
            Ok(())
        };
        store.load(JournalId([0; 16]), &mut keep).unwrap();
        table
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(40)
    ) })]

    #[test]
    fn any_run_gives_the_models_totals(
        steps in proptest::collection::vec((0..INSTANCES, step()), 1..50),
        max_updates in 2..9_usize,
    ) {
        let mut world = World::new(max_updates);
        for (at, step) in &steps {
            world.step(*at, step);
        }
        world.end();
    }
}
