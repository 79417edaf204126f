//! What a start makes of what it finds.

use counter::{JournalId, Seq, StoreId};

use crate::disk::{Disk, DiskFile};
use crate::error::{Fatal, OpenError};
use crate::format::{RECORDS_START, Record, RecordBuffer, SegmentHeader, segment_name};
use crate::identity::Identity;
use crate::journal::{Active, Journal, Options, Segment};
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
        let Survey { segments, leftovers } = survey(&disk, &identity)?;
        let (active, last_record, cut) = match segments.last() {
            None => (None, None, None),
            Some(tail) => rewrite_tail(&disk, tail, &options)?,
        };
        for name in leftovers.iter().filter(|name| *name != REWRITE) {
            disk.remove(name).map_err(OpenError::io("remove", name))?;
        }
        if !leftovers.is_empty() {
            disk.sync_names().map_err(OpenError::io("sync", "the directory"))?;
        }
        let last = last_record.map_or(Seq::ZERO, |record| record.0);
        let applied = last_record.map_or(Seq::ZERO, |record| record.1);
        let mut segments: Vec<Segment> = segments.iter().map(Segment::of).collect();
        if let (Some(segment), Some(active)) = (segments.last_mut(), &active) {
            segment.bytes = active.header.bytes;
        }
        let journal = Journal::with(disk, options, identity, segments, active, last, applied);
        Ok(Opened { journal, cut })
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
        let headers = survey(self.disk(), self.identity())?.segments;
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
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(options.entropy)().to_le_bytes());
    id[8..].copy_from_slice(&(options.entropy)().to_le_bytes());
    let identity = Identity {
        journal: JournalId(id),
        store: after.map(|(_, store)| store),
        previous: after.map(|(previous, _)| previous),
        owner: None,
        owner_before: None,
    };
    identity.write(disk).map_err(fatal_open)?;
    Ok(identity)
}

fn fatal_open(fatal: Fatal) -> OpenError {
    OpenError::Io { action: fatal.action, file: fatal.file, reason: fatal.reason }
}

/// The active segment, (seq, applied) of its last record, and what was cut off.
type Tail<F> = (Option<Active<F>>, Option<(Seq, Seq)>, Option<Cut>);

fn rewrite_tail<D: Disk>(
    disk: &D,
    tail: &SegmentHeader,
    options: &Options,
) -> Result<Tail<D::File>, OpenError> {
    let header =
        SegmentHeader { salt: (options.entropy)(), bytes: tail.bytes.max(options.segment_bytes), ..*tail };
    let seed = header.seed();
    let mut image = header.encode();
    let mut buffer = RecordBuffer::default();
    let mut last = None;
    let report = read_segment(disk, tail, None, &mut |_, _, record| {
        buffer.clear();
        buffer.extend(record.payload);
        image.extend_from_slice(buffer.seal(&Record { unsynced: 0, ..*record }, seed));
        last = Some((record.seq, record.applied));
        Ok(())
    })?;
    let Some(last) = last else {
        // Header and first record are made durable together, so a header alone is a torn commit,
        // and what came before is the tail. But the segment before it may be gone by now only if
        // a record of this one was durable. So the header stays, for its place in the sequence.
        return Ok((Some(write_image(disk, header, &mut image)?), previous_of(tail), cut_of(&report)));
    };
    Ok((Some(write_image(disk, header, &mut image)?), Some(last), cut_of(&report)))
}

/// What the header of a segment without records says of the record before it.
fn previous_of(tail: &SegmentHeader) -> Option<(Seq, Seq)> {
    (tail.first.0 > 1).then(|| (Seq(tail.first.0 - 1), Seq::ZERO))
}

fn cut_of(report: &crate::SegmentReport) -> Option<Cut> {
    match report.end {
        TailEnd::Clean => None,
        TailEnd::Torn { offset } => Some(Cut { file: report.file.clone(), offset, seq: report.last.next() }),
    }
}

/// Takes the tail's place with `image`, which begins with `header`. Where the disk has no room for
/// a whole segment, one without room for more has to do: the server can start, and the store
/// takes what is pending.
fn write_image<D: Disk>(
    disk: &D,
    mut header: SegmentHeader,
    image: &mut [u8],
) -> Result<Active<D::File>, OpenError> {
    let name = segment_name(header.number);
    let mut created = disk.create(REWRITE, header.bytes);
    if created.as_ref().is_err_and(is_no_room) {
        header.bytes = (image.len() as u64).next_multiple_of(RECORDS_START);
        image[..RECORDS_START as usize].copy_from_slice(&header.encode());
        created = disk.create(REWRITE, header.bytes);
    }
    let file = created.map_err(OpenError::io("create", REWRITE))?;
    file.write_at(image, 0).map_err(OpenError::io("write", REWRITE))?;
    file.sync().map_err(OpenError::io("sync", REWRITE))?;
    disk.rename(REWRITE, &name).map_err(OpenError::io("rename", REWRITE))?;
    disk.sync_names().map_err(OpenError::io("sync the directory of", &name))?;
    Ok(Active { file, header, name, offset: image.len() as u64, seed: header.seed() })
}
