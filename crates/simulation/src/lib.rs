//! The whole of incrementer in one thread, where one seed decides everything.
//!
//! Engine, journal, start and flusher are the product's own; disk, clock, store and clients are
//! simulated. While a world lives, whatever can go wrong does; then it heals, and a model that
//! counted by itself says whether the promises held.

mod apart;
mod clock;
mod db;
mod disk;
mod fate;
mod judge;
mod log;
mod model;
mod plan;
mod process;
mod reading;
mod rot;
mod running;
mod sabotage;
mod store;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub use sabotage::Sabotage;

use crate::log::{Log, lock, note, shared};
use crate::world::World;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What decided it.
    pub seed: u64,
    /// A hash of all that happened.
    pub digest: u64,
    /// The promise that was broken, if one was.
    pub broken: Option<String>,
    /// Every event, where that was asked for.
    pub trace: Option<String>,
    /// What happened how often.
    pub counts: BTreeMap<&'static str, u64>,
}

/// Runs one world from its beginning to its end.
#[must_use]
pub fn run(seed: u64, sabotage: Option<Sabotage>, trace: bool) -> Report {
    let log = shared(Log::new(trace));
    let mut counts = BTreeMap::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, sabotage, Arc::clone(&log));
        let outcome = world.live().and_then(|()| world.heal());
        counts = std::mem::take(&mut world.counts);
        outcome
    }));
    let broken = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(broken)) => Some(broken),
        Err(cause) => {
            let text = cause.downcast_ref::<String>().cloned();
            let text = text.or_else(|| cause.downcast_ref::<&str>().map(|&text| text.to_owned()));
            Some(format!("a panic: {}", text.unwrap_or_default()))
        }
    };
    if let Some(broken) = &broken {
        note!(log, "BROKEN: {broken}");
    }
    let mut log = lock(&log);
    Report { seed, digest: log.digest(), broken, trace: log.take_trace(), counts }
}
