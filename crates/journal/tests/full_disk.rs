//! A start on a full disk, and what comes after it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use counter::Seq;
use journal::format::{SegmentHeader, segment_name};
use journal::{Disk, Job, Journal, Kind, NoRoom, Opened, Options, RealDisk, RealFile, Record, RecordBuffer};

const SEGMENT: u64 = 16 << 10;

/// A directory on a disk that has no room for a whole segment while `full`.
#[derive(Clone, Debug)]
struct Crowded {
    disk: RealDisk,
    full: Arc<AtomicBool>,
}

impl Disk for Crowded {
    type File = RealFile;

    fn names(&self) -> io::Result<Vec<String>> {
        self.disk.names()
    }

    fn open(&self, name: &str) -> io::Result<RealFile> {
        self.disk.open(name)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<RealFile> {
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

fn commit(journal: &mut Journal<Crowded>, now_ms: u64, payload: &[u8]) -> Result<Seq, NoRoom> {
    journal.make_room(payload.len(), now_ms)?;
    let mut buffer = RecordBuffer::default();
    buffer.extend(payload);
    let seq = journal.append(Kind::Increments, 0, &mut buffer)?;
    journal.sync()?;
    Ok(seq)
}

/// Every payload, in order.
fn payloads(journal: &Journal<Crowded>) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    let each = &mut |record: &Record<'_>| {
        payloads.push(record.payload.to_vec());
        Ok(())
    };
    journal.replay(Seq::ZERO, each).unwrap();
    payloads
}

/// A power loss can leave a last segment with a header and no record. A start on a full disk can't
/// write it anew, so the first record after that goes into a segment that begins at the same seq;
/// the next start took that for damage.
#[test]
fn a_segment_without_records_may_be_followed_by_one_that_begins_where_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let disk = Crowded { disk: RealDisk::new(dir.path()).unwrap(), full: Arc::clone(&full) };
    let open = || Journal::open(disk.clone(), Options::new(SEGMENT, 100 * SEGMENT)).unwrap().journal;

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

    let journal = open();
    assert_eq!((journal.last(), payloads(&journal)), (Seq(2), vec![b"one".to_vec(), b"two".to_vec()]));
}

/// On a full disk the last segment stays where it is, with whatever lies behind its records; nothing
/// is appended behind that.
#[test]
fn a_start_needs_no_room_and_appends_where_nothing_torn_lies() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let disk = Crowded { disk: RealDisk::new(dir.path()).unwrap(), full: Arc::clone(&full) };
    let open = || Journal::open(disk.clone(), Options::new(SEGMENT, 100 * SEGMENT)).unwrap();
    let mut journal = open().journal;
    commit(&mut journal, 0, b"one").unwrap();
    let segment = dir.path().join(segment_name(1));
    let end = fs::read(&segment).unwrap().iter().rposition(|&byte| byte != 0).unwrap() as u64;
    commit(&mut journal, 0, &[7; 3000]).unwrap();
    drop(journal);
    // The second record was torn.
    File::options().write(true).open(&segment).unwrap().write_all_at(&[0; 2000], end + 2000).unwrap();

    full.store(true, SeqCst);
    for start in 0..3 {
        let Opened { mut journal, cut } = open();
        assert_eq!(cut.map(|cut| cut.seq), Some(Seq(2)), "start {start}");
        assert_eq!(payloads(&journal), [b"one"]);
        assert!(matches!(commit(&mut journal, 0, b"two"), Err(NoRoom::DiskFull { .. })));
    }
    let mut journal = open().journal;
    full.store(false, SeqCst);
    assert_eq!(commit(&mut journal, 2_000, b"two").unwrap(), Seq(2));
    drop(journal);
    let journal = open().journal;
    assert_eq!((journal.last(), payloads(&journal)), (Seq(2), vec![b"one".to_vec(), b"two".to_vec()]));
}

/// With ack `memory` whole records may lie behind the torn one. They stay there too, and count
/// neither where the segment is the last nor where another one follows.
#[test]
fn records_behind_a_torn_one_stay_cut_off_where_a_segment_is_renewed_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let disk = Crowded { disk: RealDisk::new(dir.path()).unwrap(), full: Arc::clone(&full) };
    let open = || Journal::open(disk.clone(), Options::new(SEGMENT, 100 * SEGMENT)).unwrap();
    let mut journal = open().journal;
    commit(&mut journal, 0, b"one").unwrap();
    let segment = dir.path().join(segment_name(1));
    let end = fs::read(&segment).unwrap().iter().rposition(|&byte| byte != 0).unwrap() as u64;
    let mut buffer = RecordBuffer::default();
    for payload in [&[7; 3000][..], b"three", b"four"] {
        buffer.clear();
        buffer.extend(payload);
        journal.append(Kind::Increments, 0, &mut buffer).unwrap();
    }
    drop(journal);
    File::options().write(true).open(&segment).unwrap().write_all_at(&[0; 2000], end + 200).unwrap();

    full.store(true, SeqCst);
    for _ in 0..2 {
        let Opened { journal, cut } = open();
        assert_eq!((cut.map(|cut| cut.seq), journal.last()), (Some(Seq(2)), Seq(1)));
    }
    let mut journal = open().journal;
    full.store(false, SeqCst);
    assert_eq!(commit(&mut journal, 2_000, b"two").unwrap(), Seq(2));
    drop(journal);
    full.store(true, SeqCst);
    for _ in 0..2 {
        let Opened { journal, cut } = open();
        assert_eq!((cut, payloads(&journal)), (None, vec![b"one".to_vec(), b"two".to_vec()]));
    }
}

/// What is kept takes no room from what is pending, also where the disk has less than
/// `max_bytes`.
#[test]
fn on_a_full_disk_the_oldest_kept_segment_becomes_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let disk = Crowded { disk: RealDisk::new(dir.path()).unwrap(), full: Arc::clone(&full) };
    let options = Options { keep: Duration::from_secs(3600), ..Options::new(SEGMENT, 100 * SEGMENT) };
    let mut journal = Journal::open(disk, options).unwrap().journal;
    let commit = |journal: &mut Journal<Crowded>, now_ms| commit(journal, now_ms, &[7; 5000]);
    // Two fill a segment.
    for _ in 0..10 {
        commit(&mut journal, 0).unwrap();
    }
    let upto = journal.last();
    journal.trim(upto, 0);
    assert_eq!((journal.first_kept(), journal.kept_bytes()), (Seq(1), 4 * SEGMENT));
    full.store(true, SeqCst);
    let mut refused = 0;
    for second in 1..60 {
        match commit(&mut journal, second * 1000) {
            Ok(_) => {}
            Err(NoRoom::DiskFull { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    // All that was kept is used again; then the disk is full in earnest.
    assert_eq!((journal.kept_bytes(), journal.first_kept()), (0, Seq(11)));
    assert!(journal.last() >= Seq(20), "{} after {refused} refusals", journal.last());
    let upto = journal.last();
    journal.trim(upto, 60_000);
    commit(&mut journal, 61_000).unwrap();
}
