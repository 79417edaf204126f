//! A database, by its rules alone: it shares no code with the stores of the product.

use std::collections::BTreeMap;

use counter::{Applied, Batch, Fingerprint, JournalId, OwnerId, Seq, SetAside};
use store::{Claim, Purge, Purged, Standing};

use crate::sabotage::Sabotage;

/// A row of the table `set_aside`.
#[derive(Clone, Debug)]
pub(crate) struct Aside {
    journal: JournalId,
    seq: Seq,
    pub(crate) key: String,
    pub(crate) value: i128,
    /// Whether it counted before, nobody could tell any more.
    pub(crate) unknowable: bool,
}

/// A row of the table `idempotency_keys`.
#[derive(Clone, Copy, Debug)]
struct Kept {
    fingerprint: Fingerprint,
    journal: JournalId,
    seq: Seq,
    accepted_ms: u64,
}

/// What else a journal's row holds; 0 stands for nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Past {
    pub(crate) flushed_ms: u64,
    pub(crate) written_off_ms: u64,
}

/// A committed state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Db {
    pub(crate) counters: BTreeMap<String, i64>,
    pub(crate) journals: BTreeMap<JournalId, Standing>,
    pub(crate) pasts: BTreeMap<JournalId, Past>,
    /// What was accepted before this may repeat a request whose id has left.
    pub(crate) unknowable_ms: u64,
    /// Whether a journal was ever written off for its silence.
    pub(crate) wrote_off: bool,
    pub(crate) set_aside: Vec<Aside>,
    ids: BTreeMap<String, Kept>,
}

/// What a batch asks for, as the statements of a transaction would hold it.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) claim: Claim,
    pub(crate) from: Seq,
    pub(crate) upto: Seq,
    rows: Vec<(String, Option<i128>)>,
    units: Vec<Unit>,
}

/// An idempotency key, what its request was, when it was accepted, and what it adds to which rows.
type Unit = (String, Fingerprint, u64, Vec<(u32, i64)>);

/// Why a transaction was rolled back.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rollback {
    Fenced(OwnerId),
    Forgot(Seq),
}

impl Transaction {
    pub(crate) fn new(claim: &Claim, batch: &Batch) -> Self {
        let rows = batch.rows().iter();
        let units = batch.units().iter();
        Self {
            claim: *claim,
            from: batch.from(),
            upto: batch.upto(),
            rows: rows.map(|row| (batch.key(row).to_owned(), row.plain.then_some(row.sum))).collect(),
            units: units
                .map(|u| (u.id.to_string(), u.fingerprint, u.accepted_ms, u.increments.clone()))
                .collect(),
        }
    }
}

impl Db {
    /// Commits a transaction, or reads what it came to where it was committed before; nothing has
    /// changed otherwise. `true`: something was written.
    pub(crate) fn apply(
        &mut self,
        transaction: &Transaction,
        sabotage: Option<Sabotage>,
    ) -> Result<(Applied, bool), Rollback> {
        if let Some(rollback) = self.move_watermark(transaction, sabotage) {
            return match rollback {
                Some(rollback) => Err(rollback),
                None => Ok((self.read_back(transaction), false)),
            };
        }
        let mut applied = self.write(transaction, sabotage);
        if sabotage == Some(Sabotage::LoseDuplicates) {
            for &number in &applied.duplicates {
                for &(row, value) in &transaction.units[number as usize].3 {
                    let total = &mut applied.totals[row as usize];
                    *total = total.map(|total| total.saturating_add(value));
                }
            }
        }
        Ok((applied, true))
    }

    /// `None`: it moved. `Some(None)`: it had been moved by the same batch.
    #[allow(clippy::option_option, reason = "two questions, one after the other")]
    pub(crate) fn move_watermark(
        &mut self,
        transaction: &Transaction,
        sabotage: Option<Sabotage>,
    ) -> Option<Option<Rollback>> {
        let Transaction { claim, from, upto, .. } = transaction;
        let Some(standing) = self.journals.get_mut(&claim.journal) else {
            return Some(Some(Rollback::Forgot(Seq::ZERO)));
        };
        if standing.owner != claim.owner && sabotage != Some(Sabotage::IgnoreOwner) {
            return Some(Some(Rollback::Fenced(standing.owner)));
        }
        if standing.watermark == *from || sabotage == Some(Sabotage::NoCompareAndSet) {
            standing.watermark = *upto;
            if standing.moved_by.is_none() || sabotage != Some(Sabotage::KeepMover) {
                standing.moved_by = Some(claim.owner);
            }
            return None;
        }
        if standing.watermark == *upto {
            Some(None)
        } else {
            Some(Some(Rollback::Forgot(standing.watermark)))
        }
    }

    /// Everything of a transaction but the watermark.
    pub(crate) fn write(&mut self, transaction: &Transaction, sabotage: Option<Sabotage>) -> Applied {
        let Transaction { claim, upto, rows, units, .. } = transaction;
        let mut applied = Applied::default();
        let mut sums: Vec<Option<i128>> = rows.iter().map(|(_, sum)| *sum).collect();
        let past = self.pasts.get(&claim.journal).copied().unwrap_or_default();
        let mut unknowable = Vec::new();
        for (number, (id, fingerprint, accepted_ms, increments)) in units.iter().enumerate() {
            let too_old = *accepted_ms < past.written_off_ms && sabotage != Some(Sabotage::CountWrittenOff);
            match self.ids.get(id) {
                None if too_old => unknowable.extend(increments.iter().map(|&(row, value)| SetAside {
                    key: rows[row as usize].0.clone(),
                    value: value.into(),
                    reason: "nobody can tell whether it counted".to_owned(),
                })),
                None => {
                    let (fingerprint, accepted_ms) = (*fingerprint, *accepted_ms);
                    let kept = Kept { fingerprint, journal: claim.journal, seq: *upto, accepted_ms };
                    self.ids.insert(id.clone(), kept);
                    for &(row, value) in increments {
                        *sums[row as usize].get_or_insert(0) += i128::from(value);
                    }
                }
                Some(kept) if kept.fingerprint == *fingerprint => applied.duplicates.push(number as u32),
                Some(_) => applied.set_aside.extend(increments.iter().map(|&(row, value)| SetAside {
                    key: rows[row as usize].0.clone(),
                    value: value.into(),
                    reason: "another request has this idempotency key".to_owned(),
                })),
            }
        }
        for ((key, _), sum) in rows.iter().zip(sums) {
            let Some(sum) = sum else { continue };
            let before = self.counters.get(key).copied();
            match i64::try_from(i128::from(before.unwrap_or(0)) + sum) {
                Ok(total) => drop(self.counters.insert(key.clone(), total)),
                Err(_) => applied.set_aside.push(SetAside {
                    key: key.clone(),
                    value: sum,
                    reason: "past 64 bits".to_owned(),
                }),
            }
        }
        if sabotage == Some(Sabotage::ForgetIds) {
            self.ids.clear();
        }
        if sabotage != Some(Sabotage::DropSetAside) {
            let parts = applied.set_aside.iter().map(|part| (part, false));
            let parts = parts.chain(unknowable.iter().map(|part| (part, true)));
            self.set_aside.extend(parts.map(|(part, unknowable)| Aside {
                journal: claim.journal,
                seq: *upto,
                key: part.key.clone(),
                value: part.value,
                unknowable,
            }));
        }
        applied.set_aside.extend(unknowable);
        applied.totals = rows.iter().map(|(key, _)| self.counters.get(key).copied()).collect();
        applied
    }

    fn read_back(&self, transaction: &Transaction) -> Applied {
        let Transaction { claim, upto, rows, units, .. } = transaction;
        let here = |journal: JournalId, seq: Seq| journal == claim.journal && seq == *upto;
        let mut counted = Vec::new();
        let mut duplicates = Vec::new();
        for (number, (id, fingerprint, ..)) in units.iter().enumerate() {
            let Some(kept) = self.ids.get(id) else { continue };
            if here(kept.journal, kept.seq) && !counted.contains(&id) {
                counted.push(id);
            } else if kept.fingerprint == *fingerprint {
                duplicates.push(number as u32);
            }
        }
        let set_aside = self.set_aside.iter().filter(|aside| here(aside.journal, aside.seq));
        Applied {
            totals: rows.iter().map(|(key, _)| self.counters.get(key).copied()).collect(),
            duplicates,
            set_aside: set_aside
                .map(|aside| SetAside { key: aside.key.clone(), value: aside.value, reason: String::new() })
                .collect(),
        }
    }

    /// The ids that were accepted at `since_ms` or later, newest first.
    pub(crate) fn newest_ids(&self, since_ms: u64) -> Vec<(String, Fingerprint, u64)> {
        let young = self.ids.iter().filter(|(_, kept)| kept.accepted_ms >= since_ms);
        let mut ids: Vec<_> =
            young.map(|(id, kept)| (id.clone(), kept.fingerprint, kept.accepted_ms)).collect();
        ids.sort_by_key(|(.., accepted_ms)| std::cmp::Reverse(*accepted_ms));
        ids
    }

    /// Lets ids leave; `now_ms` is the server's own time. `true`: something was written.
    pub(crate) fn purge(
        &mut self,
        claim: &Claim,
        purge: &Purge,
        now_ms: u64,
        sabotage: Option<Sabotage>,
    ) -> (Purged, bool) {
        let oldest_ms = self.ids.values().map(|kept| kept.accepted_ms).min();
        let mut purged = Purged { oldest_ms, ..Purged::default() };
        let (mut window_ms, mut past_ms) = (purge.window_ms, purge.flushed_past_ms);
        if sabotage == Some(Sabotage::PurgeEarly) {
            window_ms /= 4;
        }
        if sabotage == Some(Sabotage::FlushedPastNow) {
            past_ms = now_ms;
        }
        let kept_ms = window_ms + 2 * (window_ms / 8);
        let old = |oldest_ms: u64, past_ms: u64| oldest_ms + kept_ms < past_ms;
        let Some(oldest_ms) = oldest_ms.filter(|&oldest_ms| old(oldest_ms, past_ms)) else {
            return (purged, false);
        };
        let standing = self.journals.get(&claim.journal);
        if standing.is_none_or(|s| s.owner != claim.owner || s.watermark < purge.watermark) {
            return (purged, false);
        }
        let past_ms = past_ms.min(now_ms);
        let own = self.pasts.entry(claim.journal).or_default();
        own.flushed_ms = past_ms;
        if own.written_off_ms <= past_ms {
            own.written_off_ms = 0;
        }
        let hopeless_ms = past_ms.saturating_sub(7 * window_ms);
        let mut least_ms = u64::MAX;
        for journal in self.journals.keys() {
            let past = self.pasts.entry(*journal).or_default();
            if past.flushed_ms.max(past.written_off_ms) < hopeless_ms && old(oldest_ms, hopeless_ms) {
                if past.written_off_ms == 0 {
                    purged.written_off.push(*journal);
                }
                past.written_off_ms = hopeless_ms;
                self.wrote_off = true;
            }
            if sabotage != Some(Sabotage::PurgeAlone) || *journal == claim.journal {
                least_ms = least_ms.min(past.flushed_ms.max(past.written_off_ms));
            }
        }
        let before = self.ids.len();
        self.ids.retain(|_, kept| !old(kept.accepted_ms, least_ms));
        purged.removed = (before - self.ids.len()) as u64;
        if purged.removed > 0 {
            self.unknowable_ms = self.unknowable_ms.max(least_ms - window_ms / 8);
        }
        (purged, true)
    }
}
