//! A flood of new keys, up to `max_counters` and on.

use std::net::SocketAddr;

use crate::siege::{HONEST_KEYS, Siege};
use crate::size;
use crate::support::{Client, Home};

const THREADS: usize = 3;
/// What a counter of the flood may take: its entry (about 70 bytes) and its key (up to 24) in memory,
/// and once more while it is pending, in tables that double.
const COUNTER: u64 = 2 * 2 * (70 + 24);
/// What a flush may take besides: a batch is sealed at 100,000 keys, and each is handed to the store
/// with its sum.
const FLUSH: u64 = 100_000 * 100;

fn key(thread: usize, number: usize) -> String {
    format!("flood-{thread}-{number:012}")
}

/// Counts new keys until there may be no more; how many were counted.
fn flood(address: SocketAddr, thread: usize) -> usize {
    let mut client = Client::connect(address).unwrap();
    let mut counted = 0;
    // Many at once while they fit, then one by one.
    for at_once in [500, 20, 1] {
        loop {
            let keys: Vec<_> = (counted..counted + at_once).map(|number| key(thread, number)).collect();
            let answer = client.increments(keys.iter().map(|key| (key.as_str(), 1))).unwrap();
            if answer.status == 503 {
                assert_eq!(answer.json()["code"], "too_many_counters", "{answer:?}");
                assert!(answer.header("retry-after").is_some());
                break;
            }
            answer.expect(202);
            counted += at_once;
        }
    }
    counted
}

#[test]
fn a_flood_of_new_keys_ends_at_max_counters_and_the_known_ones_still_count() {
    let most = size(20_000, 1_000_000);
    let siege = Siege::begin("a flood of keys", Home::new(None).set("max_counters", &most.to_string()));
    let address = siege.server.address();
    let floods: Vec<_> =
        (0..THREADS).map(|thread| std::thread::spawn(move || flood(address, thread))).collect();
    siege.honest_get_on();
    let counted: Vec<usize> = floods.into_iter().map(|flood| flood.join().unwrap()).collect();
    assert_eq!(counted.iter().sum::<usize>(), most - HONEST_KEYS);
    assert_eq!(siege.server.metric("incrementer_counters"), most as f64);

    // It goes on: nothing new is taken, alone or among known ones, and what is known counts.
    let mut client = siege.server.client();
    let known = key(0, 0);
    for number in 0..200 {
        let new = key(THREADS, number);
        client.increment(&new, 1).unwrap().expect(503);
        client.increments([(known.as_str(), 1), (&new, 1)]).unwrap().expect(503);
        client.increment(&known, 1).unwrap().expect(202);
    }
    siege.honest_get_on();
    let mut totals = Vec::new();
    for (thread, counted) in counted.into_iter().enumerate() {
        totals.extend((0..counted).map(|number| (key(thread, number), 1)));
    }
    totals[0].1 += 200;
    let totals: Vec<_> = totals.iter().map(|(key, total)| (key.as_str(), *total)).collect();
    siege.end(most as u64 * COUNTER + FLUSH, &totals);
}
