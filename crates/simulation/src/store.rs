//! A database server that refuses, dies and forgets, and the product's seam to it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use counter::{Applied, Batch, Fingerprint, JournalId, Seq, StoreId};
use fastrand::Rng;
use store::{
    ApplyError, Claim, ClaimError, LoadError, PageQuery, Purge, Purged, Snapshot, Standing, Store,
    StoreError, StoreReader,
};

use crate::clock::Clock;
use crate::db::{Aside, Db, Rollback, Transaction};
use crate::log::{Log, Shared, lock, note};
use crate::process::Process;
use crate::sabotage::Sabotage;

/// How often a call goes wrong, out of 1,000.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StoreFaults {
    /// Before anything of it was done.
    pub(crate) refuse: u32,
    /// It was committed, and the answer is lost.
    pub(crate) lose_answer: u32,
    /// The caller's time is up, and the old connection commits later.
    pub(crate) late: u32,
}

/// The server, with what it has committed.
#[derive(Debug)]
pub(crate) struct Server {
    id: StoreId,
    pub(crate) db: Db,
    /// Older states, the newest last, and when each was left.
    history: VecDeque<(Db, Duration)>,
    /// How many commits there have been.
    pub(crate) commits: usize,
    /// So many commits a failover may lose.
    pub(crate) history_len: usize,
    /// Journals whose watermark a failover set back: when the first lost one was committed.
    pub(crate) lost: BTreeMap<JournalId, Duration>,
    /// What was set aside as unknowable in a commit that a failover lost.
    lost_aside: Vec<Aside>,
    /// How far each journal ever was.
    pub(crate) highest: BTreeMap<JournalId, Seq>,
    pub(crate) up: bool,
    pub(crate) faults: StoreFaults,
    pub(crate) late: Vec<Transaction>,
    sabotage: Option<Sabotage>,
    rng: Rng,
    clock: Shared<Clock>,
    log: Shared<Log>,
}

impl Server {
    pub(crate) fn new(
        mut rng: Rng,
        sabotage: Option<Sabotage>,
        clock: Shared<Clock>,
        log: Shared<Log>,
    ) -> Self {
        let id = StoreId(rng.u128(..).to_le_bytes());
        Self {
            id,
            db: Db::default(),
            history: VecDeque::new(),
            commits: 0,
            history_len: 0,
            lost: BTreeMap::new(),
            lost_aside: Vec::new(),
            highest: BTreeMap::new(),
            up: true,
            faults: StoreFaults::default(),
            late: Vec::new(),
            sabotage,
            rng,
            clock,
            log,
        }
    }

    /// A connection whose caller has given up gets to its COMMIT.
    pub(crate) fn land_late(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let transaction = self.late.remove(self.rng.usize(..self.late.len()));
        let before = self.db.clone();
        let outcome = self.db.apply(&transaction, self.sabotage);
        let wrote = matches!(outcome, Ok((_, true)));
        note!(self.log, "store: late COMMIT of {}..{}: {wrote}", transaction.from, transaction.upto);
        if wrote {
            self.remember(before);
        }
    }

    /// Another server takes over that lacks the last commits, `most` of them or any number; how many.
    pub(crate) fn fail_over(&mut self, most: Option<usize>) -> usize {
        let len = self.history.len();
        let lost = most.map_or_else(|| self.rng.usize(..=len), |most| most.min(len));
        self.late.clear();
        for _ in 0..lost {
            let Some((older, at)) = self.history.pop_back() else { break };
            for (journal, standing) in &self.db.journals {
                let before = older.journals.get(journal).map_or(Seq::ZERO, |standing| standing.watermark);
                if before < standing.watermark {
                    let since = self.lost.entry(*journal).or_insert(at);
                    *since = at.min(*since);
                }
            }
            // Nothing leaves it, so the older state has the beginning of it.
            self.lost_aside
                .extend(self.db.set_aside.drain(older.set_aside.len()..).filter(|aside| aside.unknowable));
            self.db = older;
        }
        note!(self.log, "store: failover, {lost} commits are lost");
        lost
    }

    /// What was ever set aside of a key as unknowable: from the least to the most of what an instance may
    /// have been told to take back, also where a failover made the store forget it.
    pub(crate) fn taken_back(&self, key: &str) -> RangeInclusive<i128> {
        let all = self.db.set_aside.iter().chain(&self.lost_aside);
        let parts = all.filter(|aside| aside.unknowable && aside.key == key);
        let (below, above) = parts
            .fold((0, 0), |(below, above), aside| (below + aside.value.min(0), above + aside.value.max(0)));
        below..=above
    }

    /// A journal's row as an instance sees it.
    fn shown(&self, journal: JournalId) -> Option<Standing> {
        let row = self.db.journals.get(&journal).copied()?;
        let told = row.moved_by.filter(|_| self.sabotage != Some(Sabotage::IgnoreMover));
        Some(Standing { moved_by: told, ..row })
    }

    fn remember(&mut self, before: Db) {
        self.commits += 1;
        self.history.push_back((before, lock(&self.clock).elapsed));
        if self.history.len() > self.history_len {
            self.history.pop_front();
        }
        for (journal, standing) in &self.db.journals {
            let highest = self.highest.entry(*journal).or_default();
            *highest = standing.watermark.max(*highest);
        }
    }

    fn chance(&mut self, rate: u32) -> bool {
        rate > 0 && self.rng.u32(..1000) < rate
    }

    fn check_up(&mut self) -> Result<(), StoreError> {
        if !self.up || self.chance(self.faults.refuse) {
            note!(self.log, "store: away");
            return Err(away());
        }
        Ok(())
    }
}

fn away() -> StoreError {
    StoreError::Unavailable("simulated: no connection".to_owned())
}

/// A process's connection to a [`Server`].
pub(crate) struct SimStore {
    pub(crate) server: Shared<Server>,
    pub(crate) process: Arc<Process>,
}

impl SimStore {
    fn read<T>(&self, read: impl FnOnce(&Server) -> T) -> Result<T, StoreError> {
        self.process.step();
        let mut server = lock(&self.server);
        server.check_up()?;
        Ok(read(&server))
    }

    /// Has a small transaction committed; the answer may be lost. `change` says whether it wrote.
    fn write<T>(
        &self,
        change: impl FnOnce(&mut Db, u64, Option<Sabotage>) -> (T, bool),
    ) -> Result<T, StoreError> {
        self.process.step();
        let outcome = {
            let server = &mut *lock(&self.server);
            server.check_up()?;
            let before = server.db.clone();
            let now_ms = lock(&server.clock).right_ms();
            let (outcome, wrote) = change(&mut server.db, now_ms, server.sabotage);
            if wrote {
                server.remember(before);
            }
            let rate = server.faults.lose_answer;
            if wrote && server.chance(rate) { Err(away()) } else { Ok(outcome) }
        };
        self.process.step();
        outcome
    }

    /// Takes a transaction to the server; the process may die on the way there and back.
    fn commit(&self, transaction: &Transaction) -> Result<Applied, ApplyError> {
        self.process.step();
        let outcome = self.send(transaction);
        self.process.step();
        outcome
    }

    fn send(&self, transaction: &Transaction) -> Result<Applied, ApplyError> {
        let server = &mut *lock(&self.server);
        server.check_up()?;
        let Transaction { claim, from, upto, .. } = transaction;
        if server.chance(server.faults.late) {
            note!(server.log, "store: {from}..{upto} hangs; its COMMIT may come late");
            server.late.push(transaction.clone());
            return Err(away().into());
        }
        let before = server.db.clone();
        let outcome = match server.sabotage {
            Some(which @ (Sabotage::WatermarkFirst | Sabotage::WatermarkLast)) => {
                two_transactions(server, transaction, which)?
            }
            sabotage => server.db.apply(transaction, sabotage),
        };
        let (applied, wrote) = match outcome {
            Ok(applied) => applied,
            Err(Rollback::Fenced(owner)) => {
                note!(server.log, "store: {from}..{upto} is fenced");
                return Err(ApplyError::Fenced { journal: claim.journal, owner });
            }
            Err(Rollback::Forgot(watermark)) => {
                note!(server.log, "store: {from}..{upto} doesn't fit the watermark {watermark}");
                return Err(ApplyError::Forgot { watermark, expected: *from });
            }
        };
        note!(server.log, "store: COMMIT of {from}..{upto}, new {wrote}");
        if wrote {
            server.remember(before);
        }
        if server.chance(server.faults.lose_answer) {
            note!(server.log, "store: its answer is lost");
            return Err(away().into());
        }
        Ok(applied)
    }
}

/// The outcome of a transaction that is two: the server may die between them.
fn two_transactions(
    server: &mut Server,
    transaction: &Transaction,
    which: Sabotage,
) -> Result<Result<(Applied, bool), Rollback>, ApplyError> {
    let dies = server.chance(50 + server.faults.lose_answer);
    if which == Sabotage::WatermarkFirst {
        let mut moved = server.db.clone();
        let fits = moved.move_watermark(transaction, None).is_none();
        if fits && dies {
            server.db = moved;
            return Err(away().into());
        }
    } else if dies {
        let fits = server.db.clone().move_watermark(transaction, None).is_none();
        if fits {
            server.db.write(transaction, None);
            return Err(away().into());
        }
    }
    Ok(server.db.apply(transaction, None))
}

impl Store for SimStore {
    fn prepare(&mut self) -> Result<StoreId, StoreError> {
        self.read(|server| server.id)
    }

    fn standing(&mut self, journal: JournalId) -> Result<Option<Standing>, StoreError> {
        self.read(|server| server.shown(journal))
    }

    fn claim(&mut self, claim: &Claim, seen: Option<Standing>, now_ms: u64) -> Result<(), ClaimError> {
        self.process.step();
        let mut server = lock(&self.server);
        server.check_up()?;
        let found = server.shown(claim.journal);
        let ours = Standing {
            owner: claim.owner,
            watermark: seen.map_or(Seq::ZERO, |seen| seen.watermark),
            moved_by: seen.and_then(|seen| seen.moved_by),
        };
        if found != seen && found != Some(ours) {
            return Err(ClaimError::Moved);
        }
        let before = server.db.clone();
        note!(server.log, "store: claim of {} at {}", claim.journal, ours.watermark);
        let moved_by = server.db.journals.get(&claim.journal).and_then(|row| row.moved_by);
        server.db.journals.insert(claim.journal, Standing { moved_by, ..ours });
        let right_ms = lock(&server.clock).right_ms();
        let unknowable_ms = server.db.unknowable_ms.min(now_ms);
        let deaf = [Some(Sabotage::ForgetPurges), Some(Sabotage::CloseTooSoon)];
        let told = !deaf.contains(&server.sabotage);
        let past = server.db.pasts.entry(claim.journal).or_default();
        // What was told may be of a copy, where other records lie.
        if told && (found.is_none() || past.flushed_ms > 0) {
            past.written_off_ms = past.written_off_ms.max(unknowable_ms);
        }
        if told || past.flushed_ms > right_ms {
            past.flushed_ms = 0;
        }
        server.remember(before);
        let rate = server.faults.lose_answer;
        let lost = server.chance(rate);
        drop(server);
        self.process.step();
        if lost { Err(away().into()) } else { Ok(()) }
    }

    fn load(
        &mut self,
        journal: JournalId,
        each: &mut dyn FnMut(&str, i64) -> Result<(), String>,
    ) -> Result<Seq, LoadError> {
        self.process.step();
        let (counters, watermark) = {
            let mut server = lock(&self.server);
            server.check_up()?;
            let watermark = server.db.journals.get(&journal).map_or(Seq::ZERO, |standing| standing.watermark);
            // The newest is the one before the claim.
            let torn = server.sabotage == Some(Sabotage::TornSnapshot);
            let older = server.history.iter().rev().nth(1).filter(|_| torn);
            let counters = older.map_or(&server.db, |(db, _)| db).counters.clone();
            let late = server.sabotage == Some(Sabotage::ReplayTooLate) && watermark > Seq::ZERO;
            let own_mark = server.highest.get(&journal).copied();
            let own_mark = own_mark.filter(|_| server.sabotage == Some(Sabotage::ReplayFromOwnMark));
            (counters, own_mark.unwrap_or(Seq(watermark.0 + u64::from(late))))
        };
        for (number, (key, total)) in counters.iter().enumerate() {
            // It may go away in the middle.
            if number == 2 && lock(&self.server).check_up().is_err() {
                return Err(away().into());
            }
            each(key, *total).map_err(LoadError::Stopped)?;
        }
        Ok(watermark)
    }

    fn apply_over(&mut self, claim: &Claim, batch: &Batch, _over: Duration) -> Result<Applied, ApplyError> {
        self.commit(&Transaction::new(claim, batch))
    }

    fn load_ids(
        &mut self,
        since_ms: u64,
        limit: u32,
        each: &mut dyn FnMut(&str, Fingerprint, u64),
    ) -> Result<(), StoreError> {
        let forgets = lock(&self.server).sabotage == Some(Sabotage::ForgetIdsAtStart);
        let ids = self.read(|server| server.db.newest_ids(since_ms))?;
        for (number, (id, fingerprint, accepted_ms)) in ids.iter().take(limit as usize).enumerate() {
            // It may go away in the middle.
            if number == 2 {
                lock(&self.server).check_up()?;
            }
            if !forgets {
                each(id, *fingerprint, *accepted_ms);
            }
        }
        Ok(())
    }

    fn purge(&mut self, claim: &Claim, purge: &Purge) -> Result<Purged, StoreError> {
        self.write(|db, now_ms, sabotage| db.purge(claim, purge, now_ms, sabotage))
    }

    fn close(&mut self, claim: &Claim, watermark: Seq) -> Result<(), StoreError> {
        self.write(|db, _, _| {
            let standing = db.journals.get(&claim.journal);
            let ours = standing.is_some_and(|s| s.owner == claim.owner && s.watermark >= watermark);
            if ours {
                db.pasts.entry(claim.journal).or_default().flushed_ms = u64::MAX;
            }
            ((), ours)
        })
    }
}

impl StoreReader for SimStore {
    fn totals(&mut self, journal: JournalId, keys: &[&str]) -> Result<Snapshot, StoreError> {
        self.read(|server| Snapshot {
            watermark: server.db.journals.get(&journal).map_or(Seq::ZERO, |standing| standing.watermark),
            totals: keys.iter().map(|key| server.db.counters.get(*key).copied()).collect(),
        })
    }

    fn page(&mut self, query: &PageQuery<'_>) -> Result<Vec<String>, StoreError> {
        self.read(|server| {
            let keys = server.db.counters.keys().filter(|key| {
                key.starts_with(query.prefix) && query.after.is_none_or(|after| key.as_str() > after)
            });
            keys.take(query.limit as usize).cloned().collect()
        })
    }

    fn standing(&mut self, journal: JournalId) -> Result<Option<Standing>, StoreError> {
        self.read(|server| server.db.journals.get(&journal).copied())
    }

    fn others(&mut self, journal: JournalId) -> Result<Vec<(JournalId, Seq)>, StoreError> {
        self.read(|server| {
            let others = server.db.journals.iter().filter(|(other, _)| **other != journal);
            others.map(|(other, standing)| (*other, standing.watermark)).collect()
        })
    }
}
