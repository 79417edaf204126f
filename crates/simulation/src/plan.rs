//! Which faults a run has. Each is in some runs and not in others, so that every mixture comes up.

use std::time::Duration;

use fastrand::Rng;

use crate::disk::DiskFaults;
use crate::running::{self, Settings};
use crate::store::StoreFaults;

const SMALL_SEGMENT: u64 = 6 << 10;

/// What the seed chose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) sites: usize,
    pub(crate) keys: usize,
    pub(crate) steps: u64,
    pub(crate) settings: Settings,
    /// Out of 1,000 requests, so many have an idempotency key.
    pub(crate) units: u32,
    pub(crate) edge: bool,
    pub(crate) kills: bool,
    pub(crate) power: bool,
    pub(crate) full: bool,
    pub(crate) rot: bool,
    pub(crate) stops: bool,
    pub(crate) outages: bool,
    pub(crate) failovers: bool,
    /// How many commits a failover may lose.
    pub(crate) history: usize,
    /// The journal never gets to `max_bytes`.
    pub(crate) ample: bool,
    pub(crate) copies: bool,
    pub(crate) jumps: bool,
    pub(crate) gives_up: bool,
    pub(crate) disk: DiskFaults,
    pub(crate) store: StoreFaults,
    pub(crate) pace: Duration,
    /// How far calendars may be off, once at each site and once for all, milliseconds.
    pub(crate) off_ms: u64,
}

/// So long that it never passes.
pub(crate) const FOR_EVER_MS: u64 = 1_000_000_000;

impl Plan {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let mut often = |percent: u32| rng.u32(..100) < percent;
        let (kills, power, full, rot) = (often(70), often(60), often(25), often(30));
        let (stops, outages, failovers, copies) = (often(60), often(50), often(25), often(12));
        let (jumps, gives_up, edge) = (often(30), often(40), often(30));
        let (disk_fails, refuses, loses, late) = (often(20), often(30), often(50), often(40));
        let mut rate = |on: bool, up_to: u32| if on { rng.u32(1..=up_to) } else { 0 };
        let disk = DiskFaults {
            sync: rate(disk_fails, 100),
            write: rate(disk_fails, 60),
            names: rate(disk_fails, 60),
        };
        let store =
            StoreFaults { refuse: rate(refuses, 300), lose_answer: rate(loses, 400), late: rate(late, 300) };
        let mut settings = running::settings(rng);
        let ample = failovers && rng.bool();
        // Small segments, so that a failover reaches back over many.
        let small = failovers && rng.bool();
        if small {
            settings.max_bytes = (settings.max_bytes / settings.segment_bytes) * SMALL_SEGMENT;
            settings.segment_bytes = SMALL_SEGMENT;
        }
        if failovers {
            let keep_ms = [0, rng.u64(10..2_000), 1_000_000][rng.usize(..3)];
            settings.keep = Duration::from_millis(keep_ms);
        }
        if ample {
            settings.max_bytes = settings.segment_bytes * 300;
        }
        let pace_ms = [1, 10, 60][rng.usize(..3)];
        // From a window that passes again and again, journals written off included, to none.
        let window_ms = [pace_ms, pace_ms * 4, pace_ms * 12, 500, FOR_EVER_MS][rng.usize(..5)];
        // What is promised of a window allows for clocks that differ by an eighth of it.
        let off_ms = if window_ms == FOR_EVER_MS { 100_000_000 } else { window_ms / 8 / 4 };
        settings.limits.id_window_ms = window_ms;
        Self {
            sites: [1, 1, 2, 2, 3][rng.usize(..5)],
            keys: rng.usize(3..9),
            steps: rng.u64(80..320) * if small { 2 } else { 1 },
            settings,
            units: [0, 300, 1000][rng.usize(..3)],
            edge,
            kills,
            power,
            full,
            rot,
            stops,
            outages,
            failovers,
            history: [6, 60][rng.usize(..2)],
            ample,
            copies,
            jumps,
            gives_up,
            disk,
            store,
            pace: Duration::from_millis(pace_ms),
            off_ms,
        }
    }
}
