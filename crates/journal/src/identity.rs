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
const OWNERS: usize = 48;

/// Kept in `identity.json` beside the segments; replaced atomically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The journal.
    pub journal: JournalId,
    /// The store into which it was flushed so far; `None` before the first start reached one.
    pub store: Option<StoreId>,
    /// The journal that was here before, whose segments may still have to be removed.
    pub previous: Option<JournalId>,
    /// Who owned the journal in the store, newest first, at most 48: the starts that set out to,
    /// and those of other directories from which it was taken back. Where the newest ended too
    /// early, or the store forgot its claim, an earlier one owns it still.
    pub owners: Vec<Owner>,
}

/// An owner of the journal in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id.
    pub id: OwnerId,
    /// What the store holds under this owner up to here are records of this directory; `u64::MAX`
    /// while it is the newest start.
    pub upto: Seq,
    /// It is a start of another directory, from which the journal was taken back before it had
    /// flushed anything: whatever it did flush is not of this one.
    pub foreign: bool,
}

/// The journal's row in the store, as a start finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who owns the journal.
    pub owner: OwnerId,
    /// Up to where the store holds it.
    pub watermark: Seq,
    /// Who flushed up to there, where the store tells.
    pub moved_by: Option<OwnerId>,
}

/// A start that goes on.
const GOES_ON: Seq = Seq(u64::MAX);

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
    upto: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    foreign: bool,
}

impl Identity {
    /// Up to where records that the store holds under `owner` come from this directory; `None`
    /// where it doesn't know, or no longer knows, such an owner.
    #[must_use]
    pub fn reach_of(&self, owner: OwnerId) -> Option<Seq> {
        self.owners.iter().find(|known| known.id == owner).map(|known| known.upto)
    }

    /// Up to where records are of this directory if `owner` flushed them; `None` where it is no
    /// start of this directory, or none that it still knows.
    #[must_use]
    pub fn reach_of_start(&self, owner: OwnerId) -> Option<Seq> {
        let start = self.owners.iter().find(|known| known.id == owner && !known.foreign);
        start.map(|known| known.upto)
    }

    /// Remembers a start, at which the newest record is `last`. `seen` is the journal's row in the
    /// store; all up to its watermark is of this directory.
    pub(crate) fn add_owner(&mut self, owner: OwnerId, last: Seq, seen: Option<Seen>) {
        for known in &mut self.owners {
            known.upto = known.upto.min(last);
        }
        self.owners.retain(|known| known.id != owner);
        if let Some(Seen { owner: id, watermark: upto, .. }) =
            seen.filter(|seen| self.reach_of(seen.owner).is_none())
        {
            self.owners.insert(0, Owner { id, upto, foreign: true });
        }
        self.owners.insert(0, Owner { id: owner, upto: GOES_ON, foreign: false });
        let in_the_row = |id: OwnerId| seen.is_some_and(|seen| seen.owner == id || seen.moved_by == Some(id));
        while self.owners.len() > OWNERS {
            let oldest = self.owners.iter().rposition(|known| !in_the_row(known.id));
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
                .map(|owner| {
                    let (id, upto) = (id(&owner.id)?, owner.upto.map_or(GOES_ON, Seq));
                    Ok(Owner { id, upto, foreign: owner.foreign })
                })
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
                .map(|owner| StoredOwner {
                    id: owner.id.to_string(),
                    upto: Some(owner.upto.0).filter(|_| owner.upto != GOES_ON),
                    foreign: owner.foreign,
                })
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

    const JOURNAL: JournalId = JournalId([9; 16]);

    fn id(number: u8) -> OwnerId {
        OwnerId([number; 16])
    }

    fn seen(owner: u8, watermark: u64, moved_by: Option<u8>) -> Option<Seen> {
        Some(Seen { owner: id(owner), watermark: Seq(watermark), moved_by: moved_by.map(id) })
    }

    #[test]
    fn the_owners_that_the_store_knows_are_not_forgotten_among_many_starts() {
        let mut identity = Identity { journal: JOURNAL, store: None, previous: None, owners: Vec::new() };
        for number in 1..=99 {
            identity.add_owner(id(number), Seq(10 * u64::from(number)), seen(3, 30, Some(2)));
        }
        assert_eq!(identity.owners.len(), OWNERS);
        assert_eq!(identity.reach_of_start(id(2)), Some(Seq(30)), "it flushed last");
        assert_eq!(identity.reach_of(id(99)), Some(GOES_ON));
        assert_eq!(identity.reach_of(id(98)), Some(Seq(990)), "the next one began there");
        assert!(identity.reach_of(id(3)).is_some());
        assert_eq!(identity.reach_of(id(4)), None);
        // The same start sets out again.
        identity.add_owner(id(99), Seq(990), None);
        assert_eq!((identity.owners.len(), identity.owners[1].id), (OWNERS, id(98)));
    }

    #[test]
    fn of_another_directory_only_what_was_seen_is_ours() {
        let mut identity = Identity { journal: JOURNAL, store: None, previous: None, owners: Vec::new() };
        identity.add_owner(id(1), Seq(0), None);
        identity.add_owner(id(2), Seq(20), seen(9, 12, Some(1)));
        let reaches = [1, 2, 9].map(|number| identity.reach_of(id(number)));
        assert_eq!(reaches, [Some(Seq(20)), Some(GOES_ON), Some(Seq(12))]);
        // Seen again, it brought nothing more of ours into the store.
        identity.add_owner(id(3), Seq(30), seen(9, 12, Some(1)));
        let reaches = [2, 9].map(|number| identity.reach_of(id(number)));
        assert_eq!(reaches, [Some(Seq(30)), Some(Seq(12))]);
        // What it flushed never is.
        let reaches = [1, 2, 9].map(|number| identity.reach_of_start(id(number)));
        assert_eq!(reaches, [Some(Seq(20)), Some(Seq(30)), None]);
    }
}
