//! Which journal a directory holds, and which store it flushes into.

use std::str::FromStr;

use counter::{IdError, JournalId, OwnerId, StoreId};
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, DiskFile, read_whole};
use crate::error::{Fatal, OpenError};
use crate::format::segment_number;

/// The file's name.
pub(crate) const FILE: &str = "identity.json";
const NEW_FILE: &str = "identity.json.new";

/// Kept in `identity.json` beside the segments; replaced atomically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The journal.
    pub journal: JournalId,
    /// The store into which it was flushed so far; `None` before the first start reached one.
    pub store: Option<StoreId>,
    /// The journal that was here before, whose segments may still have to be removed.
    pub previous: Option<JournalId>,
    /// The newest start that set out to own the journal in the store.
    pub owner: Option<OwnerId>,
    /// Who owned it before: where the newest start ended too early, still does.
    pub owner_before: Option<OwnerId>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    journal: String,
    store: Option<String>,
    previous: Option<String>,
    owner: Option<String>,
    owner_before: Option<String>,
}

impl Identity {
    /// Reads it; `None` where there is no such file.
    pub(crate) fn read(disk: &impl Disk) -> Result<Option<Self>, OpenError> {
        let names = disk.names().map_err(OpenError::io("list", "the directory"))?;
        if !names.iter().any(|name| name == FILE) {
            return Ok(None);
        }
        let file = disk.open(FILE).map_err(OpenError::io("open", FILE))?;
        let bytes = read_whole(&file).map_err(OpenError::io("read", FILE))?;
        let unreadable = |what: String| OpenError::Identity { file: FILE, what };
        let stored: Stored =
            serde_json::from_slice(&bytes).map_err(|error| unreadable(format!("unreadable ({error})")))?;
        if stored.format != crate::format::VERSION {
            let what = format!("format {}", stored.format);
            return Err(OpenError::Newer { file: FILE.to_owned(), offset: 0, what });
        }
        fn id<T: FromStr<Err = IdError>>(text: &str) -> Result<T, OpenError> {
            let what = |error| format!("unreadable ({error})");
            text.parse().map_err(|error| OpenError::Identity { file: FILE, what: what(error) })
        }
        Ok(Some(Self {
            journal: id(&stored.journal)?,
            store: stored.store.as_deref().map(id).transpose()?,
            previous: stored.previous.as_deref().map(id).transpose()?,
            owner: stored.owner.as_deref().map(id).transpose()?,
            owner_before: stored.owner_before.as_deref().map(id).transpose()?,
        }))
    }

    /// Where it is missing, there may be no segment either.
    pub(crate) fn check_missing(disk: &impl Disk) -> Result<(), OpenError> {
        let names = disk.names().map_err(OpenError::io("list", "the directory"))?;
        if names.iter().any(|name| segment_number(name).is_some()) {
            return Err(OpenError::Identity { file: FILE, what: "missing".to_owned() });
        }
        Ok(())
    }

    /// Replaces the file, durably.
    pub(crate) fn write(&self, disk: &impl Disk) -> Result<(), Fatal> {
        let stored = Stored {
            format: crate::format::VERSION,
            journal: self.journal.to_string(),
            store: self.store.map(|id| id.to_string()),
            previous: self.previous.map(|id| id.to_string()),
            owner: self.owner.map(|id| id.to_string()),
            owner_before: self.owner_before.map(|id| id.to_string()),
        };
        let bytes = serde_json::to_vec(&stored).map_err(|error| Fatal::new("encode", FILE)(error.into()))?;
        let file = disk.create(NEW_FILE, bytes.len() as u64).map_err(Fatal::new("create", NEW_FILE))?;
        file.write_at(&bytes, 0).map_err(Fatal::new("write", NEW_FILE))?;
        file.sync().map_err(Fatal::new("sync", NEW_FILE))?;
        disk.rename(NEW_FILE, FILE).map_err(Fatal::new("rename", NEW_FILE))?;
        disk.sync_names().map_err(Fatal::new("sync the directory of", FILE))
    }
}
