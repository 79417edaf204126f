//! What a start makes of what it finds.

use std::collections::VecDeque;

use counter::{JournalId, Seq, StoreId};

use crate::begun::Begun;
use crate::disk::{Disk, DiskFile, read_whole};
use crate::error::{Fatal, OpenError};
use crate::format::{RECORDS_START, Record, RecordBuffer, SegmentHeader, segment_name};
use crate::identity::Identity;
use crate::journal::{Active, Found, Journal, Options, Segment};
use crate::keep::Sightings;
use crate::prepare::is_no_room;
use crate::reading::{Survey, TailEnd, read_segment, survey};

const REWRITE: &str = "tail.new";

/// A last record that was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment.
    pub file: String,
    /// Where it began, in bytes from the segment's start.
    pub offset: u64,
    /// Its position.
    pub seq: Seq,
}

/// An open journal, and what its opening found.
#[derive(Debug)]
pub struct Opened<D: Disk> {
    /// Ready to append, once replayed.
    pub journal: Journal<D>,
    /// A torn last record that was cut off. It was never acknowledged, unless the disk damaged
    /// it later, which can't be told from a torn write.
    pub cut: Option<Cut>,
}

impl<D: Disk> Journal<D> {
    /// Opens the journal in `disk`, a new one where there is none.
    ///
    /// The end of the log is the first record that fails its checksum; it is damage only if a
    /// record follows that was written when the failed one was durable. The records of the last
    /// segment are written into a fresh file, synced, and take the old one's place: after a failed
    /// fdatasync they may have been readable without being on disk.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(disk: D, options: Options) -> Result<Opened<D>, OpenError> {
        let identity = match Identity::read(&disk)? {
            Some(identity) => identity,
            None => begin(&disk, &options, None)?,
        };
        let mut begun = Begun::open(&disk, identity.journal)?;
        let Survey { segments, leftovers } = survey(&disk, &identity, &begun)?;
        let mut sightings = Sightings::default();
        for header in &segments {
            sightings.saw(header.applied, header.begun_ms);
        }
        // First, since what follows may need their room.
        for name in &leftovers {
            disk.remove(name).map_err(OpenError::io("remove", name))?;
        }
        if !leftovers.is_empty() {
            disk.sync_names().map_err(OpenError::io("sync", "the directory"))?;
        }
        let tail = match segments.last() {
            None => Tail { active: None, last: Seq::ZERO, applied: Seq::ZERO, cut: None },
            Some(tail) => rewrite_tail(&disk, tail, &options, &mut sightings)?,
        };
        let mut segments: VecDeque<Segment> = segments.iter().map(Segment::of).collect();
        let Tail { active, last, applied, cut } = tail;
        if let (Some(segment), Some(active)) = (segments.back_mut(), &active) {
            segment.bytes = active.header.bytes;
            begun.renew(active.header.number).map_err(fatal_open)?;
        }
        let found = Found { identity, begun, segments, active, last, applied, sightings };
        Ok(Opened { journal: Journal::with(disk, options, found), cut })
    }

    /// Hands every record after `after` to `each`, in order. To be called before the first
    /// append.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] where a segment is; whatever `each` returns.
    pub fn replay(
        &self,
        after: Seq,
        each: &mut dyn FnMut(&Record<'_>) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        let headers = survey(self.disk(), self.identity(), self.begun())?.segments;
        for (at, header) in headers.iter().enumerate() {
            let next = headers.get(at + 1).map(|next| next.first);
            if next.is_some_and(|next| next.0 <= after.0 + 1) {
                continue;
            }
            read_segment(self.disk(), header, next, &mut |_, _, record| {
                if record.seq > after { each(record) } else { Ok(()) }
            })?;
        }
        Ok(())
    }

    /// Begins a new journal in the same directory, for another store. Nothing of the old one may
    /// be pending: it is removed.
    ///
    /// # Errors
    /// See [`OpenError`]. The next open finishes what was begun.
    pub fn begin_anew(self, store: StoreId) -> Result<Self, OpenError> {
        let (disk, options) = (self.disk().clone(), self.options().clone());
        begin(&disk, &options, Some((self.identity().journal, store)))?;
        drop(self);
        Ok(Self::open(disk, options)?.journal)
    }
}

/// Writes the identity of a new journal; `after` is the journal that it follows, and its store.
fn begin<D: Disk>(
    disk: &D,
    options: &Options,
    after: Option<(JournalId, StoreId)>,
) -> Result<Identity, OpenError> {
    if after.is_none() {
        Identity::check_missing(disk)?;
    }
    Begun::prepare(disk)?;
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(options.entropy)().to_le_bytes());
    id[8..].copy_from_slice(&(options.entropy)().to_le_bytes());
    let identity = Identity {
        journal: JournalId(id),
        store: after.map(|(_, store)| store),
        previous: after.map(|(previous, _)| previous),
        owners: Vec::new(),
    };
    identity.write(disk).map_err(fatal_open)?;
    Ok(identity)
}

fn fatal_open(fatal: Fatal) -> OpenError {
    OpenError::Io { action: fatal.action, file: fatal.file, reason: fatal.reason }
}

/// The end of a journal.
struct Tail<F> {
    active: Option<Active<F>>,
    /// The newest record.
    last: Seq,
    /// What that one knows of the store's watermark.
    applied: Seq,
    cut: Option<Cut>,
}

fn rewrite_tail<D: Disk>(
    disk: &D,
    tail: &SegmentHeader,
    options: &Options,
    sightings: &mut Sightings,
) -> Result<Tail<D::File>, OpenError> {
    let header =
        SegmentHeader { salt: (options.entropy)(), bytes: tail.bytes.max(options.segment_bytes), ..*tail };
    let seed = header.seed();
    let mut image = header.encode();
    let mut buffer = RecordBuffer::default();
    // Header and first record are made durable together, so a header alone is a torn commit, and
    // what came before is the tail. But the segment before it may be gone by now, so the header
    // stays, for its place in the sequence.
    let mut applied = tail.applied;
    let report = read_segment(disk, tail, None, &mut |_, _, record| {
        buffer.clear();
        buffer.extend(record.payload);
        image.extend_from_slice(buffer.seal(&Record { unsynced: 0, ..*record }, seed));
        applied = record.applied;
        sightings.saw(record.applied, record.accepted_ms);
        Ok(())
    })?;
    let active = match write_image(disk, header, &image)? {
        Some(active) => active,
        None => renew_in_place(disk, tail, report.bytes)?,
    };
    Ok(Tail { active: Some(active), last: report.last, applied, cut: cut_of(&report) })
}

fn cut_of(report: &crate::SegmentReport) -> Option<Cut> {
    match report.end {
        TailEnd::Clean => None,
        TailEnd::Torn { offset } => Some(Cut { file: report.file.clone(), offset, seq: report.last.next() }),
    }
}

/// Takes the tail's place with `image`, which begins with `header`. `None` where the disk has no
/// room for it.
fn write_image<D: Disk>(
    disk: &D,
    header: SegmentHeader,
    image: &[u8],
) -> Result<Option<Active<D::File>>, OpenError> {
    let name = segment_name(header.number);
    let file = match disk.create(REWRITE, header.bytes) {
        Err(error) if is_no_room(&error) => return Ok(None),
        created => created.map_err(OpenError::io("create", REWRITE))?,
    };
    file.write_at(image, 0).map_err(OpenError::io("write", REWRITE))?;
    file.sync().map_err(OpenError::io("sync", REWRITE))?;
    disk.rename(REWRITE, &name).map_err(OpenError::io("rename", REWRITE))?;
    disk.sync_names().map_err(OpenError::io("sync the directory of", &name))?;
    Ok(Some(Active { file, header, name, offset: image.len() as u64, seed: header.seed() }))
}

/// Makes the tail's `records` bytes of records durable anew where they are, for want of room
/// elsewhere: so the server starts on a full disk, and the store takes what is pending. What lies
/// behind them stays, so nothing may be appended to this segment: it passes for full.
fn renew_in_place<D: Disk>(
    disk: &D,
    tail: &SegmentHeader,
    records: u64,
) -> Result<Active<D::File>, OpenError> {
    let name = segment_name(tail.number);
    let file = disk.open(&name).map_err(OpenError::io("open", &name))?;
    let mut bytes = read_whole(&file).map_err(OpenError::io("read", &name))?;
    bytes.truncate((RECORDS_START + records) as usize);
    file.write_at(&bytes, 0).map_err(OpenError::io("write to", &name))?;
    file.sync().map_err(OpenError::io("sync", &name))?;
    Ok(Active { file, header: *tail, name, offset: tail.bytes, seed: tail.seed() })
}
