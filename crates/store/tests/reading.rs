//! Reading totals, pages and watermarks, on PostgreSQL and on SQLite.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[macro_use]
mod support;

use std::collections::BTreeMap;
use std::thread;

use counter::{JournalId, Seq};
use store::{LoadError, PageQuery, Standing};
use support::{Building, Fixture, new_claim, plain};

on_both!(
    keys_of_all_kinds_come_back,
    pages_are_in_byte_order,
    totals_and_watermark_are_one_snapshot,
    load_hands_over_everything_and_can_be_stopped,
    others_are_all_but_oneself,
);

fn keys_of_all_kinds_come_back(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let keys = odd_keys();
    let increments: Vec<(&str, i64)> =
        keys.iter().zip(1..).map(|(key, value)| (key.as_str(), value)).collect();
    let expected: Vec<Option<i64>> = increments.iter().map(|&(_, value)| Some(value)).collect();
    assert_eq!(store.apply(&claim, &plain(0, 1, &increments)).unwrap().totals, expected);
    let asked: Vec<&str> = keys.iter().map(String::as_str).collect();
    assert_eq!(fixture.reader().totals(claim.journal, &asked).unwrap().totals, expected);
    let doubled: Vec<Option<i64>> = increments.iter().map(|&(_, value)| Some(2 * value)).collect();
    let mut building = Building::default();
    for (key, value) in increments {
        building = building.unit(key, 1, &[(key, value)]);
    }
    assert_eq!(store.apply(&claim, &building.batch(1, 2)).unwrap().totals, doubled);
}

fn pages_are_in_byte_order(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let mut keys = odd_keys();
    let increments: Vec<(&str, i64)> = keys.iter().map(|key| (key.as_str(), 1)).collect();
    store.apply(&claim, &plain(0, 1, &increments)).unwrap();
    keys.sort_unstable();
    let mut reader = fixture.reader();
    let prefixes =
        ["", "a", "ä", "🦀", "\u{d7ff}", "\u{10ffff}", "\u{10ffff}\u{10ffff}", "k", "nothing", "a\0"];
    for prefix in prefixes {
        let afters =
            keys.iter().map(|key| Some(key.as_str())).chain([None, Some(""), Some("a\0b"), Some("b")]);
        for after in afters {
            for limit in [0, 1, 3, 1000] {
                let wanted = keys.iter().filter(|key| key.starts_with(prefix));
                let wanted = wanted.filter(|key| after.is_none_or(|after| key.as_str() > after));
                let wanted: Vec<&String> = wanted.take(limit as usize).collect();
                let page = reader.page(&PageQuery { prefix, after, limit }).unwrap();
                assert!(page.iter().eq(wanted), "{prefix:?} after {after:?}: {page:?}");
            }
        }
    }
}

fn totals_and_watermark_are_one_snapshot(fixture: &Fixture) {
    const BATCHES: u64 = 100;
    let (mut store, claim) = fixture.claimed();
    let mut reader = fixture.reader();
    let snapshot = reader.totals(claim.journal, &["a", "", "a\0", "a"]).unwrap();
    assert_eq!((snapshot.watermark, snapshot.totals), (Seq(0), vec![None; 4]));
    assert_eq!(reader.totals(new_claim().journal, &[]).unwrap().totals, []);
    thread::scope(|scope| {
        let writer = scope.spawn(move || {
            for seq in 0..BATCHES {
                store.apply(&claim, &plain(seq, seq + 1, &[("a", 1), ("b", 1)])).unwrap();
            }
        });
        while !writer.is_finished() {
            let snapshot = reader.totals(claim.journal, &["b", "none", "a"]).unwrap();
            let seen = Some(snapshot.watermark.as_i64()).filter(|&seq| seq > 0);
            assert_eq!(snapshot.totals, [seen, None, seen]);
        }
    });
    let snapshot = reader.totals(claim.journal, &["a", "b"]).unwrap();
    assert_eq!(snapshot.watermark, Seq(BATCHES));
}

fn load_hands_over_everything_and_can_be_stopped(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    assert_eq!(store.load(claim.journal, &mut |_, _| Err("empty".to_owned())).unwrap(), Seq(0));
    let keys: Vec<String> = (0..5000).map(|key| format!("key {key}")).collect();
    let increments: Vec<(&str, i64)> =
        keys.iter().zip(-2500..).map(|(key, value)| (key.as_str(), value)).collect();
    store.apply(&claim, &plain(0, 9, &increments)).unwrap();

    let mut count = 0;
    let stopped = store.load(claim.journal, &mut |_, _| {
        count += 1;
        if count == 1000 { Err("that is enough".to_owned()) } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(LoadError::Stopped(reason)) if reason == "that is enough"));
    assert_eq!(count, 1000);

    let mut loaded = BTreeMap::new();
    let mut take = |key: &str, value| {
        loaded.insert(key.to_owned(), value);
        Ok(())
    };
    assert_eq!(store.load(claim.journal, &mut take).unwrap(), Seq(9));
    assert_eq!(loaded, increments.iter().map(|&(key, value)| (key.to_owned(), value)).collect());
    assert_eq!(store.load(new_claim().journal, &mut |_, _| Ok(())).unwrap(), Seq(0));
    store.apply(&claim, &plain(9, 10, &[("key 0", 1)])).unwrap();
}

fn others_are_all_but_oneself(fixture: &Fixture) {
    let (mut store, claim) = fixture.claimed();
    let mut reader = fixture.reader();
    assert_eq!(reader.others(claim.journal).unwrap(), []);
    let (_, other) = fixture.claimed();
    store.apply(&claim, &plain(0, 7, &[("a", 1)])).unwrap();
    assert_eq!(reader.others(claim.journal).unwrap(), [(other.journal, Seq(0))]);
    assert_eq!(reader.others(other.journal).unwrap(), [(claim.journal, Seq(7))]);
    let row = Standing { owner: claim.owner, watermark: Seq(7), moved_by: Some(claim.owner) };
    assert_eq!(reader.standing(claim.journal).unwrap(), Some(row));
    assert_eq!(reader.standing(JournalId([99; 16])).unwrap(), None);
}

/// Keys that a careless store would confuse, cut, fold or sort by a language's rules.
fn odd_keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "a",
        "A",
        "ä",
        "a\u{308}",
        " a",
        "a ",
        "'; DROP TABLE counters; --",
        "\"",
        "\\",
        "a\\b",
        "%",
        "_",
        "{}",
        "NULL",
        "{NULL,\"x\"}",
        "🦀",
        "🦀🦀",
        "\n",
        "\t",
        "\u{1}",
        "\u{7f}",
        "\u{80}",
        "\u{ffff}",
        "\u{10ffff}",
        "\u{10ffff}\u{10ffff}x",
        "\u{d7ff}",
        "\u{e000}",
        "مفتاح",
        "鍵",
    ]
    .map(str::to_owned)
    .into();
    keys.push("k".repeat(512));
    keys.push("🦀".repeat(128));
    keys.push("\u{10ffff}".repeat(128));
    keys
}
