//! A commit of 128 increments on a real file, in the system's directory for temporary files: what
//! the write costs, and what fdatasync adds on this disk.

#![allow(clippy::expect_used, reason = "a measurement fails by panicking")]

use divan::{Bencher, counter::BytesCount};
use journal::{Journal, Kind, Options, RealDisk, RecordBuffer};

/// 128 requests, each of an 8-byte key and a small value.
const PAYLOAD: [u8; 128 * 11] = [7; 128 * 11];

fn main() {
    divan::main();
}

/// More than all samples write, so that nothing has to be trimmed.
const MAX_BYTES: u64 = 2 << 30;

fn append(bencher: Bencher<'_, '_>, sync: bool) {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = RealDisk::new(dir.path()).expect("a disk");
    let mut journal = Journal::open(disk, Options::new(64 << 20, MAX_BYTES)).expect("a journal").journal;
    let mut record = RecordBuffer::default();
    bencher.counter(BytesCount::new(PAYLOAD.len())).bench_local(|| {
        record.clear();
        record.extend(&PAYLOAD);
        journal.make_room(record.len(), 0).expect("room");
        journal.append(Kind::Increments, 0, &mut record).expect("a working disk");
        if sync {
            journal.sync().expect("a working disk");
        }
    });
}

#[divan::bench(sample_count = 100, sample_size = 1000)]
fn write(bencher: Bencher<'_, '_>) {
    append(bencher, false);
}

#[divan::bench(sample_count = 100, sample_size = 10)]
fn write_and_sync(bencher: Bencher<'_, '_>) {
    append(bencher, true);
}
