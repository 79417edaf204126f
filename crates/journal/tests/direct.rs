//! Appending past the page cache, on a real file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::IoSliceMut;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use journal::format::{RECORDS_START, segment_name};
use journal::{BLOCK, Disk, DiskFile, Journal, Kind, Options, RealDisk, RecordBuffer, read_all};
use proptest::prelude::*;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tempfile::TempDir;

/// On a disk: what the system has for such files may be memory.
fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Whether the byte at `offset` is in the page cache.
fn is_cached(path: &Path, offset: u64) -> bool {
    let file = File::open(path).unwrap();
    let mut byte = [0];
    match preadv2(&file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT) {
        Ok(read) => read == 1,
        Err(Errno::AGAIN) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Appends a record to a new journal, and says whether it is in the page cache then.
fn is_record_cached(direct: bool) -> bool {
    let directory = directory();
    let disk = RealDisk::new(directory.path()).unwrap();
    let disk = if direct { disk } else { disk.through_page_cache() };
    let mut journal = Journal::open(disk, Options::new(1 << 16, 1 << 20)).unwrap().journal;
    journal.make_room(5, 0).unwrap();
    let mut buffer = RecordBuffer::default();
    buffer.extend(b"hello");
    journal.append(Kind::Increments, 0, &mut buffer).unwrap();
    is_cached(&directory.path().join(segment_name(1)), RECORDS_START)
}

#[test]
fn a_direct_record_is_on_its_way_at_once_and_another_waits_in_the_page_cache() {
    assert!(is_record_cached(false));
    assert!(
        !is_record_cached(true),
        "the file system of the target folder can't be written to past the page cache (or its kernel is \
         older than Linux 6.1): the journal does without there, and this test can't"
    );
}

/// Whoever reads beside it sees pages of different moments.
#[test]
fn a_journal_in_use_is_never_taken_for_damaged() {
    const RECORDS: u64 = 6_000;
    let directory = directory();
    let disk = RealDisk::new(directory.path()).unwrap();
    let mut journal = Journal::open(disk, Options::new(32 << 20, 1 << 30)).unwrap().journal;
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = RecordBuffer::default();
            for _ in 0..RECORDS {
                buffer.clear();
                buffer.extend(&[7; 2_500]);
                journal.make_room(buffer.len(), 0).unwrap();
                let seq = journal.append(Kind::Increments, 0, &mut buffer).unwrap();
                journal.sync().unwrap();
                done.store(seq.0, SeqCst);
            }
        });
        let mut seen = 0;
        while seen < RECORDS {
            let before = done.load(SeqCst);
            let (_, reports) =
                read_all(&RealDisk::read_only(directory.path()), &mut |_, _, _| Ok(())).unwrap();
            seen = reports.last().map_or(0, |report| report.last.0);
            assert!(seen >= before, "{seen} of {before} durable records are seen");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever the sizes, and wherever it begins in a file with something in it.
    #[test]
    fn what_is_appended_is_there_and_what_was_before_it_stays(
        begin in 0_usize..3 * BLOCK,
        sizes in prop::collection::vec(prop_oneof![1_usize..200, 1..3 * BLOCK, 1_000_000_usize..1_100_000], 1..12),
        size in prop_oneof![Just(16_usize << 20), 1..5 * BLOCK],
        jump in prop::option::of(0_usize..BLOCK),
    ) {
        let directory = directory();
        let disk = RealDisk::new(directory.path()).unwrap();
        let mut file = disk.create("file", size as u64).unwrap();
        let old: Vec<u8> = (0..begin).map(|at| (at % 251) as u8 | 1).collect();
        file.write_at(&old, 0).unwrap();
        let mut expected = old;
        for (number, size) in sizes.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 253 + number) as u8 | 1).collect();
            if let (2, Some(jump)) = (number, jump) {
                // As if another file handle had written.
                file.write_at(&vec![7; jump], expected.len() as u64).unwrap();
                expected.extend(vec![7; jump]);
            }
            file.append_at(&bytes, expected.len() as u64).unwrap();
            expected.extend(bytes);
        }
        let found = fs::read(directory.path().join("file")).unwrap();
        prop_assert_eq!(found.len(), size.max(expected.len()), "it keeps its length while that is enough");
        prop_assert_eq!(found.get(..expected.len()), Some(&expected[..]));
        prop_assert!(found[expected.len()..].iter().all(|byte| *byte == 0));
    }
}
