//! Which segment was the last to be begun, so that its loss is noticed.
//!
//! The file `begun` beside the segments has two slots, at 0 and at 4096, which are written in turn
//! and in place: that needs no room, and a torn write leaves the other one. A slot has 36 bytes:
//!
//! ```text
//!  0  8  magic "INCRBEGN"
//!  8  4  CRC32C of what follows
//! 12 16  journal id
//! 28  8  number of the last segment that was begun
//! ```
//!
//! A slot is written when header and first record of its segment are durable, and before anybody
//! is told so. So a segment that it names was whole, and one that comes after it holds nothing
//! that was acknowledged.

use counter::JournalId;

use crate::disk::{Disk, DiskFile, read_whole};
use crate::error::{Fatal, OpenError};
use crate::format::{segment_name, u32_at, u64_at};

/// The file's name.
pub(crate) const FILE: &str = "begun";

const MAGIC: &[u8; 8] = b"INCRBEGN";
const SLOT: usize = 36;
const SLOTS: [usize; 2] = [0, 4096];
const FILE_BYTES: u64 = 8192;

/// The number of the last segment that was begun; 0 before the first.
#[derive(Debug)]
pub(crate) struct Begun<F> {
    file: F,
    journal: JournalId,
    number: u64,
}

impl<F: DiskFile> Begun<F> {
    /// Sees to it that the file is there, durably. To be called before there is a journal.
    pub(crate) fn prepare(disk: &impl Disk<File = F>) -> Result<(), OpenError> {
        let names = disk.names().map_err(OpenError::io("list", "the directory"))?;
        if !names.iter().any(|name| name == FILE) {
            disk.create(FILE, FILE_BYTES).map_err(OpenError::io("create", FILE))?;
            disk.sync_names().map_err(OpenError::io("sync the directory of", FILE))?;
        }
        Ok(())
    }

    /// Reads it, for `journal`.
    pub(crate) fn open(disk: &impl Disk<File = F>, journal: JournalId) -> Result<Self, OpenError> {
        let names = disk.names().map_err(OpenError::io("list", "the directory"))?;
        if !names.iter().any(|name| name == FILE) {
            let what = "it is missing; it tells which segment was the last to be begun".to_owned();
            return Err(OpenError::Damaged { file: FILE.to_owned(), offset: 0, what });
        }
        let file = disk.open(FILE).map_err(OpenError::io("open", FILE))?;
        let bytes = read_whole(&file).map_err(OpenError::io("read", FILE))?;
        let slots = SLOTS.iter().filter_map(|&at| decode(bytes.get(at..)?, journal));
        Ok(Self { number: slots.max().unwrap_or(0), file, journal })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Remembers, durably, that the segment of this number was begun, unless that is known.
    pub(crate) fn mark(&mut self, number: u64) -> Result<(), Fatal> {
        if number <= self.number { Ok(()) } else { self.renew(number) }
    }

    /// The same, also where it looks as if that were known: after a failed fdatasync, what can be
    /// read may not be on disk.
    pub(crate) fn renew(&mut self, number: u64) -> Result<(), Fatal> {
        let slot = SLOTS[(number % 2) as usize] as u64;
        self.file.write_at(&encode(self.journal, number), slot).map_err(Fatal::new("write to", FILE))?;
        self.file.sync().map_err(Fatal::new("sync", FILE))?;
        self.number = number;
        Ok(())
    }

    /// Whether the directory holds the last segment that was begun; `last` is the newest one with
    /// a valid header.
    pub(crate) fn check(&self, last: Option<u64>, names: &[u64]) -> Result<(), OpenError> {
        let last = last.unwrap_or(0);
        let (file, what) = if last < self.number {
            let there = names.contains(&self.number);
            let what = if there { "its header fails its checksum in both copies" } else { "it is missing" };
            (segment_name(self.number), format!("{what}, and it was begun"))
        } else if last > self.number.saturating_add(1) {
            let name = segment_name(last);
            (FILE.to_owned(), format!("its checksums fail, or it is an older copy: there is {name}"))
        } else {
            return Ok(());
        };
        Err(OpenError::Damaged { file, offset: 0, what })
    }
}

fn encode(journal: JournalId, number: u64) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(MAGIC);
    slot[12..28].copy_from_slice(&journal.0);
    slot[28..].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&slot[12..]);
    slot[8..12].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(bytes: &[u8], journal: JournalId) -> Option<u64> {
    let slot: &[u8; SLOT] = bytes.first_chunk()?;
    let whole = &slot[..8] == MAGIC && u32_at(slot, 8) == crc32c::crc32c(&slot[12..]);
    // One of another journal was left by the journal that was here before.
    (whole && slot[12..28] == journal.0).then(|| u64_at(slot, 28))
}
