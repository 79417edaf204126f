//! Batches: filling, freezing, sorting; and the packed form that goes into them.

use counter::{Batch, Decoder, Entries, OpenBatch, Seq};
use divan::{Bencher, black_box, counter::ItemsCount};

fn main() {
    divan::main();
}

/// Keys in no order, all different.
fn keys(count: u64) -> Vec<String> {
    (0..count).map(|n| format!("user:{:016x}:clicks", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect()
}

fn filled(keys: &[String]) -> OpenBatch {
    let mut open = OpenBatch::default();
    for (number, key) in keys.iter().enumerate() {
        let row = open.open_row(key, number as u32);
        open.add(row, 1);
    }
    open
}

#[divan::bench(args = [1_000, 10_000, 100_000])]
fn fill_and_freeze(bencher: Bencher<'_, '_>, rows: u64) {
    let keys = keys(rows);
    bencher.counter(ItemsCount::new(rows)).bench_local(|| filled(black_box(&keys)).freeze(Seq(0), Seq(1)));
}

#[divan::bench(args = [1_000, 10_000, 100_000])]
fn sort(bencher: Bencher<'_, '_>, rows: u64) {
    let keys = keys(rows);
    let frozen = || filled(&keys).freeze(Seq(0), Seq(1));
    bencher
        .counter(ItemsCount::new(rows))
        .with_inputs(frozen)
        .bench_local_refs(|batch: &mut Batch| batch.in_key_order().len());
}

#[divan::bench]
fn add_to_a_row(bencher: Bencher<'_, '_>) {
    let mut open = filled(&keys(10_000));
    let mut row = 0;
    bencher.bench_local(|| {
        row = (row + 7919) % 10_000;
        open.add(black_box(row), 1);
    });
}

#[divan::bench]
fn pack_and_unpack(bencher: Bencher<'_, '_>) {
    let keys = keys(1_000);
    let mut entries = Entries::new();
    bencher.counter(ItemsCount::new(keys.len())).bench_local(|| {
        entries.clear();
        for key in &keys {
            // Each satisfies the rules.
            let _ = entries.push(black_box(key), -1234);
        }
        Decoder::new(entries.bytes()).flatten().count()
    });
}
