//! What the tests of the whole server share: the binary with a directory of its own, a client,
//! and a look into the table that doesn't go through any of our code.

#![allow(dead_code, reason = "not every test file needs all of it")]
#![allow(unreachable_pub, unused_imports, reason = "every test file has this module in it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what a test can't get fails it")]

mod client;
mod database;
mod load;
mod names;
mod proxy;
mod server;
mod small_disk;

pub use client::{Answer, Client, Counter};
pub use database::{Database, Totals};
pub use load::{Ledger, Load};
pub use names::names;
pub use proxy::{Cut, Proxy};
pub use server::{Home, Server};
pub use small_disk::SmallDisk;

use std::time::{Duration, Instant};

/// How long anything may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks every few milliseconds until `look` finds something; `what` names it in the failure.
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, look).unwrap_or_else(|| panic!("waited in vain until {what}"))
}

/// Looks every few milliseconds for at most so long.
pub fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Where a test's choices come from: the seed in `INCREMENTER_TEST_SEED`, or a new one. It is
/// printed, so that a failure, which shows what was printed, can be repeated.
pub fn seed() -> u64 {
    let given = std::env::var("INCREMENTER_TEST_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a number as the seed"));
    println!("repeat with INCREMENTER_TEST_SEED={seed}");
    seed
}
