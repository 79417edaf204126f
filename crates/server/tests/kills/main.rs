//! Real kills: the real binary, a real PostgreSQL, and everything between them, killed, frozen, cut
//! and filled up under load, again and again. Clients write down what they sent and what was
//! acknowledged; in the end of each cycle the tables and memory are what they wrote down.
//!
//! One seed decides the plan: which faults, in which order, after how many requests. What happens
//! in between is the machine's. `INCREMENTER_KILLS_CYCLES` chooses how many cycles there are (10),
//! `INCREMENTER_TEST_SEED` the seed. `scripts/kills` runs any number.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what a test can't get fails it")]

#[path = "../support/mod.rs"]
mod support;

mod account;
mod clients;
mod faults;
mod world;

use support::seed;
use world::World;

/// Prints where a run was when it failed.
struct Witness(World);

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("FAILED {}", self.0.so_far());
        }
    }
}

#[test]
fn what_was_acknowledged_is_counted_once_whatever_is_killed() {
    let cycles = std::env::var("INCREMENTER_KILLS_CYCLES").ok();
    let cycles: u64 = cycles.map_or(10, |cycles| cycles.parse().expect("a number of cycles"));
    let mut witness = Witness(World::new(seed()));
    for _ in 0..cycles {
        println!("{}", witness.0.cycle());
    }
    println!("{}", witness.0.end());
}
