//! The seam over a real directory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::data_dir::make_durably;
use crate::direct::Direct;
use crate::disk::{Disk, DiskFile, Job};

/// How many zeros one write brings while a file is made.
const ZEROS: usize = 1 << 20;

/// A directory of a real file system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    path: Arc<Path>,
    writable: bool,
    /// Whether to append past the page cache.
    direct: bool,
    background: Arc<Mutex<Option<Sender<Job>>>>,
}

impl RealDisk {
    /// The directory at `path`, made (durably) where it is missing. What is appended to its files
    /// goes past the page cache, where the file system can do that.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn new(path: &Path) -> io::Result<Self> {
        make_durably(path)?;
        Ok(Self::at(path, true))
    }

    /// The same directory, with all writes through the page cache: quicker where a sync doesn't follow
    /// each of them.
    #[must_use]
    pub fn through_page_cache(self) -> Self {
        Self { direct: false, ..self }
    }

    /// The directory at `path`, for reading alone: a running server may own it.
    #[must_use]
    pub fn read_only(path: &Path) -> Self {
        Self::at(path, false)
    }

    fn at(path: &Path, writable: bool) -> Self {
        Self { path: path.into(), writable, direct: true, background: Arc::default() }
    }

    fn opened(&self, file: File) -> RealFile {
        RealFile { file, direct: if self.direct { Way::Untried } else { Way::Closed } }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Disk for RealDisk {
    type File = RealFile;

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<RealFile> {
        let file = OpenOptions::new().read(true).write(self.writable).open(self.file(name))?;
        Ok(self.opened(file))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<RealFile> {
        let path = self.file(name);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        let filled = fill(&file, bytes, self.direct);
        if filled.is_err() {
            // Without this the half-made file would keep the room that is missing. The first
            // error is the one to tell.
            let _ = fs::remove_file(&path);
        }
        filled.map(|()| self.opened(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.file(from), self.file(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.file(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn in_background(&self, job: Job) {
        let mut background = self.background.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(mpsc::SendError(job)) = (match &*background {
            Some(jobs) => jobs.send(job),
            None => Err(mpsc::SendError(job)),
        }) else {
            return;
        };
        // The first job, or the thread died of the one before; that one's receiver knows.
        let (jobs, queue) = mpsc::channel::<Job>();
        let started = thread::Builder::new()
            .name("journal-preparer".to_owned())
            .spawn(move || queue.into_iter().for_each(|job| job()));
        match started {
            // The queue's other end is alive: the thread owns it.
            Ok(_detached) => drop(jobs.send(job)),
            Err(_no_threads) => return job(),
        }
        *background = Some(jobs);
    }
}

/// An open file of a [`RealDisk`].
#[derive(Debug)]
pub struct RealFile {
    file: File,
    direct: Way,
}

/// The way past the page cache. Most files are never appended to, so it is tried when one is.
#[derive(Debug)]
enum Way {
    Untried,
    Open(Direct),
    Closed,
}

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<usize> {
        let wanted = buffer.len();
        while !buffer.is_empty() {
            match self.file.read_at(buffer, offset) {
                Ok(0) => break,
                Ok(read) => {
                    buffer = &mut buffer[read..];
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(wanted - buffer.len())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn append_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let direct = match std::mem::replace(&mut self.direct, Way::Closed) {
            Way::Untried => Direct::of(&self.file),
            Way::Open(direct) => Some(direct),
            Way::Closed => None,
        };
        if let Some(mut direct) = direct
            && direct.append(bytes, offset, |into, at| DiskFile::read_at(self, into, at))?
        {
            self.direct = Way::Open(direct);
            return Ok(());
        }
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Reserves first, which fails at once where there is no room, then writes, so that no extent
/// stays "unwritten": turning one into a written one would be a metadata change in every commit.
/// `forget`: nobody reads the zeros from memory.
fn fill(file: &File, bytes: u64, forget: bool) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(error) if error != rustix::io::Errno::OPNOTSUPP => return Err(error.into()),
        // Not every file system can reserve; the writes below then find out.
        _ => {}
    }
    let zeros = vec![0; ZEROS];
    let mut offset = 0;
    while offset < bytes {
        let step = (bytes - offset).min(ZEROS as u64);
        file.write_all_at(&zeros[..step as usize], offset)?;
        offset += step;
    }
    file.sync_all()?;
    if forget {
        // Each direct write would have to drop those that it replaces. Only advice: where it fails,
        // they stay.
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    }
    Ok(())
}
