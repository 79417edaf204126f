//! Reading segments: which there are, which records they hold, and where they end.

use counter::Seq;

use crate::begun::Begun;
use crate::disk::{Disk, DiskFile, read_whole};
use crate::error::OpenError;
use crate::format::{
    HeaderRead, Kind, RECORDS_START, Record, SegmentHeader, decode_record, peek_seq, segment_name,
    segment_number,
};
use crate::identity::Identity;

/// Larger than any disk; sums of it stay in 64 bits.
const MAX_SEGMENT_BYTES: u64 = 1 << 50;

/// How the last segment of a journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailEnd {
    /// After a whole record.
    Clean,
    /// In a record that was not written wholly; no acknowledged increment can be in it, unless a
    /// damaged disk changed it later, which can't be told from this.
    Torn {
        /// Where the record begins, in bytes from the segment's start.
        offset: u64,
    },
}

/// A segment, as [`read_all`] found it.
#[derive(Clone, Debug)]
pub struct SegmentReport {
    /// The file's name.
    pub file: String,
    /// Its header.
    pub header: SegmentHeader,
    /// The seq of its last record; the one before `header.first` where it has none.
    pub last: Seq,
    /// How many bytes of records it holds.
    pub bytes: u64,
    /// How it ends.
    pub end: TailEnd,
}

/// Reads every record of a journal in order, checksums and sequence numbers included. The
/// directory may be in use: then the last records may be missing.
///
/// # Errors
/// [`OpenError::Damaged`] at the first damage; whatever `each` returns.
pub fn read_all<D: Disk>(
    disk: &D,
    each: &mut dyn FnMut(&SegmentReport, u64, &Record<'_>) -> Result<(), OpenError>,
) -> Result<(Option<Identity>, Vec<SegmentReport>), OpenError> {
    let Some(identity) = Identity::read(disk)? else {
        Identity::check_missing(disk)?;
        return Ok((None, Vec::new()));
    };
    let survey = survey(disk, &identity, &Begun::open(disk, identity.journal)?)?;
    let mut reports = Vec::new();
    for (at, header) in survey.segments.iter().enumerate() {
        let report = match survey.segments.get(at + 1) {
            Some(next) => read_segment(disk, header, Some(next.first), each)?,
            None => walk(&settled_image(disk, header)?, header, None, each)?,
        };
        reports.push(report);
    }
    Ok((Some(identity), reports))
}

/// Which segments a journal has.
pub(crate) struct Survey {
    /// In order; numbers without gaps.
    pub(crate) segments: Vec<SegmentHeader>,
    /// Files to remove: a last segment that was prepared and never begun, what an earlier
    /// journal left, what a rewrite left.
    pub(crate) leftovers: Vec<String>,
}

/// `begun` was read before: a server that runs may begin another segment meanwhile.
pub(crate) fn survey<D: Disk>(
    disk: &D,
    identity: &Identity,
    begun: &Begun<D::File>,
) -> Result<Survey, OpenError> {
    let mut leftovers = Vec::new();
    let mut numbers = Vec::new();
    for name in disk.names().map_err(OpenError::io("list", "the directory"))? {
        match segment_number(&name) {
            Some(number) => numbers.push(number),
            None if name.ends_with(".new") => leftovers.push(name),
            None => {}
        }
    }
    numbers.sort_unstable();
    let mut segments: Vec<SegmentHeader> = Vec::new();
    for &number in &numbers {
        let name = segment_name(number);
        let is_last = numbers.last() == Some(&number);
        match read_header(disk, &name, number)? {
            HeaderRead::Valid(header) if Some(header.journal) == identity.previous => leftovers.push(name),
            HeaderRead::Valid(header) => {
                check_place(&name, &header, segments.last(), identity)?;
                segments.push(header);
            }
            HeaderRead::Newer(version) => {
                return Err(OpenError::Newer { file: name, offset: 0, what: format!("format {version}") });
            }
            HeaderRead::Nothing if is_last => leftovers.push(name),
            HeaderRead::Nothing => {
                let what = "its header fails its checksum in both copies".to_owned();
                return Err(OpenError::Damaged { file: name, offset: 0, what });
            }
        }
    }
    begun.check(segments.last().map(|last| last.number), &numbers)?;
    Ok(Survey { segments, leftovers })
}

fn read_header<D: Disk>(disk: &D, name: &str, number: u64) -> Result<HeaderRead, OpenError> {
    let file = disk.open(name).map_err(OpenError::io("open", name))?;
    let mut block = vec![0; RECORDS_START as usize];
    let read = file.read_at(&mut block, 0).map_err(OpenError::io("read", name))?;
    Ok(SegmentHeader::decode(&block[..read], number))
}

fn check_place(
    name: &str,
    header: &SegmentHeader,
    before: Option<&SegmentHeader>,
    identity: &Identity,
) -> Result<(), OpenError> {
    let damaged = |what| Err(OpenError::Damaged { file: name.to_owned(), offset: 0, what });
    if header.journal != identity.journal {
        let (theirs, ours) = (header.journal, identity.journal);
        return damaged(format!("it belongs to journal {theirs}, and this is journal {ours}"));
    }
    // No journal ever gets there, and counting on from there would come to an end.
    if header.first.0 > i64::MAX as u64 || header.bytes > MAX_SEGMENT_BYTES {
        let (first, bytes) = (header.first, header.bytes);
        return damaged(format!("it begins at seq {first} and has {bytes} bytes, by its header; none can"));
    }
    let Some(before) = before else { return Ok(()) };
    if before.number + 1 != header.number {
        return damaged(format!("the segment before it, {}, is missing", segment_name(header.number - 1)));
    }
    // The same seq twice: the segment before was begun and never got a record. If it did get
    // some, reading it finds that they don't end where this one begins.
    if before.first > header.first {
        let (first, other) = (header.first, before.first);
        return damaged(format!("it begins at seq {first}, and the segment before it at {other}"));
    }
    Ok(())
}

/// Reads the last segment of a journal that may be in use. What is read is no picture of one moment:
/// the end of it may be younger than its beginning, and then a record seems to fail in front of one
/// that was written after it. A second look finds that one whole.
fn settled_image<D: Disk>(disk: &D, header: &SegmentHeader) -> Result<Vec<u8>, OpenError> {
    let mut failed_at = 0;
    loop {
        let image = image(disk, header)?;
        match walk(&image, header, None, &mut |_, _, _| Ok(())) {
            Err(OpenError::Damaged { offset, .. }) if offset > failed_at => failed_at = offset,
            _ => return Ok(image),
        }
    }
}

/// Reads one segment to its end. `next` is where the following segment begins; without one this
/// is the tail, and may end in a torn record.
pub(crate) fn read_segment<D: Disk>(
    disk: &D,
    header: &SegmentHeader,
    next: Option<Seq>,
    each: &mut dyn FnMut(&SegmentReport, u64, &Record<'_>) -> Result<(), OpenError>,
) -> Result<SegmentReport, OpenError> {
    walk(&image(disk, header)?, header, next, each)
}

fn image<D: Disk>(disk: &D, header: &SegmentHeader) -> Result<Vec<u8>, OpenError> {
    let name = segment_name(header.number);
    let file = disk.open(&name).map_err(OpenError::io("open", &name))?;
    read_whole(&file).map_err(OpenError::io("read", &name))
}

fn walk(
    bytes: &[u8],
    header: &SegmentHeader,
    next: Option<Seq>,
    each: &mut dyn FnMut(&SegmentReport, u64, &Record<'_>) -> Result<(), OpenError>,
) -> Result<SegmentReport, OpenError> {
    let file = segment_name(header.number);
    let last = Seq(header.first.0.saturating_sub(1));
    let mut report = SegmentReport { file, header: *header, last, bytes: 0, end: TailEnd::Clean };
    let seed = header.seed();
    let mut rest = bytes.get(RECORDS_START as usize..).unwrap_or_default();
    loop {
        let offset = (bytes.len() - rest.len()) as u64;
        let expected = report.last.next();
        let Some(record) = decode_record(rest, seed).filter(|record| record.seq == expected) else {
            report.end = end_of(rest, seed, expected, offset, next, &report)?;
            return Ok(report);
        };
        if let Kind::Unknown(kind) = record.kind {
            let what = format!("a record of kind {kind}");
            return Err(OpenError::Newer { file: report.file, offset, what });
        }
        each(&report, offset, &record)?;
        report.last = expected;
        report.bytes += record.bytes();
        rest = rest.get(record.bytes() as usize..).unwrap_or_default();
    }
}

/// Says what the first record that fails means: the end, a torn write, or damage.
fn end_of(
    rest: &[u8],
    seed: u32,
    expected: Seq,
    offset: u64,
    next: Option<Seq>,
    report: &SegmentReport,
) -> Result<TailEnd, OpenError> {
    let damaged = |what| Err(OpenError::Damaged { file: report.file.clone(), offset, what });
    if let Some(next) = next {
        if next == expected {
            return Ok(TailEnd::Clean);
        }
        return damaged(format!("record {expected} fails its checksum; the next segment begins at {next}"));
    }
    // A segment has its whole size before its first record, so no torn write makes it shorter.
    let size = offset + rest.len() as u64;
    if size < report.header.bytes {
        let whole = report.header.bytes;
        return damaged(format!("the file was cut short: it has {size} of its {whole} bytes"));
    }
    let begun = peek_seq(rest) == Some(expected);
    match later_records(rest, seed, expected) {
        (Some(later), _) => damaged(format!(
            "record {expected} fails its checksum, and record {later}, written when it was durable, follows"
        )),
        (None, true) => Ok(TailEnd::Torn { offset }),
        (None, false) if begun => Ok(TailEnd::Torn { offset }),
        (None, false) => Ok(TailEnd::Clean),
    }
}

/// Looks for whole records behind the one that failed: the first that was written when `failed`
/// was durable (so that its failure is damage), and whether there is any other.
fn later_records(rest: &[u8], seed: u32, failed: Seq) -> (Option<Seq>, bool) {
    let mut any = false;
    for at in (8..rest.len()).step_by(8) {
        let candidate = &rest[at..];
        // No more records than fit in between: spares most checksums of old bytes.
        let plausible = failed.0 + 1..=failed.0 + at as u64;
        if !peek_seq(candidate).is_some_and(|seq| plausible.contains(&seq.0)) {
            continue;
        }
        let Some(record) = decode_record(candidate, seed) else { continue };
        if record.durable_before() >= failed {
            return (Some(record.seq), true);
        }
        any = true;
    }
    (None, any)
}
