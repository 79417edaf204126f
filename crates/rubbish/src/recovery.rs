//! Recovery: a journal is written, then damaged, then opened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use counter::Seq;
use journal::format::{HeaderRead, RECORD_HEADER, SegmentHeader, segment_name, segment_number};
use journal::{Journal, Kind, OpenError, Options, RecordBuffer, read_all};

use crate::disk::MemoryDisk;
use crate::script::Script;

const SEGMENT: u64 = 8 << 10;
const MAX_STEPS: usize = 24;
const IDENTITY: &str = "identity.json";
const BEGUN: &str = "begun";

type Files = BTreeMap<String, Vec<u8>>;

/// Where a record stands, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    file: String,
    offset: usize,
    seq: u64,
    /// All before this one were durable when it was written.
    durable_before: u64,
    payload: Vec<u8>,
}

/// The first half of the bytes says what is written, the second what is damaged.
pub(crate) fn recovery(bytes: &[u8]) {
    let mut script = Script(bytes);
    let (before, ever, durable) = written(&mut script);
    let places = places(&MemoryDisk::with(&before)).expect("an undamaged journal");
    let mut after = before.clone();
    let mut is_forged = false;
    while !script.is_empty() {
        is_forged |= damage(&mut script, &mut after);
    }
    is_forged |= after.get(IDENTITY) != before.get(IDENTITY);
    let found = look(&after, is_forged);
    if !is_forged {
        judge(&before, &after, (&ever, durable), &places, found.as_deref());
    }
}

fn options(keep: Duration) -> Options {
    let next = AtomicU64::new(1);
    let entropy = move || next.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Options { segment_bytes: SEGMENT, max_bytes: 64 * SEGMENT, keep, entropy: Arc::new(entropy) }
}

fn open(disk: &MemoryDisk) -> Result<Journal<MemoryDisk>, OpenError> {
    open_keeping(disk, Duration::ZERO)
}

fn open_keeping(disk: &MemoryDisk, keep: Duration) -> Result<Journal<MemoryDisk>, OpenError> {
    Journal::open(disk.clone(), options(keep)).map(|opened| opened.journal)
}

fn append(journal: &mut Journal<MemoryDisk>, payload: &[u8]) {
    let mut buffer = RecordBuffer::default();
    buffer.extend(payload);
    journal.make_room(payload.len(), 0).expect("room");
    journal.append(Kind::Increments, 5, &mut buffer).expect("a disk that works");
}

/// Commits, trims and starts: the files, every record that was ever in them, the first one first,
/// and how many of those are durable.
fn written(script: &mut Script<'_>) -> (Files, Vec<Vec<u8>>, u64) {
    let disk = MemoryDisk::default();
    let mut ever = Vec::new();
    let first = script.byte();
    // Applied segments go at once, or stay for some steps.
    let keep = Duration::from_millis(if first < 128 { 0 } else { 5 });
    let mut journal = open_keeping(&disk, keep).expect("an empty directory");
    for step in 0..usize::from(first) % MAX_STEPS {
        let length = usize::from(script.byte()) * 8 + step;
        match script.byte() % 16 {
            0 => {
                let upto = journal.durable();
                journal.trim(Seq(upto.0.saturating_sub(length as u64 % 4)), step as u64);
            }
            1 => {
                drop(journal);
                journal = open_keeping(&disk, keep).expect("an undamaged journal");
            }
            what => {
                ever.push(vec![step as u8; length]);
                append(&mut journal, &ever[ever.len() - 1]);
                // Others are not durable yet, as with ack `memory`.
                if what > 5 {
                    journal.sync().expect("a disk that works");
                }
            }
        }
    }
    let durable = journal.durable().0;
    (disk.files(), ever, durable)
}

fn places(disk: &MemoryDisk) -> Result<Vec<Place>, OpenError> {
    let mut places = Vec::new();
    read_all(disk, &mut |segment, offset, record| {
        places.push(Place {
            file: segment.file.clone(),
            offset: offset as usize,
            seq: record.seq.0,
            durable_before: record.durable_before().0,
            payload: record.payload.to_vec(),
        });
        Ok(())
    })?;
    Ok(places)
}

/// One damage; `true` where it is one that no disk does by itself: checksums are made to fit.
fn damage(script: &mut Script<'_>, files: &mut Files) -> bool {
    let names: Vec<String> = files.keys().cloned().collect();
    let name = script.choose(&names).cloned().unwrap_or_else(|| segment_name(1));
    let what = script.byte() % 16;
    let at = usize::from(script.number());
    let content = files.entry(name.clone()).or_default();
    match what {
        0 => content.truncate(at),
        1 => content.resize(content.len() + at % 9000, 0),
        2 => drop(files.remove(&name)),
        3 => {
            let copy = content.clone();
            files.insert(segment_name(at as u64 % 8), copy);
        }
        4 => *content = script.take(at).to_vec(),
        5 => content.iter_mut().skip(at).take(600).for_each(|byte| *byte = 0),
        6 => return forge_header(script, &name, content),
        7 => return forge_record(script, &name, content, at),
        _ => {
            let bytes = script.take(1 + at % 40);
            let at = usize::from(script.number()) % content.len().max(1);
            content.iter_mut().skip(at).zip(bytes).for_each(|(old, new)| *old ^= new);
        }
    }
    false
}

fn header_of(name: &str, content: &[u8]) -> Option<SegmentHeader> {
    match SegmentHeader::decode(content, segment_number(name)?) {
        HeaderRead::Valid(header) => Some(header),
        _ => None,
    }
}

fn forge_header(script: &mut Script<'_>, name: &str, content: &mut Vec<u8>) -> bool {
    let Some(mut header) = header_of(name, content) else { return false };
    header.first = Seq(script.odd_number(header.first.0));
    header.bytes = script.odd_number(header.bytes);
    header.salt ^= u64::from(script.byte() & 1);
    let block = header.encode();
    content.resize(content.len().max(block.len()), 0);
    content[..block.len()].copy_from_slice(&block);
    true
}

fn forge_record(script: &mut Script<'_>, name: &str, content: &mut Vec<u8>, at: usize) -> bool {
    let Some(header) = header_of(name, content) else { return false };
    let at = 4096 + at % 4096 / 8 * 8;
    let mut record = vec![0; RECORD_HEADER];
    let length = usize::from(script.byte());
    record.extend_from_slice(script.take(length));
    let claimed = script.odd_number((record.len() - RECORD_HEADER) as u64) as u32;
    record[4..8].copy_from_slice(&claimed.to_le_bytes());
    for field in [8, 16, 24] {
        record[field..field + 8].copy_from_slice(&script.odd_number(header.first.0).to_le_bytes());
    }
    record[32..36].copy_from_slice(&(script.odd_number(0) as u32).to_le_bytes());
    record[36] = script.byte() % 4;
    let crc = crc32c::crc32c_append(header.seed(), &record[4..]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
    content.resize(content.len().max(at + record.len()), 0);
    content[at..at + record.len()].copy_from_slice(&record);
    true
}

/// Opens it, replays it, and goes on with it; what was replayed, or `None` where it is refused.
fn look(files: &Files, is_forged: bool) -> Option<Vec<(u64, Vec<u8>)>> {
    let read = places(&MemoryDisk::with(files));
    let disk = MemoryDisk::with(files);
    let mut journal = open(&disk).ok()?;
    let found = replayed(&journal)?;
    if is_forged {
        // Whatever it takes itself for: it goes on or says why not.
        let mut buffer = RecordBuffer::default();
        buffer.extend(b"one more");
        if journal.make_room(buffer.len(), 0).is_ok() {
            let _ = journal.append(Kind::Increments, 0, &mut buffer).and_then(|_| journal.sync());
        }
        drop(journal);
        let _ = open(&disk).map(|journal| replayed(&journal));
        return Some(found);
    }
    // What can be started can be inspected, and both see the same.
    let read = read.expect("what opens can be read");
    same(&read.into_iter().map(|place| (place.seq, place.payload)).collect::<Vec<_>>(), &found);
    let applied = journal.applied().0;
    append(&mut journal, b"one more");
    journal.sync().expect("a disk that works");
    let last = journal.last().0;
    drop(journal);
    let again = replayed(&open(&disk).expect("what was just written")).expect("what was just written");
    // What the store has may be gone by now, to make room.
    let gone = found.iter().take_while(|(seq, _)| *seq < again[0].0).count();
    assert!(gone == 0 || found[gone - 1].0 <= applied, "{gone} are gone, applied {applied}");
    same(&again, &[&found[gone..], &[(last, b"one more".to_vec())]].concat());
    Some(found)
}

/// Compares, and prints no payloads where they differ.
fn same(ones: &[(u64, Vec<u8>)], others: &[(u64, Vec<u8>)]) {
    let seqs = |records: &[(u64, Vec<u8>)]| records.iter().map(|record| record.0).collect::<Vec<_>>();
    assert_eq!(seqs(ones), seqs(others));
    for (one, other) in ones.iter().zip(others) {
        assert!(one.1 == other.1, "record {} differs", one.0);
    }
}

fn replayed(journal: &Journal<MemoryDisk>) -> Option<Vec<(u64, Vec<u8>)>> {
    let mut records = Vec::new();
    let keep = &mut |record: &journal::Record<'_>| {
        records.push((record.seq.0, record.payload.to_vec()));
        Ok(())
    };
    journal.replay(Seq::ZERO, keep).ok()?;
    Some(records)
}

/// Says whether that may come of the damage.
fn judge(
    before: &Files,
    after: &Files,
    (ever, durable): (&[Vec<u8>], u64),
    places: &[Place],
    found: Option<&[(u64, Vec<u8>)]>,
) {
    let Some(found) = found else {
        assert_ne!(before, after, "an undamaged journal is refused");
        return;
    };
    for (at, (seq, payload)) in found.iter().enumerate() {
        assert_eq!(*seq, found[0].0 + at as u64, "a gap");
        assert!(ever.get(*seq as usize - 1) == Some(payload), "record {seq} was never written so");
    }
    if before == after {
        assert_eq!(found.len(), places.len());
    }
    let in_files = places.iter().find(|place| after.contains_key(&place.file));
    let begins = in_files.map_or(1, |place| place.seq);
    let missing_from = found.last().map_or(begins, |last| last.0 + 1);
    let first = found.first().map_or(missing_from, |first| first.0);
    let is_cut = places.iter().any(|place| place.seq == missing_from && is_damaged(before, after, place));
    for place in places.iter().filter(|place| !(first..missing_from).contains(&place.seq)) {
        // The first segments may be gone as if they had been trimmed: the store's watermark tells.
        let is_trimmed = place.seq < first && !after.contains_key(&place.file);
        // Written when the first missing record was not durable: then that one is a torn tail.
        let is_tail = is_cut && place.durable_before < missing_from;
        // What tells of the last segment, and that segment itself: nothing is left to notice it by.
        let is_unheard_of = after.get(BEGUN) != before.get(BEGUN);
        let is_whole = place.seq <= durable && !is_damaged(before, after, place);
        assert!(
            !is_whole || is_trimmed || is_tail || is_unheard_of,
            "record {} is whole and was dropped; {first}..{missing_from} were found",
            place.seq
        );
    }
}

/// Its bytes, in a file that is there.
fn is_damaged(before: &Files, after: &Files, place: &Place) -> bool {
    let range = place.offset..place.offset + RECORD_HEADER + place.payload.len();
    let part = |content: &Vec<u8>| content.get(range.clone()).map(<[u8]>::to_vec);
    after.get(&place.file).is_some_and(|content| part(content) != part(&before[&place.file]))
}
