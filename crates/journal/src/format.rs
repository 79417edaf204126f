//! The journal's format, version 1.
//!
//! A segment is a file named `{number:012}.segment`. All numbers in it are little-endian.
//!
//! ```text
//! offset 0     segment header, first copy
//! offset 2048  segment header, second copy
//! offset 4096  records, each aligned to 8 bytes, to the first that fails its checksum
//! ```
//!
//! Segment header, 80 bytes. There are two copies, so that a damaged sector is told from a
//! segment that was never begun:
//!
//! ```text
//!  0  8  magic "INCRJRNL"
//!  8  4  version of the format: 1
//! 12  4  CRC32C of the 80 bytes with these four taken as 0
//! 16 16  journal id
//! 32  8  segment number, as in the file's name
//! 40  8  seq of the first record
//! 48  8  salt: random, chosen anew for each use of the file
//! 56  8  size of the file
//! 64  8  applied: the store's watermark, as known when the segment was begun
//! 72  8  begun: when that was, milliseconds since the Unix epoch
//! ```
//!
//! Record, 40 bytes and a payload:
//!
//! ```text
//!  0  4  CRC32C of all that follows, payload included, seeded with journal id and salt
//!  4  4  length of the payload in bytes
//!  8  8  seq
//! 16  8  applied: the store's watermark, as known when the record was written
//! 24  8  accepted: when its oldest increment was accepted, milliseconds since the Unix epoch
//! 32  4  unsynced: how many records before it were not durable yet when it was written (0
//!        unless ack is `memory`)
//! 36  1  kind: 1 increments, 2 mark; others are for later
//! 37  3  zero
//! 40     payload, padded with zeros to a multiple of 8
//! ```
//!
//! The payload of kind 1 is packed increments (see `counter::Entries`). A mark has none: it only
//! carries `applied` when no increments came to carry it.

use counter::{JournalId, Seq};

/// Where records begin in a segment.
pub const RECORDS_START: u64 = 4096;
/// A record without its payload, in bytes.
pub const RECORD_HEADER: usize = 40;
/// The version that this code writes and reads.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"INCRJRNL";
const SEGMENT_HEADER: usize = 80;
const SECOND_COPY: usize = 2048;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Packed increments.
    Increments,
    /// Nothing but its header.
    Mark,
    /// Written by a newer version.
    Unknown(u8),
}

impl Kind {
    fn to_byte(self) -> u8 {
        match self {
            Self::Increments => 1,
            Self::Mark => 2,
            Self::Unknown(byte) => byte,
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Increments,
            2 => Self::Mark,
            other => Self::Unknown(other),
        }
    }
}

/// One record, as it stands in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its position.
    pub seq: Seq,
    /// What it is.
    pub kind: Kind,
    /// The store's watermark, as known when it was written.
    pub applied: Seq,
    /// When its oldest increment was accepted, milliseconds since the Unix epoch.
    pub accepted_ms: u64,
    /// How many records before it were not durable when it was written.
    pub unsynced: u32,
    /// Its content.
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Every record up to here was durable when this one was written.
    #[must_use]
    pub fn durable_before(&self) -> Seq {
        Seq(self.seq.0.saturating_sub(1 + u64::from(self.unsynced)))
    }

    /// What it takes in a segment, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        record_bytes(self.payload.len())
    }
}

/// What a record with such a payload takes in a segment, in bytes.
#[must_use]
pub fn record_bytes(payload: usize) -> u64 {
    ((RECORD_HEADER + payload).next_multiple_of(8)) as u64
}

/// The beginning of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The journal that it belongs to.
    pub journal: JournalId,
    /// As in the file's name.
    pub number: u64,
    /// The seq of its first record.
    pub first: Seq,
    /// Makes the checksums of this use of the file differ from those of any other.
    pub salt: u64,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// The store's watermark, as known when the segment was begun.
    pub applied: Seq,
    /// When it was begun, milliseconds since the Unix epoch.
    pub begun_ms: u64,
}

/// What stands where a segment header should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderRead {
    /// A header; the other copy may be lost.
    Valid(SegmentHeader),
    /// A header that a newer version wrote.
    Newer(u32),
    /// Neither copy is a header.
    Nothing,
}

impl SegmentHeader {
    /// Both copies, with zeros around them: the first [`RECORDS_START`] bytes of a segment.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut copy = [0; SEGMENT_HEADER];
        copy[..8].copy_from_slice(MAGIC);
        copy[8..12].copy_from_slice(&VERSION.to_le_bytes());
        copy[16..32].copy_from_slice(&self.journal.0);
        copy[32..40].copy_from_slice(&self.number.to_le_bytes());
        copy[40..48].copy_from_slice(&self.first.0.to_le_bytes());
        copy[48..56].copy_from_slice(&self.salt.to_le_bytes());
        copy[56..64].copy_from_slice(&self.bytes.to_le_bytes());
        copy[64..72].copy_from_slice(&self.applied.0.to_le_bytes());
        copy[72..80].copy_from_slice(&self.begun_ms.to_le_bytes());
        let crc = crc32c::crc32c(&copy);
        copy[12..16].copy_from_slice(&crc.to_le_bytes());
        let mut block = vec![0; RECORDS_START as usize];
        block[..SEGMENT_HEADER].copy_from_slice(&copy);
        block[SECOND_COPY..SECOND_COPY + SEGMENT_HEADER].copy_from_slice(&copy);
        block
    }

    /// Reads the header of a segment; `number` is that of the file's name, and a copy with
    /// another number is left from an earlier use of the file.
    #[must_use]
    pub fn decode(segment: &[u8], number: u64) -> HeaderRead {
        let copies = [0, SECOND_COPY].map(|at| Self::decode_copy(segment.get(at..)?, number));
        copies.into_iter().flatten().next().unwrap_or(HeaderRead::Nothing)
    }

    fn decode_copy(bytes: &[u8], number: u64) -> Option<HeaderRead> {
        let mut copy: [u8; SEGMENT_HEADER] = *bytes.first_chunk()?;
        if &copy[..8] != MAGIC {
            return None;
        }
        let crc = u32_at(&copy, 12);
        copy[12..16].fill(0);
        if crc32c::crc32c(&copy) != crc {
            return None;
        }
        if u32_at(&copy, 8) != VERSION {
            return Some(HeaderRead::Newer(u32_at(&copy, 8)));
        }
        let mut journal = [0; 16];
        journal.copy_from_slice(&copy[16..32]);
        let header = Self {
            journal: JournalId(journal),
            number: u64_at(&copy, 32),
            first: Seq(u64_at(&copy, 40)),
            salt: u64_at(&copy, 48),
            bytes: u64_at(&copy, 56),
            applied: Seq(u64_at(&copy, 64)),
            begun_ms: u64_at(&copy, 72),
        };
        (header.number == number).then_some(HeaderRead::Valid(header))
    }

    /// What the checksums of its records start from.
    #[must_use]
    pub fn seed(&self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.journal.0), &self.salt.to_le_bytes())
    }
}

/// A record in the making: payload is appended to it, the header is filled in when it is
/// written. It keeps its memory from one commit to the next.
#[derive(Clone, Debug)]
pub struct RecordBuffer {
    bytes: Vec<u8>,
}

impl Default for RecordBuffer {
    fn default() -> Self {
        Self { bytes: vec![0; RECORD_HEADER] }
    }
}

impl RecordBuffer {
    /// How many bytes of payload it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - RECORD_HEADER
    }

    /// Whether it holds no payload.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends to the payload.
    #[inline]
    pub fn extend(&mut self, payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
    }

    /// Cuts the payload to `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(RECORD_HEADER + len);
    }

    /// Empties it for the next record.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[RECORD_HEADER..]
    }

    /// Fills in header and padding; the whole record. The record's own payload is not looked at.
    pub(crate) fn seal(&mut self, header: &Record<'_>, seed: u32) -> &[u8] {
        let payload = self.len();
        self.bytes.resize((RECORD_HEADER + payload).next_multiple_of(8), 0);
        self.bytes[4..8].copy_from_slice(&(payload as u32).to_le_bytes());
        self.bytes[8..16].copy_from_slice(&header.seq.0.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&header.applied.0.to_le_bytes());
        self.bytes[24..32].copy_from_slice(&header.accepted_ms.to_le_bytes());
        self.bytes[32..36].copy_from_slice(&header.unsynced.to_le_bytes());
        self.bytes[36..40].copy_from_slice(&[header.kind.to_byte(), 0, 0, 0]);
        let crc = crc32c::crc32c_append(seed, &self.bytes[4..RECORD_HEADER + payload]);
        self.bytes[..4].copy_from_slice(&crc.to_le_bytes());
        &self.bytes
    }
}

/// Reads the record that begins at the front of `bytes`, if its checksum holds.
#[must_use]
pub fn decode_record(bytes: &[u8], seed: u32) -> Option<Record<'_>> {
    let header: &[u8; RECORD_HEADER] = bytes.first_chunk()?;
    let payload_bytes = u32_at(header, 4) as usize;
    let end = RECORD_HEADER.checked_add(payload_bytes)?;
    let payload = bytes.get(RECORD_HEADER..end)?;
    if crc32c::crc32c_append(seed, &bytes[4..end]) != u32_at(header, 0) {
        return None;
    }
    Some(Record {
        seq: Seq(u64_at(header, 8)),
        kind: Kind::from_byte(header[36]),
        applied: Seq(u64_at(header, 16)),
        accepted_ms: u64_at(header, 24),
        unsynced: u32_at(header, 32),
        payload,
    })
}

/// The seq that stands in what may be a record's header; to find candidates cheaply.
pub(crate) fn peek_seq(bytes: &[u8]) -> Option<Seq> {
    (bytes.len() >= RECORD_HEADER).then(|| Seq(u64_at(bytes, 8)))
}

/// The name of a segment's file.
#[must_use]
pub fn segment_name(number: u64) -> String {
    format!("{number:012}.segment")
}

/// The number in a segment's name; `None` for other files.
#[must_use]
pub fn segment_number(name: &str) -> Option<u64> {
    let number: u64 = name.strip_suffix(".segment")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(number: u64) -> SegmentHeader {
        SegmentHeader {
            journal: JournalId([3; 16]),
            number,
            first: Seq(9),
            salt: 77,
            bytes: 1 << 20,
            applied: Seq(4),
            begun_ms: 1_700_000_000_000,
        }
    }

    #[test]
    fn either_copy_of_the_header_is_enough() {
        let block = header(5).encode();
        for lost in [0, SECOND_COPY] {
            let mut damaged = block.clone();
            damaged[lost + 20] ^= 1;
            assert_eq!(SegmentHeader::decode(&damaged, 5), HeaderRead::Valid(header(5)));
            damaged[(lost + SECOND_COPY) % 4096 + 75] ^= 1;
            assert_eq!(SegmentHeader::decode(&damaged, 5), HeaderRead::Nothing);
        }
        assert_eq!(SegmentHeader::decode(&block, 6), HeaderRead::Nothing, "left from an earlier use");
        assert_eq!(SegmentHeader::decode(&block[..100], 5), HeaderRead::Valid(header(5)));
        assert_eq!(SegmentHeader::decode(&[], 5), HeaderRead::Nothing);
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed() {
        let seed = header(5).seed();
        let fields = Record {
            seq: Seq(12),
            kind: Kind::Increments,
            applied: Seq(4),
            accepted_ms: 1_700_000_000_000,
            unsynced: 3,
            payload: &[],
        };
        let mut buffer = RecordBuffer::default();
        buffer.extend(b"some payload");
        let bytes = buffer.seal(&fields, seed).to_vec();
        let read = decode_record(&bytes, seed).unwrap();
        assert_eq!(read, Record { payload: b"some payload", ..fields });
        assert_eq!((read.durable_before(), read.bytes()), (Seq(8), bytes.len() as u64));
        assert_eq!(decode_record(&bytes, seed ^ 1), None, "another salt");
        for bit in 0..(RECORD_HEADER + 12) * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_record(&damaged, seed), None, "bit {bit}");
        }
    }

    #[test]
    fn only_exact_names_are_segments() {
        assert_eq!(segment_number(&segment_name(42)), Some(42));
        for name in ["42.segment", "000000000042.segmen", "identity.json", "00000000004x.segment"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
