//! A data directory has one owner.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::RealDisk;

/// The directory that one instance keeps its files in. While it lives, no other process can
/// have it; the operating system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why a data directory can't be had.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It can't be made or written.
    #[error(
        "the data directory {path} can't be used: {reason}. Make it writable for this user, or name \
         another one with --data-dir"
    )]
    Unusable {
        /// Where it is.
        path: PathBuf,
        /// The operating system's words.
        reason: io::Error,
    },
    /// Another process has it.
    #[error(
        "the data directory {path} is in use by another server{owner}. Stop that one, or name another \
         directory with --data-dir: each instance needs one of its own"
    )]
    Owned {
        /// Where it is.
        path: PathBuf,
        /// " (process 42)", where that is known.
        owner: String,
    },
}

impl DataDir {
    /// Takes the directory at `path`, made where it is missing.
    ///
    /// # Errors
    /// See [`DataDirError`].
    pub fn own(path: &Path) -> Result<Self, DataDirError> {
        let unusable = |reason| DataDirError::Unusable { path: path.to_owned(), reason };
        make_durably(path).map_err(unusable)?;
        let lock_path = path.join("lock");
        let mut options = OpenOptions::new();
        let mut lock =
            options.read(true).write(true).create(true).truncate(false).open(lock_path).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let known = lock.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
                let owner = if known { format!(" (process {})", pid.trim()) } else { String::new() };
                return Err(DataDirError::Owned { path: path.to_owned(), owner });
            }
            Err(TryLockError::Error(reason)) => return Err(unusable(reason)),
        }
        // Only for the message above; nothing depends on it being there.
        lock.set_len(0).map_err(unusable)?;
        lock.seek(SeekFrom::Start(0)).map_err(unusable)?;
        writeln!(lock, "{}", std::process::id()).map_err(unusable)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its journal is.
    #[must_use]
    pub fn journal_path(data_dir: &Path) -> PathBuf {
        data_dir.join("journal")
    }

    /// The directory of its journal, made where it is missing.
    ///
    /// # Errors
    /// [`DataDirError::Unusable`].
    pub fn journal(&self) -> Result<RealDisk, DataDirError> {
        let path = Self::journal_path(&self.path);
        RealDisk::new(&path).map_err(|reason| DataDirError::Unusable { path, reason })
    }
}

/// Makes a directory, and those above it, so that their names survive power loss.
pub(crate) fn make_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_durably(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let first = DataDir::own(&path).unwrap();
        let refused = DataDir::own(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        DataDir::own(&path).unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        fs::write(&path, "").unwrap();
        let refused = DataDir::own(&path).unwrap_err().to_string();
        assert!(refused.contains("--data-dir"), "{refused}");
    }
}
