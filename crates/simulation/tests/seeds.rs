//! Thousands of worlds, and whether the same seed gives the same one.

use simulation::run;

const SEEDS: u64 = 2_500;

#[test]
fn every_promise_holds_under_every_seed() {
    let failed: Vec<_> = (0..SEEDS)
        .filter_map(|seed| run(seed, None, false).broken.map(|broken| format!("seed {seed}: {broken}")))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}\nsimulate --seed N --trace shows how it came to it");
}

/// Worlds that failed once. What a seed means changes with the simulation, so this is only as good
/// as long as that stays.
#[test]
fn what_failed_once_holds_now() {
    for seed in [2331, 5311, 6388, 15655, 17422, 26272, 39441, 49386, 303_829] {
        assert_eq!(run(seed, None, false).broken, None, "seed {seed}");
    }
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..60 {
        let (first, second) = (run(seed, None, false), run(seed, None, true));
        assert_eq!(first.digest, second.digest, "seed {seed}");
        assert_eq!(first.counts, second.counts, "seed {seed}");
    }
    assert_ne!(run(1, None, false).digest, run(2, None, false).digest);
}
