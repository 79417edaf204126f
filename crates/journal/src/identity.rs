//! Which journal a directory holds, and which store it flushes into.

use std::str::FromStr;

use counter::{IdError, JournalId, OwnerId, Seq, StoreId};
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, DiskFile, read_whole};
use crate::error::{Fatal, OpenError};
use crate::format::segment_number;

/// The file's name.
pub(crate) const FILE: &str = "identity.json";
const NEW_FILE: &str = "identity.json.new";
/// How many owners are remembered.
const OWNERS: usize = 16;

/// Kept in `identity.json` beside the segments; replaced atomically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The journal.
    pub journal: JournalId,
    /// The store into which it was flushed so far; `None` before the first start reached one.
    pub store: Option<StoreId>,
    /// The journal that was here before, whose segments may still have to be removed.
    pub previous: Option<JournalId>,
    /// The starts that set out to own the journal in the store, newest first, at most 16. Where
    /// the newest ended too early, or the store forgot its claim, an earlier one owns it still.
    pub owners: Vec<Owner>,
}

/// A start that set out to own the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id.
    pub id: OwnerId,
    /// The newest record when it set out: all that it wrote came after.
    pub after: Seq,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    journal: String,
    store: Option<String>,
    previous: Option<String>,
    owners: Vec<StoredOwner>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredOwner {
    id: String,
    after: u64,
}

impl Identity {
    /// Up to where records that the store holds under `owner` come from this directory; `None`
    /// where no start of it, as far as is remembered, was `owner`.
    #[must_use]
    pub fn reach_of(&self, owner: OwnerId) -> Option<Seq> {
        let at = self.owners.iter().position(|known| known.id == owner)?;
        // The next start began where this one ended.
        Some(at.checked_sub(1).map_or(Seq(u64::MAX), |next| self.owners[next].after))
    }

    /// Remembers a start; `seen` is who owns the journal in the store, who is not forgotten.
    pub(crate) fn add_owner(&mut self, owner: Owner, seen: Option<OwnerId>) {
        self.owners.retain(|known| known.id != owner.id);
        self.owners.insert(0, owner);
        while self.owners.len() > OWNERS {
            let oldest = self.owners.iter().rposition(|known| Some(known.id) != seen);
            self.owners.remove(oldest.unwrap_or(OWNERS));
        }
    }

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
            owners: stored
                .owners
                .iter()
                .map(|owner| Ok(Owner { id: id(&owner.id)?, after: Seq(owner.after) }))
                .collect::<Result<_, OpenError>>()?,
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
            owners: self
                .owners
                .iter()
                .map(|owner| StoredOwner { id: owner.id.to_string(), after: owner.after.0 })
                .collect(),
        };
        let bytes = serde_json::to_vec(&stored).map_err(|error| Fatal::new("encode", FILE)(error.into()))?;
        let file = disk.create(NEW_FILE, bytes.len() as u64).map_err(Fatal::new("create", NEW_FILE))?;
        file.write_at(&bytes, 0).map_err(Fatal::new("write", NEW_FILE))?;
        file.sync().map_err(Fatal::new("sync", NEW_FILE))?;
        disk.rename(NEW_FILE, FILE).map_err(Fatal::new("rename", NEW_FILE))?;
        disk.sync_names().map_err(Fatal::new("sync the directory of", FILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_that_the_store_knows_is_not_forgotten_among_many_starts() {
        let id = |number: u8| OwnerId([number; 16]);
        let journal = JournalId([9; 16]);
        let mut identity = Identity { journal, store: None, previous: None, owners: Vec::new() };
        for number in 1..=40 {
            identity.add_owner(Owner { id: id(number), after: Seq(10 * u64::from(number)) }, Some(id(3)));
        }
        assert_eq!(identity.owners.len(), OWNERS);
        assert_eq!(identity.reach_of(id(40)), Some(Seq(u64::MAX)), "it goes on");
        assert_eq!(identity.reach_of(id(39)), Some(Seq(400)), "the next one began there");
        assert!(identity.reach_of(id(3)).is_some());
        assert_eq!(identity.reach_of(id(4)), None);
        // The same start sets out again.
        identity.add_owner(Owner { id: id(40), after: Seq(400) }, None);
        assert_eq!((identity.owners.len(), identity.owners[1].id), (OWNERS, id(39)));
    }
}
