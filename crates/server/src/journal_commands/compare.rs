//! Whether a journal adds up to the table that it was flushed into.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use anyhow::Context;
use counter::{Decoder, Entry, JournalId, Seq};
use journal::{DataDir, RealDisk, Record, read_all};
use store::StoreUrl;

/// Adds up the whole journal in `data_dir`, to the store's watermark, and compares; a sentence on
/// the outcome.
///
/// # Errors
/// The journal or the table can't be read, or they differ.
pub(super) fn with_table(data_dir: &Path, journal: JournalId, url: &StoreUrl) -> anyhow::Result<String> {
    if url.sqlite_path().is_some_and(|file| !file.exists()) {
        return Ok(format!("not compared with the table: there is no {url} yet"));
    }
    let others = match store::open_reader(url)?.others(journal) {
        Ok(others) => others,
        Err(error) => return Ok(format!("not compared with the table: {error}")),
    };
    if others.iter().any(|(_, watermark)| *watermark > Seq::ZERO) {
        return Ok("not compared with the table: other journals were flushed into it too".to_owned());
    }
    let mut table = BTreeMap::new();
    let watermark = store::open(url)?
        .load(journal, &mut |key, total| {
            table.insert(key.to_owned(), i128::from(total));
            Ok(())
        })
        .context("the table can't be read")?;
    let mut sums = Sums { upto: watermark, by_key: BTreeMap::new(), ids: HashSet::new() };
    read_all(&RealDisk::read_only(&DataDir::journal_path(data_dir)), &mut |_, _, record| {
        sums.add(record);
        Ok(())
    })?;
    match first_difference(&sums.by_key, &table) {
        None => Ok(format!("up to seq {watermark} it adds up to the table: {} keys", table.len())),
        Some(difference) => anyhow::bail!(
            "up to seq {watermark} the journal doesn't add up to the table: {difference}. Was the table \
            changed by hand, or a part put into set_aside?"
        ),
    }
}

/// What the journal adds up to.
struct Sums {
    upto: Seq,
    by_key: BTreeMap<String, i128>,
    ids: HashSet<String>,
}

impl Sums {
    fn add(&mut self, record: &Record<'_>) {
        if record.seq > self.upto {
            return;
        }
        let (mut owed, mut counts) = (0, true);
        for entry in Decoder::new(record.payload).flatten() {
            match entry {
                // The store counts an id once.
                Entry::Unit(unit) => (owed, counts) = (unit.count, self.ids.insert(unit.id.to_owned())),
                Entry::Increment { key, value } => {
                    if owed == 0 || counts {
                        *self.by_key.entry(key.to_owned()).or_default() += i128::from(value);
                    }
                    owed = owed.saturating_sub(1);
                }
            }
        }
    }
}

fn first_difference(journal: &BTreeMap<String, i128>, table: &BTreeMap<String, i128>) -> Option<String> {
    let told = |sum: Option<&i128>| sum.map_or("nothing".to_owned(), ToString::to_string);
    let mut keys = journal.keys().chain(table.keys());
    let key = keys.find(|key| journal.get(*key) != table.get(*key))?;
    Some(format!(
        "{key:?} is {} in the journal and {} in the table",
        told(journal.get(key)),
        told(table.get(key))
    ))
}
