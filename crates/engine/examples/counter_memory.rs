//! How much memory a counter costs beside its name, in a server that has just loaded its totals.
//!
//! ```text
//! cargo run --profile bench-fast -p engine --example counter_memory -- [counters] [bytes of a name]
//! ```
//!
//! It goes the way of a start (`Starting::load`, `Starting::replay`) with the allocator of the
//! server, and looks at what is resident before and after.

#![allow(clippy::expect_used, reason = "a measurement fails by panicking")]

use std::fmt::Write as _;
use std::time::Duration;

use counter::Seq;
use engine::{Ack, Clock, Limits, Policy, Starting, SystemClock};
use journal::{Journal, Options, RealDisk};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse().expect("a number"));
    let counters: u64 = numbers.next().unwrap_or(10_000_000);
    let name_bytes: u64 = numbers.next().unwrap_or(20);
    let width = name_bytes as usize;

    let dir = tempfile::tempdir().expect("a directory");
    let disk = RealDisk::new(dir.path()).expect("a disk");
    let journal = Journal::open(disk, Options::new(1 << 20, 8 << 20)).expect("a journal").journal;
    let limits = Limits { max_counters: counters, max_ids: 1_000_000, id_window_ms: 86_400_000 };
    let policy = Policy { ack: Ack::Durable, max_updates: 10_000, interval: Duration::from_secs(5) };
    let mut starting = Starting::new(journal, limits, policy, 1);

    let before = Resident::now();
    let mut key = String::with_capacity(width);
    for number in 0..counters {
        key.clear();
        write!(key, "{number:0width$}").expect("a name");
        starting.load(&key, number as i64).expect("within the limit");
    }
    let (writer, _) = starting.replay(Seq::ZERO, SystemClock::start().now()).expect("an empty journal");
    let after = Resident::now();

    let beside = |bytes: u64| (bytes as f64) / (counters as f64) - name_bytes as f64;
    println!(
        "{counters} counters, names of {name_bytes} bytes: {:.1} bytes each beside the name; {:.1} at the peak \
         (resident before: {} bytes, after: {} bytes)",
        beside(after.now - before.now),
        beside(after.peak - before.now),
        before.now,
        after.now
    );
    if std::env::var_os("SMAPS").is_some() {
        print!("{}", std::fs::read_to_string("/proc/self/smaps").expect("x"));
    }
    drop(writer);
}

/// What of this process is in memory, bytes.
struct Resident {
    now: u64,
    peak: u64,
}

impl Resident {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of Linux");
            let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
            kib * 1024
        };
        Self { now: field("VmRSS:"), peak: field("VmHWM:") }
    }
}
