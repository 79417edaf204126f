//! The file, opened when first used, and again when it is another.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::{Access, access};

use super::faults::{Fault, is_busy};

/// How long a writer waits for another process that writes.
pub(crate) const WRITER_PATIENCE: Duration = Duration::from_secs(5);
/// Readers wait only while a crashed writer's log is recovered.
pub(crate) const READER_PATIENCE: Duration = Duration::from_secs(2);

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Write,
    Read,
}

/// A database file and the connection to it.
///
/// After an error the connection stays. That matters when a sync failed: what was written before
/// it may look durable and not be, and a new connection would take it for committed. This one
/// knows that it was not, and writes and syncs it again.
///
/// Nothing here opens the file other than through SQLite: closing it would give up the locks that
/// other connections of this process hold on it (see <https://www.sqlite.org/howtocorrupt.html>).
pub(crate) struct File {
    path: PathBuf,
    usage: Use,
    patience: Duration,
    open: Option<(Connection, Identity)>,
}

/// Device and inode.
type Identity = (u64, u64);

impl File {
    /// `patience` is how long a call waits while another process is in the way.
    pub(crate) fn new(path: &Path, usage: Use, patience: Duration) -> Self {
        Self { path: path.to_owned(), usage, patience, open: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The connection to the file of that name, which may have been replaced since the last call:
    /// a deleted file would go on taking totals that nobody sees again.
    pub(crate) fn connection(&mut self) -> Result<&mut Connection, Fault> {
        let identity = self
            .identity()?
            .ok_or_else(|| Fault::Away(format!("the SQLite file {} is not there", self.path.display())))?;
        let open = match self.open.take() {
            Some(open) if open.1 == identity => open,
            _ => (self.connect(OpenFlags::empty())?, identity),
        };
        Ok(&mut self.open.insert(open).0)
    }

    /// Makes the file where it is missing.
    pub(crate) fn create(&mut self) -> Result<(), Fault> {
        if self.identity()?.is_none() {
            // Dropped at once: by now the name may stand for the file of another process.
            self.connect(OpenFlags::SQLITE_OPEN_CREATE)?;
        }
        Ok(())
    }

    /// `None` where there is no such file.
    fn identity(&self) -> Result<Option<Identity>, Fault> {
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.is_dir() => Err(Fault::Refused(format!(
                "{} is a directory: name a file in the store's URL",
                self.path.display()
            ))),
            Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Fault::Away(format!(
                "the SQLite file {} can't be looked at: {error}",
                self.path.display()
            ))),
        }
    }

    fn connect(&self, more: OpenFlags) -> Result<Connection, Fault> {
        // A reader needs write access too, for the index of the write-ahead log.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
        let opened = Connection::open_with_flags(&self.path, flags).and_then(|connection| {
            connection.busy_timeout(self.patience)?;
            connection.set_prepared_statement_cache_capacity(32);
            connection.execute_batch(match self.usage {
                // Before WAL, so that the switch itself is synced. `fullfsync` matters on macOS.
                Use::Write => {
                    "PRAGMA synchronous = FULL;
                     PRAGMA fullfsync = 1;
                     PRAGMA checkpoint_fullfsync = 1;
                     PRAGMA cache_size = -65536;
                     PRAGMA journal_size_limit = 67108864;"
                }
                Use::Read => "PRAGMA query_only = 1; PRAGMA cache_size = -16384;",
            })?;
            Ok(connection)
        });
        let connection = opened.map_err(|error| self.not_opened(error, more))?;
        if self.usage == Use::Write {
            self.write_ahead(&connection)?;
        }
        let encoding: String = connection.query_row("PRAGMA encoding", [], |row| row.get(0))?;
        if encoding != "UTF-8" {
            return Err(Fault::Refused(format!(
                "{} has the encoding {encoding}, in which keys sort differently: name another file in the store's URL",
                self.path.display()
            )));
        }
        Ok(connection)
    }

    /// SQLite doesn't tell why it can't open a file.
    fn not_opened(&self, error: rusqlite::Error, flags: OpenFlags) -> Fault {
        if error.sqlite_error_code() != Some(ErrorCode::CannotOpen) {
            return error.into();
        }
        let (path, directory) = (self.path.display(), directory(&self.path));
        if !directory.is_dir() {
            return Fault::Refused(format!("the directory of the SQLite file {path} is missing: make it"));
        }
        let wanted = if self.path.exists() { &self.path } else { directory };
        match access(wanted, Access::READ_OK | Access::WRITE_OK) {
            Err(denied) => Fault::Refused(format!(
                "the SQLite file {path} can't be opened ({denied}): the user of this process needs to write to it and \
                 to its directory"
            )),
            Ok(()) if flags.contains(OpenFlags::SQLITE_OPEN_CREATE) => {
                Fault::Refused(format!("the SQLite file {path} can't be made: {error}"))
            }
            Ok(()) => Fault::Away(format!("the SQLite file {path} can't be opened: {error}")),
        }
    }

    /// Turns write-ahead logging on. Of several connections that try it at the same moment one
    /// may be turned away at once, whatever its busy time-out.
    fn write_ahead(&self, connection: &Connection) -> Result<(), Fault> {
        let deadline = Instant::now() + self.patience;
        let mode = loop {
            match connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)) {
                Err(error) if is_busy(&error) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => break result?,
            }
        };
        if mode != "wal" {
            tracing::warn!(
                path = %self.path.display(), mode,
                "SQLite can't use a write-ahead log here, so that readers and the writer wait for each other."
            );
        }
        Ok(())
    }
}

/// The directory that a file is in.
pub(crate) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if directory.as_os_str().is_empty() => Path::new("."),
        Some(directory) => directory,
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_survives_power_loss() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = File::new(&folder.path().join("x.db"), Use::Write, WRITER_PATIENCE);
        file.create().unwrap();
        let setting = |file: &mut File, name: &str| {
            let pragma = format!("PRAGMA {name}");
            let value = |row: &rusqlite::Row<'_>| row.get::<_, rusqlite::types::Value>(0);
            file.connection().unwrap().query_row(&pragma, [], value).unwrap()
        };
        assert_eq!(setting(&mut file, "synchronous"), 2.into());
        assert_eq!(setting(&mut file, "journal_mode"), "wal".to_owned().into());
    }
}
