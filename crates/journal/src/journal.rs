//! The open journal: appending, group commit, trimming.

use std::collections::VecDeque;
use std::fmt;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use counter::{OwnerId, Seq, StoreId};

use crate::begun::Begun;
use crate::disk::{Disk, DiskFile, Job};
use crate::error::{Fatal, NoRoom};
use crate::format::{Kind, RECORDS_START, Record, RecordBuffer, SegmentHeader, record_bytes, segment_name};
use crate::identity::{Identity, Seen};
use crate::keep::{Sightings, date, surplus};
use crate::prepare::Preparation;

/// Where salts and ids come from: 64 random bits at each call.
pub type Entropy = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How large a journal may be.
#[derive(Clone)]
pub struct Options {
    /// The size of a segment file in bytes. Overwriting one that exists halves the time of a
    /// commit, so they are prepared whole and recycled.
    pub segment_bytes: u64,
    /// How many bytes of segments there may be; at least four segments.
    pub max_bytes: u64,
    /// How long applied segments are kept, as far as `max_bytes` has room for them.
    pub keep: Duration,
    /// Where randomness comes from.
    pub entropy: Entropy,
}

impl Options {
    /// With the operating system's randomness, and nothing kept that the store has.
    #[must_use]
    pub fn new(segment_bytes: u64, max_bytes: u64) -> Self {
        // A salt that repeats would only matter together with a torn write, so a generator
        // without randomness falls back on the time.
        let entropy = || {
            getrandom::u64().unwrap_or_else(|_| {
                let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
                since.as_nanos() as u64
            })
        };
        Self { segment_bytes, max_bytes, keep: Duration::ZERO, entropy: Arc::new(entropy) }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment_bytes, max_bytes, keep, entropy: _ } = self;
        let mut options = f.debug_struct("Options");
        options
            .field("segment_bytes", segment_bytes)
            .field("max_bytes", max_bytes)
            .field("keep", keep)
            .finish()
    }
}

/// The longest payload that a record may have in segments of `segment_bytes`, in bytes.
#[must_use]
pub fn max_payload_bytes(segment_bytes: u64) -> u64 {
    segment_bytes.saturating_sub(RECORDS_START + record_bytes(0)) & !7
}

/// A segment that is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) first: Seq,
    pub(crate) bytes: u64,
    /// Until when it is kept, as of `now_ms`; `None` while the store lacks a part of it.
    pub(crate) kept_until_ms: Option<u64>,
}

impl Segment {
    pub(crate) fn of(header: &SegmentHeader) -> Self {
        Self { number: header.number, first: header.first, bytes: header.bytes, kept_until_ms: None }
    }

    /// Whether the store has it, and it has been kept for long enough.
    pub(crate) fn is_aged(&self, now_ms: u64) -> bool {
        self.kept_until_ms.is_some_and(|until| until <= now_ms)
    }
}

/// The segment that is appended to.
#[derive(Debug)]
pub(crate) struct Active<F> {
    pub(crate) file: F,
    pub(crate) header: SegmentHeader,
    pub(crate) name: String,
    pub(crate) offset: u64,
    pub(crate) seed: u32,
}

/// An append-only log on disk, owned by the engine's writer.
///
/// After [`append`](Self::append) a record survives kill -9; after [`sync`](Self::sync) also
/// power loss. After a [`Fatal`] every further call fails: nothing is ever retried.
#[derive(Debug)]
pub struct Journal<D: Disk> {
    disk: D,
    options: Options,
    identity: Identity,
    /// In order; the last one is the active one, if there is any.
    segments: VecDeque<Segment>,
    /// What all of them take.
    total_bytes: u64,
    active: Option<Active<D::File>>,
    begun: Begun<D::File>,
    preparation: Preparation<D::File>,
    last: Seq,
    durable: Seq,
    applied: Seq,
    /// Until [`resume`](Self::resume).
    sightings: Sightings,
    failed: bool,
    /// What went wrong when trimmed segments were removed: another removal or reuse after it
    /// would leave a gap in the numbers, which the next start would take for damage.
    removal_failed: Arc<Mutex<Option<Fatal>>>,
}

/// What a start found of a journal.
pub(crate) struct Found<F> {
    pub(crate) identity: Identity,
    pub(crate) begun: Begun<F>,
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) active: Option<Active<F>>,
    pub(crate) last: Seq,
    pub(crate) applied: Seq,
    pub(crate) sightings: Sightings,
}

impl<D: Disk> Journal<D> {
    pub(crate) fn with(disk: D, options: Options, found: Found<D::File>) -> Self {
        let Found { identity, begun, segments, active, last, applied, sightings } = found;
        Self {
            disk,
            options,
            identity,
            total_bytes: segments.iter().map(|segment| segment.bytes).sum(),
            segments,
            active,
            begun,
            preparation: Preparation::Idle,
            last,
            durable: last,
            applied,
            sightings,
            failed: false,
            removal_failed: Arc::default(),
        }
    }

    /// Which journal this is, and which store it is flushed into.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The seq of the newest record; 0 before the first.
    #[must_use]
    pub fn last(&self) -> Seq {
        self.last
    }

    /// Every record up to here survives power loss.
    #[must_use]
    pub fn durable(&self) -> Seq {
        self.durable
    }

    /// The store's watermark, as far as this journal has been told.
    #[must_use]
    pub fn applied(&self) -> Seq {
        self.applied
    }

    /// The oldest record that can still be replayed; 1 in a new journal.
    #[must_use]
    pub fn first_kept(&self) -> Seq {
        self.segments.front().map_or(self.last.next(), |segment| segment.first)
    }

    /// How many bytes the segments take on disk that hold what the store doesn't have yet (the
    /// active one included).
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().skip(self.reusable()).map(|segment| segment.bytes).sum()
    }

    /// How many bytes those take that the store has wholly.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.total_bytes - self.bytes()
    }

    /// The longest payload that a record may have, in bytes.
    #[must_use]
    pub fn max_payload_bytes(&self) -> u64 {
        max_payload_bytes(self.options.segment_bytes)
    }

    /// Remembers into which store this journal is flushed, durably.
    ///
    /// # Errors
    /// See [`Fatal`].
    pub fn set_store(&mut self, store: StoreId) -> Result<(), Fatal> {
        self.identity.store = Some(store);
        self.identity.write(&self.disk)
    }

    /// Remembers, durably, that `owner` is about to take the journal over in the store, whose row
    /// of it is as `seen`. To be called before the store hears of it, and when all up to the row's
    /// watermark is known to be of this directory.
    ///
    /// # Errors
    /// See [`Fatal`].
    pub fn set_owner(&mut self, owner: OwnerId, seen: Option<Seen>) -> Result<(), Fatal> {
        self.identity.add_owner(owner, self.last, seen);
        self.identity.write(&self.disk)
    }

    /// Sees to it that a record with such a payload can be appended. It waits for the next
    /// segment only where that is being prepared right now.
    ///
    /// # Errors
    /// See [`NoRoom`]. Nothing was written.
    pub fn make_room(&mut self, payload: usize, now_ms: u64) -> Result<(), NoRoom> {
        self.check_alive()?;
        self.check_removals()?;
        if payload as u64 > self.max_payload_bytes() {
            return Err(NoRoom::TooLarge { max_bytes: self.max_payload_bytes() });
        }
        let need = record_bytes(payload);
        let left = self.active.as_ref().map_or(0, |active| active.header.bytes - active.offset);
        if left < self.options.segment_bytes / 2 || left < need {
            self.begin_next(now_ms)?;
        }
        if need <= left {
            return Ok(());
        }
        self.preparation.look(true, now_ms).inspect_err(|_| self.failed = true)?;
        match &self.preparation {
            Preparation::Ready { .. } => Ok(()),
            Preparation::NoRoom { reason, .. } => Err(NoRoom::DiskFull { reason: reason.clone() }),
            Preparation::Idle | Preparation::Running { .. } => {
                Err(NoRoom::Full { max_bytes: self.options.max_bytes })
            }
        }
    }

    /// Appends the record in `buffer`, for which [`make_room`](Self::make_room) has made room;
    /// `accepted_ms` is when its oldest increment was accepted.
    ///
    /// # Errors
    /// See [`Fatal`]: a failed write is never retried.
    pub fn append(&mut self, kind: Kind, accepted_ms: u64, buffer: &mut RecordBuffer) -> Result<Seq, Fatal> {
        self.check_alive()?;
        let seq = self.last.next();
        let need = record_bytes(buffer.len());
        let outcome = self.write(kind, accepted_ms, need, seq, buffer);
        self.failed |= outcome.is_err();
        outcome.map(|()| {
            self.last = seq;
            seq
        })
    }

    fn write(
        &mut self,
        kind: Kind,
        accepted_ms: u64,
        need: u64,
        seq: Seq,
        buffer: &mut RecordBuffer,
    ) -> Result<(), Fatal> {
        if self.active.as_ref().is_none_or(|active| active.header.bytes - active.offset < need) {
            self.rotate(seq, accepted_ms)?;
        }
        let Some(active) = &mut self.active else { return Err(no_segment()) };
        let unsynced = u32::try_from(self.last.0 - self.durable.0).unwrap_or(u32::MAX);
        let fields = Record { seq, kind, applied: self.applied, accepted_ms, unsynced, payload: &[] };
        let bytes = buffer.seal(&fields, active.seed);
        active.file.append_at(bytes, active.offset).map_err(Fatal::new("write to", &active.name))?;
        active.offset += need;
        Ok(())
    }

    /// Makes the prepared segment the active one, beginning at `first`.
    fn rotate(&mut self, first: Seq, begun_ms: u64) -> Result<(), Fatal> {
        // Only the active segment may hold what is not durable.
        self.sync()?;
        let Some((number, file)) = self.preparation.take() else { return Err(no_segment()) };
        let header = SegmentHeader {
            journal: self.identity.journal,
            number,
            first,
            salt: (self.options.entropy)(),
            bytes: self.options.segment_bytes,
            applied: self.applied,
            begun_ms,
        };
        let name = segment_name(number);
        file.write_at(&header.encode(), 0).map_err(Fatal::new("write to", &name))?;
        self.segments.push_back(Segment::of(&header));
        self.total_bytes += header.bytes;
        self.active = Some(Active { file, header, name, offset: RECORDS_START, seed: header.seed() });
        Ok(())
    }

    /// Makes every record durable (one fdatasync, if anything was appended since the last; one
    /// more for the first record of a segment).
    ///
    /// # Errors
    /// See [`Fatal`]: a failed fdatasync is never retried.
    pub fn sync(&mut self) -> Result<(), Fatal> {
        self.check_alive()?;
        if let Some(active) = self.active.as_ref().filter(|_| self.durable < self.last) {
            let synced = active.file.sync().map_err(Fatal::new("sync", &active.name));
            let synced = synced.and_then(|()| self.begun.mark(active.header.number));
            self.failed |= synced.is_err();
            synced?;
            self.durable = self.last;
        }
        Ok(())
    }

    /// The store has everything up to `upto`: segments that hold nothing newer are recycled or
    /// removed, at the earliest when they have been kept for as long as the options say.
    pub fn trim(&mut self, upto: Seq, now_ms: u64) {
        self.applied = self.applied.max(upto);
        let over = self.total_bytes.saturating_sub(self.options.max_bytes);
        let surplus = self.surplus(over, now_ms);
        let gone = self.drop_first(surplus);
        self.remove(&gone);
    }

    /// How many of the oldest segments have to go, where `over` bytes are too many.
    fn surplus(&mut self, over: u64, now_ms: u64) -> usize {
        let applied = self.reusable();
        let until = now_ms.saturating_add(self.keep_ms());
        let newly = self.segments.iter_mut().take(applied).rev();
        for segment in newly.take_while(|segment| segment.kept_until_ms.is_none()) {
            segment.kept_until_ms = Some(until);
        }
        surplus(&self.segments, applied, over, now_ms)
    }

    /// What the store has at a start, at `now_ms` and `unix_ms`: from here on time is counted in
    /// `now_ms`. A store that forgot has less than this journal saw applied: then that is pending
    /// again.
    pub fn resume(&mut self, watermark: Seq, now_ms: u64, unix_ms: u64) {
        // A start reads the records of the last segment only, so a header has to tell later ones that
        // the store forgot: the active segment passes for full, and the next record begins another.
        if let Some(active) = self.active.as_mut().filter(|_| watermark < self.applied) {
            active.offset = active.header.bytes;
        }
        self.applied = watermark;
        let (applied, keep_ms) = (self.reusable(), self.keep_ms());
        let sightings = std::mem::take(&mut self.sightings);
        date(&mut self.segments, applied, keep_ms, &sightings, now_ms, unix_ms);
        self.trim(watermark, now_ms);
    }

    fn keep_ms(&self) -> u64 {
        u64::try_from(self.options.keep.as_millis()).unwrap_or(u64::MAX)
    }

    /// How many of the oldest segments hold nothing that the store doesn't have. The active one
    /// never counts, and none does before that one was begun durably: a journal without any
    /// segment would not know its own last seq.
    fn reusable(&self) -> usize {
        let Some(active) = self.active.as_ref().filter(|a| self.begun.number() >= a.header.number) else {
            return 0;
        };
        let upto = Seq(self.applied.0.saturating_add(1)).min(active.header.first);
        self.segments.partition_point(|segment| segment.first <= upto).saturating_sub(1)
    }

    /// Starts to prepare the next segment, where that is due.
    fn begin_next(&mut self, now_ms: u64) -> Result<(), Fatal> {
        if !self.preparation.may_start(now_ms) {
            return Ok(());
        }
        // Only the last segment may be without a header after a power failure, so before there
        // is a name after the active one, its header has to be durable (with ack `memory` it may
        // not be yet).
        if self.active.as_ref().is_some_and(|active| self.durable < active.header.first) {
            self.sync()?;
        }
        let Options { segment_bytes, max_bytes, .. } = self.options;
        let number = self.segments.back().map_or(1, |segment| segment.number + 1);
        if self.bytes() + segment_bytes > max_bytes {
            // Forgets an earlier lack of room: now it is the limit that is in the way.
            self.preparation = Preparation::Idle;
            return Ok(());
        }
        // What is pending comes first: kept segments make way for it.
        let over = (self.total_bytes + segment_bytes).saturating_sub(max_bytes);
        let surplus = self.surplus(over, now_ms);
        let no_room = matches!(self.preparation, Preparation::NoRoom { .. });
        let free = self.segments.front().is_some_and(|oldest| oldest.is_aged(now_ms) || no_room);
        let gone = self.drop_first(surplus.max(usize::from(self.reusable() > 0 && free)));
        let reused = match gone[..] {
            [only] if only.bytes == segment_bytes => Some(segment_name(only.number)),
            _ => {
                self.remove(&gone);
                None
            }
        };
        self.preparation = Preparation::start(&self.disk, number, segment_bytes, reused);
        Ok(())
    }

    fn drop_first(&mut self, count: usize) -> Vec<Segment> {
        let gone: Vec<_> = self.segments.drain(..count).collect();
        self.total_bytes -= gone.iter().map(|segment| segment.bytes).sum::<u64>();
        gone
    }

    fn remove(&self, segments: &[Segment]) {
        if !segments.is_empty() {
            let names = segments.iter().map(|segment| segment_name(segment.number)).collect();
            let failure = Arc::clone(&self.removal_failed);
            self.disk.in_background(removal(self.disk.clone(), names, failure));
        }
    }

    pub(crate) fn disk(&self) -> &D {
        &self.disk
    }

    pub(crate) fn begun(&self) -> &Begun<D::File> {
        &self.begun
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Until all that was given to the background is done.
    fn wait_for_background(&self) {
        let (done, all_done) = channel();
        self.disk.in_background(Box::new(move || drop(done)));
        // An error is what it waits for: the other end is gone.
        let _: Result<(), _> = all_done.recv();
    }

    /// Doesn't wait for a removal that is under way.
    fn check_removals(&mut self) -> Result<(), Fatal> {
        let failure = self.removal_failed.try_lock().ok().and_then(|mut failure| failure.take());
        failure.map_or(Ok(()), |fatal| {
            self.failed = true;
            Err(fatal)
        })
    }

    fn check_alive(&self) -> Result<(), Fatal> {
        if !self.failed {
            return Ok(());
        }
        let earlier = std::io::Error::other("an earlier write or sync failed");
        Err(Fatal::new("go on with", "the journal")(earlier))
    }
}

impl<D: Disk> Drop for Journal<D> {
    /// Whoever opens the directory next must not meet a removal that is under way.
    fn drop(&mut self) {
        self.wait_for_background();
    }
}

fn no_segment() -> Fatal {
    Fatal::new("append to", "a segment")(std::io::Error::other("none was prepared"))
}

/// Oldest first, each name durably gone before the next one goes: a gap in the numbers is damage.
fn removal<D: Disk>(disk: D, names: Vec<String>, failure: Arc<Mutex<Option<Fatal>>>) -> Job {
    Box::new(move || {
        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            if failure.is_some() {
                return;
            }
            let removed = disk.remove(&name).and_then(|()| disk.sync_names());
            *failure = removed.map_err(Fatal::new("remove", &name)).err();
        }
    })
}
