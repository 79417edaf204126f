//! A database, by its rules alone: it shares no code with the stores of the product.

use std::collections::BTreeMap;

use counter::{Applied, Batch, Fingerprint, JournalId, OwnerId, Seq, SetAside};
use store::{Claim, Standing};

use crate::sabotage::Sabotage;

/// A row of the table `set_aside`.
#[derive(Clone, Debug)]
pub(crate) struct Aside {
    journal: JournalId,
    seq: Seq,
    pub(crate) key: String,
    pub(crate) value: i128,
}

/// A committed state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Db {
    pub(crate) counters: BTreeMap<String, i64>,
    pub(crate) journals: BTreeMap<JournalId, Standing>,
    pub(crate) set_aside: Vec<Aside>,
    ids: BTreeMap<String, (Fingerprint, JournalId, Seq)>,
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

/// An idempotency key, what its request was, and what it adds to which rows.
type Unit = (String, Fingerprint, Vec<(u32, i64)>);

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
            units: units.map(|u| (u.id.to_string(), u.fingerprint, u.increments.clone())).collect(),
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
                for &(row, value) in &transaction.units[number as usize].2 {
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
        for (number, (id, fingerprint, increments)) in units.iter().enumerate() {
            match self.ids.get(id) {
                None => {
                    self.ids.insert(id.clone(), (*fingerprint, claim.journal, *upto));
                    for &(row, value) in increments {
                        *sums[row as usize].get_or_insert(0) += i128::from(value);
                    }
                }
                Some((known, ..)) if known == fingerprint => applied.duplicates.push(number as u32),
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
            self.set_aside.extend(applied.set_aside.iter().map(|part| Aside {
                journal: claim.journal,
                seq: *upto,
                key: part.key.clone(),
                value: part.value,
            }));
        }
        applied.totals = rows.iter().map(|(key, _)| self.counters.get(key).copied()).collect();
        applied
    }

    fn read_back(&self, transaction: &Transaction) -> Applied {
        let Transaction { claim, upto, rows, units, .. } = transaction;
        let here = |journal: JournalId, seq: Seq| journal == claim.journal && seq == *upto;
        let mut counted = Vec::new();
        let mut duplicates = Vec::new();
        for (number, (id, fingerprint, _)) in units.iter().enumerate() {
            let Some((known, journal, seq)) = self.ids.get(id) else { continue };
            if here(*journal, *seq) && !counted.contains(&id) {
                counted.push(id);
            } else if known == fingerprint {
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
}
