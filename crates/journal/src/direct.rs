//! Appending past the page cache.
//!
//! A commit writes a few KiB and waits for them. Copied into the page cache first, they have to be
//! found there and written back by the fdatasync that follows; written with `O_DIRECT` they are on
//! their way at once, and fdatasync has only to flush the disk's own cache. That is shorter for
//! whoever waits, and costs less processor time.
//!
//! Direct writes come in whole blocks, so the last one, which is rarely full, is written again with
//! the next record. The page cache does just the same. What was in it does not change, and a disk
//! writes a sector wholly or not at all, so what was durable stays so.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};

use crate::disk::BLOCK;

/// So much is written at once, so that a long record needs no second buffer as long.
const PIECE: usize = 1 << 20;

/// A file that is open for direct writing.
#[derive(Debug)]
pub(crate) struct Direct {
    file: File,
    bytes: u64,
    /// What was written last: whole blocks, the last of which may go on.
    blocks: Aligned,
    /// Where in the file the next byte goes, if the last of `blocks` is what stands before it there.
    end: Option<u64>,
}

impl Direct {
    /// Opens `file` once more. `None` where its file system doesn't say that it can write blocks of
    /// [`BLOCK`] bytes so (Linux tells it from 6.1 on).
    pub(crate) fn of(file: &File) -> Option<Self> {
        let flags = OFlags::DIRECT.bits().cast_signed();
        // By its descriptor: it may have another name by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let file = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
        let about = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN | StatxFlags::SIZE).ok()?;
        let told = StatxFlags::from_bits_retain(about.stx_mask).contains(StatxFlags::DIOALIGN);
        let able = told && fits(about.stx_dio_mem_align) && fits(about.stx_dio_offset_align);
        able.then(|| Self { file, bytes: about.stx_size, blocks: Aligned::default(), end: None })
    }

    /// Writes `bytes` at `offset`, with zeros behind them to the end of their last block; `read`
    /// reads from the same file. `false` where that can't be done in whole blocks: then all of it is
    /// still to be written in another way.
    ///
    /// # Errors
    /// Those of the operating system. Some of it may have been written.
    pub(crate) fn append(
        &mut self,
        bytes: &[u8],
        offset: u64,
        read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    ) -> io::Result<bool> {
        if (offset + bytes.len() as u64).next_multiple_of(BLOCK as u64) > self.bytes {
            return Ok(false);
        }
        let mut at = offset;
        for piece in bytes.chunks(PIECE) {
            match self.append_piece(piece, at, &read) {
                // What was asked for can't be done, whatever statx told. That is no failed write:
                // nothing was begun.
                Err(error) if at == offset && error.kind() == io::ErrorKind::InvalidInput => {
                    return Ok(false);
                }
                Ok(true) => at += piece.len() as u64,
                other => return other,
            }
        }
        Ok(true)
    }

    fn append_piece(
        &mut self,
        piece: &[u8],
        offset: u64,
        read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    ) -> io::Result<bool> {
        let lead = (offset % BLOCK as u64) as usize;
        let begin = offset - lead as u64;
        let blocks = self.blocks.keep_last(lead, (lead + piece.len()).next_multiple_of(BLOCK));
        if self.end != Some(offset) && read(&mut blocks[..lead], begin)? < lead {
            return Ok(false);
        }
        blocks[lead..lead + piece.len()].copy_from_slice(piece);
        blocks[lead + piece.len()..].fill(0);
        self.end = None;
        self.file.write_all_at(blocks, begin)?;
        self.end = Some(offset + piece.len() as u64);
        Ok(true)
    }
}

/// Whether blocks of [`BLOCK`] bytes, at their multiples, are aligned enough. An alignment of 0 says
/// that there is no direct writing.
fn fits(align: u32) -> bool {
    align > 0 && (BLOCK as u32).is_multiple_of(align)
}

/// Memory that begins at a multiple of [`BLOCK`].
#[derive(Debug, Default)]
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// Makes it `len` bytes long, a multiple of [`BLOCK`]. The first `lead` of them, less than a block,
    /// become those that its last block began with.
    fn keep_last(&mut self, lead: usize, len: usize) -> &mut [u8] {
        let last = self.start + self.len.saturating_sub(BLOCK);
        let mut begun = [0; BLOCK];
        let lead = lead.min(self.len);
        begun[..lead].copy_from_slice(&self.bytes[last..last + lead]);
        if self.bytes.len() < len + BLOCK {
            self.bytes = vec![0; len + BLOCK];
        }
        self.start = self.bytes.as_ptr().align_offset(BLOCK);
        self.len = len;
        let blocks = &mut self.bytes[self.start..self.start + len];
        blocks[..lead].copy_from_slice(&begun[..lead]);
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_aligned_to_whatever_divides_it() {
        let aligned = [0, 1, 512, 4096, 8192, 4095, 1 << 31].map(fits);
        assert_eq!(aligned, [false, true, true, true, false, false, false]);
    }
}
