//! The seam between the journal and its disk: one flat directory.

use std::fmt::Debug;
use std::io;

/// Work for the background, such as preparing the next segment.
pub type Job = Box<dyn FnOnce() + Send>;

/// [`DiskFile::append_at`] writes in multiples of so many bytes where that is quicker.
pub const BLOCK: usize = 4096;

/// One directory on a disk. A clone means the same directory.
pub trait Disk: Clone + Debug + Send + 'static {
    /// An open file of it.
    type File: DiskFile;

    /// The names of all files, in any order.
    ///
    /// # Errors
    /// Those of the operating system.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens an existing file for reading and writing (for reading alone where the directory
    /// was opened so).
    ///
    /// # Errors
    /// Those of the operating system.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Makes a file of `bytes` zeros, really written (not a hole, not "unwritten" extents, so
    /// that overwriting them changes no metadata) and durable, but for its name. Where it fails,
    /// no file stays behind.
    ///
    /// # Errors
    /// `StorageFull`, where there is no room; others of the operating system.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Self::File>;

    /// Gives a file another name; replaces what had that name, atomically.
    ///
    /// # Errors
    /// Those of the operating system.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Those of the operating system.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all names durable (fsync of the directory).
    ///
    /// # Errors
    /// Those of the operating system. Never to be retried.
    fn sync_names(&self) -> io::Result<()>;

    /// Runs jobs one after the other, in the order in which they came, beside the caller (or, in
    /// a simulation, at once).
    fn in_background(&self, job: Job);
}

/// An open file. Reads and writes are at given offsets and do not move.
pub trait DiskFile: Debug + Send + 'static {
    /// Its length in bytes.
    ///
    /// # Errors
    /// Those of the operating system.
    fn size(&self) -> io::Result<u64>;

    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// Those of the operating system.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes`. They survive the process, not yet power loss.
    ///
    /// # Errors
    /// Those of the operating system. Some of it may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// The same at the end of what the file holds: what lies behind `bytes`, up to the next multiple
    /// of [`BLOCK`], becomes zeros or stays as it was. Where a block was begun so, nothing else is to be
    /// written into it.
    ///
    /// # Errors
    /// Those of the operating system. Some of it may have been written.
    fn append_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes all that was written durable (fdatasync).
    ///
    /// # Errors
    /// Those of the operating system. Never to be retried: after a failure, pages may look
    /// written and not be (<https://www.usenix.org/conference/atc20/presentation/rebello>).
    fn sync(&self) -> io::Result<()>;
}

/// Reads a whole file.
pub(crate) fn read_whole(file: &impl DiskFile) -> io::Result<Vec<u8>> {
    let bytes = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut buffer = vec![0; bytes];
    let read = file.read_at(&mut buffer, 0)?;
    buffer.truncate(read);
    Ok(buffer)
}
