//! Each fault that is put into the product on purpose is noticed, and soon.

use simulation::{Sabotage, run};

/// Within so many seeds. Several times what each needs (some 350 at most), so that a change of the seeds'
/// meaning doesn't matter, and a hole in the simulation does.
const WITHIN: u64 = 2_000;

#[test]
fn every_sabotage_is_caught() {
    let mut missed = Vec::new();
    for &sabotage in Sabotage::ALL {
        let (name, what) = sabotage.describe();
        let caught = (0..WITHIN).find_map(|seed| Some((seed, run(seed, Some(sabotage), false).broken?)));
        match caught {
            Some((seed, broken)) => println!("{name} ({what}): seed {seed}: {broken:.100}"),
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "not caught within {WITHIN} seeds: {missed:?}");
}
