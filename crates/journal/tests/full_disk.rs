//! A start on a full disk, and what comes after it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use counter::Seq;
use journal::format::{SegmentHeader, segment_name};
use journal::{Disk, Job, Journal, Kind, NoRoom, Options, RealDisk, RecordBuffer};

const SEGMENT: u64 = 16 << 10;

/// A directory on a disk that has no room for a whole segment while `full`.
#[derive(Clone, Debug)]
struct Crowded {
    disk: RealDisk,
    full: Arc<AtomicBool>,
}

impl Disk for Crowded {
    type File = File;

    fn names(&self) -> io::Result<Vec<String>> {
        self.disk.names()
    }

    fn open(&self, name: &str) -> io::Result<File> {
        self.disk.open(name)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<File> {
        if bytes >= SEGMENT && self.full.load(SeqCst) {
            return Err(ErrorKind::StorageFull.into());
        }
        self.disk.create(name, bytes)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }

    fn in_background(&self, job: Job) {
        self.disk.in_background(job);
    }
}

/// A power loss can leave a last segment with a header and no record. A start on a full disk
/// shortens it to its header, so the first record after that goes into a segment that begins at
/// the same seq; the next start took that for damage.
#[test]
fn a_segment_without_records_may_be_followed_by_one_that_begins_where_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let disk = Crowded { disk: RealDisk::new(dir.path()).unwrap(), full: Arc::clone(&full) };
    let open = || Journal::open(disk.clone(), Options::new(SEGMENT, 100 * SEGMENT)).unwrap().journal;
    let commit = |journal: &mut Journal<Crowded>, now_ms: u64, payload: &[u8]| {
        journal.make_room(payload.len(), now_ms)?;
        let mut buffer = RecordBuffer::default();
        buffer.extend(payload);
        let seq = journal.append(Kind::Increments, 0, &mut buffer)?;
        journal.sync()?;
        Ok::<Seq, NoRoom>(seq)
    };

    let mut journal = open();
    commit(&mut journal, 0, b"one").unwrap();
    let id = journal.identity().journal;
    drop(journal);
    let torn = SegmentHeader {
        journal: id,
        number: 2,
        first: Seq(2),
        salt: 9,
        bytes: SEGMENT,
        applied: Seq(0),
        begun_ms: 0,
    };
    let mut image = torn.encode();
    image.resize(SEGMENT as usize, 0);
    fs::write(dir.path().join(segment_name(2)), image).unwrap();

    full.store(true, SeqCst);
    let mut journal = open();
    assert!(matches!(commit(&mut journal, 0, b"two"), Err(NoRoom::DiskFull { .. })));
    full.store(false, SeqCst);
    assert_eq!(commit(&mut journal, 2_000, b"two").unwrap(), Seq(2));
    drop(journal);

    let mut payloads = Vec::new();
    let journal = open();
    journal
        .replay(Seq::ZERO, &mut |record| {
            payloads.push(record.payload.to_vec());
            Ok(())
        })
        .unwrap();
    assert_eq!((journal.last(), payloads), (Seq(2), vec![b"one".to_vec(), b"two".to_vec()]));
}
