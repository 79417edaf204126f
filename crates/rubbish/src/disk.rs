//! A directory in memory, to be damaged between two openings.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use journal::{Disk, DiskFile, Job};

type Content = Arc<Mutex<Vec<u8>>>;

/// No file may be larger: a length that was made up must not become memory.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<BTreeMap<String, Content>>>);

#[derive(Clone, Debug)]
pub(crate) struct MemoryFile(Content);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryDisk {
    pub(crate) fn with(files: &BTreeMap<String, Vec<u8>>) -> Self {
        let files = files.iter().map(|(name, bytes)| (name.clone(), Arc::new(Mutex::new(bytes.clone()))));
        Self(Arc::new(Mutex::new(files.collect())))
    }

    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        lock(&self.0).iter().map(|(name, content)| (name.clone(), lock(content).clone())).collect()
    }

    fn find(&self, name: &str) -> io::Result<Content> {
        lock(&self.0).get(name).cloned().ok_or_else(|| ErrorKind::NotFound.into())
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.0).keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<MemoryFile> {
        self.find(name).map(MemoryFile)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<MemoryFile> {
        if bytes > MAX_BYTES {
            return Err(ErrorKind::StorageFull.into());
        }
        let content = Content::new(Mutex::new(vec![0; bytes as usize]));
        lock(&self.0).insert(name.to_owned(), Arc::clone(&content));
        Ok(MemoryFile(content))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let content = self.find(from)?;
        let mut files = lock(&self.0);
        files.remove(from);
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.0).remove(name).map(drop).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }

    fn in_background(&self, job: Job) {
        job();
    }
}

impl DiskFile for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = lock(&self.0);
        let rest = content.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut content = lock(&self.0);
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= MAX_BYTES);
        let end = end.ok_or(ErrorKind::StorageFull)? as usize;
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn append_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
