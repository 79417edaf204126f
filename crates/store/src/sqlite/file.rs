//! The file, opened when first used, and again when it is another.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::faults::{Fault, is_busy};

/// How long to wait for another process that writes.
const WRITER_PATIENCE: Duration = Duration::from_secs(5);
/// Readers wait only while a crashed writer's log is recovered.
const READER_PATIENCE: Duration = Duration::from_secs(2);

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
pub(crate) struct File {
    path: PathBuf,
    usage: Use,
    open: Option<(Connection, Identity)>,
}

/// Device and inode.
type Identity = (u64, u64);

impl File {
    pub(crate) fn new(path: &Path, usage: Use) -> Self {
        Self { path: path.to_owned(), usage, open: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The connection to the file of that name, which may have been replaced since the last call:
    /// a deleted file would go on taking totals that nobody sees again.
    pub(crate) fn connection(&mut self) -> Result<&mut Connection, Fault> {
        let identity = identity(&self.path).map_err(|error| self.not_there(&error))?;
        let (connection, _) = match self.open.take() {
            Some(open) if open.1 == identity => self.open.insert(open),
            _ => {
                let opened = open(&self.path, self.usage)?;
                self.open.insert((opened, identity))
            }
        };
        Ok(connection)
    }

    /// Makes the file where it is missing.
    pub(crate) fn create(&mut self) -> Result<(), Fault> {
        let made =
            fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.path);
        made.map_err(|error| self.not_there(&error))?;
        Ok(())
    }

    fn not_there(&self, error: &std::io::Error) -> Fault {
        use std::io::ErrorKind;
        let path = self.path.display();
        match error.kind() {
            ErrorKind::NotFound if directory(&self.path).is_dir() => {
                Fault::Away(format!("the SQLite file {path} is not there"))
            }
            ErrorKind::NotFound => {
                Fault::Refused(format!("the directory of the SQLite file {path} is missing: make it"))
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Fault::Refused(format!(
                "the SQLite file {path} can't be opened ({error}): the user of this process needs to write to it and to \
                 its directory"
            )),
            ErrorKind::IsADirectory => {
                Fault::Refused(format!("{path} is a directory: name a file in the store's URL"))
            }
            _ => Fault::Away(format!("the SQLite file {path} can't be opened: {error}")),
        }
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

fn identity(path: &Path) -> std::io::Result<Identity> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn open(path: &Path, usage: Use) -> Result<Connection, Fault> {
    if path.is_dir() {
        let path = path.display();
        return Err(Fault::Refused(format!("{path} is a directory: name a file in the store's URL")));
    }
    // A reader needs write access too, for the index of the write-ahead log.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(32);
    match usage {
        Use::Write => {
            connection.busy_timeout(WRITER_PATIENCE)?;
            // Before WAL, so that the switch itself is synced. `fullfsync` matters on macOS.
            connection.execute_batch(
                "PRAGMA synchronous = FULL;
                 PRAGMA fullfsync = 1;
                 PRAGMA checkpoint_fullfsync = 1;
                 PRAGMA cache_size = -65536;
                 PRAGMA journal_size_limit = 67108864;",
            )?;
            write_ahead(&connection, path)?;
        }
        Use::Read => {
            connection.busy_timeout(READER_PATIENCE)?;
            connection.execute_batch("PRAGMA query_only = 1; PRAGMA cache_size = -16384;")?;
        }
    }
    let encoding: String = connection.query_row("PRAGMA encoding", [], |row| row.get(0))?;
    if encoding != "UTF-8" {
        return Err(Fault::Refused(format!(
            "{} has the encoding {encoding}, in which keys sort differently: name another file in the store's URL",
            path.display()
        )));
    }
    Ok(connection)
}

/// Turns write-ahead logging on. Of several connections that try it at the same moment one may
/// be turned away at once, whatever its busy time-out.
fn write_ahead(connection: &Connection, path: &Path) -> Result<(), Fault> {
    let deadline = Instant::now() + WRITER_PATIENCE;
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
            path = %path.display(), mode,
            "SQLite can't use a write-ahead log here, so that readers and the writer wait for each other."
        );
    }
    Ok(())
}
