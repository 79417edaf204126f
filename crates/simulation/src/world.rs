//! A whole world: instances, a store, clients, and what befalls them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use engine::{Front, Refusal};
use fastrand::Rng;

use crate::clock::Clock;
use crate::disk::{DiskFaults, Machine};
use crate::log::{Log, Shared, lock, note, shared};
use crate::model::{EDGE, Model, Op, Try, only_grows};
use crate::plan::{FOR_EVER_MS, Plan};
use crate::process::{Process, alive};
use crate::rot;
use crate::running::{Common, Running, Waiting, WaitingRead, start};
use crate::sabotage::Sabotage;
use crate::store::{Server, StoreFaults};

const WRITTEN_OFF: &str = "journals written off";

/// More idempotency keys than a run has requests.
const MANY_IDS: usize = 500;

/// How far a calendar is off: up to so much either way.
fn off(rng: &mut Rng, most_ms: u64) -> i64 {
    let most_ms = most_ms as i64;
    rng.i64(-most_ms..=most_ms)
}

/// A broken promise.
pub(crate) type Broken = String;

/// One data directory, and who runs on it.
pub(crate) struct Site {
    pub(crate) machine: Shared<Machine>,
    pub(crate) running: Option<Running>,
    /// Why it will never start again: the store lost what its journal no longer has.
    pub(crate) lost: bool,
    /// Another copy of it goes on.
    pub(crate) displaced: bool,
    /// Nobody starts it before this step.
    pub(crate) down_until: u64,
    /// How far its calendar is off.
    pub(crate) skew_ms: i64,
    /// What waits for the writer's next turn: operations, and which of their tries.
    pub(crate) handed_over: Vec<(usize, usize)>,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    /// For what came to the simulation later, so that older seeds mean what they meant.
    pub(crate) apart: Rng,
    pub(crate) plan: Plan,
    pub(crate) common: Common,
    pub(crate) sites: Vec<Site>,
    pub(crate) model: Model,
    pub(crate) step: u64,
    /// When a data directory was copied.
    pub(crate) copied_at: Option<u64>,
    pub(crate) failed_over: bool,
    pub(crate) healing: bool,
    /// A repetition that was not told as one.
    unmarked: Option<Broken>,
    /// What came how often.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl World {
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>, log: Shared<Log>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::new(&mut rng);
        note!(log, "{plan:?}");
        let clock = shared(Clock::default());
        let mut server = Server::new(rng.fork(), sabotage, Arc::clone(&clock), Arc::clone(&log));
        server.history_len = plan.history;
        let common = Common { log, clock, server: shared(server), sabotage };
        let site = |at: usize, rng: &mut Rng| Site {
            machine: shared(Machine::new(
                format!("site {at}"),
                rng.fork(),
                sabotage,
                Arc::clone(&common.log),
            )),
            running: None,
            lost: false,
            displaced: false,
            down_until: 0,
            skew_ms: if plan.jumps { off(rng, plan.off_ms) } else { 0 },
            handed_over: Vec::new(),
        };
        let sites = (0..plan.sites).map(|at| site(at, &mut rng)).collect();
        let model = Model::new(plan.keys);
        let mut world = Self {
            rng,
            apart: Rng::with_seed(!seed.rotate_left(7)),
            plan,
            common,
            sites,
            model,
            step: 0,
            copied_at: None,
            failed_over: false,
            healing: false,
            unmarked: None,
            counts: BTreeMap::new(),
        };
        world.set_faults(plan.disk, plan.store);
        world
    }

    pub(crate) fn set_faults(&mut self, disk: DiskFaults, store: StoreFaults) {
        lock(&self.common.server).faults = store;
        for site in &self.sites {
            lock(&site.machine).faults = disk;
        }
    }

    /// Everything up to the moment when nothing more goes wrong.
    pub(crate) fn live(&mut self) -> Result<(), Broken> {
        while self.step < self.plan.steps {
            self.step += 1;
            let at = self.rng.usize(..self.sites.len());
            match self.rng.u32(..100) {
                0..35 => self.send(at),
                35..60 => self.turn(at)?,
                60..75 => self.flush(at)?,
                75..80 => {
                    self.read(at)?;
                    self.purge(at);
                }
                80..86 => self.ask(at)?,
                86..92 => self.pass_time(),
                _ => self.befall(at)?,
            }
        }
        Ok(())
    }

    /// How far a calendar is off, this time.
    pub(crate) fn off(&mut self) -> i64 {
        off(&mut self.rng, self.plan.off_ms)
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn pass_time(&mut self) {
        let mut time = self.plan.pace.mul_f64(self.rng.f64() * 3.0);
        let window_ms = self.plan.settings.limits.id_window_ms;
        if self.plan.units > 0 && window_ms < FOR_EVER_MS && self.rng.u32(..6) == 0 {
            // Nothing happens for long, as at night: ids grow old, and journals silent.
            let windows = if self.rng.u32(..4) == 0 { 10.0 } else { 1.5 };
            time += Duration::from_millis(window_ms).mul_f64(self.rng.f64() * windows);
        }
        lock(&self.common.clock).pass(time);
    }

    /// A client sends something to count, or sends again what got no answer.
    fn send(&mut self, at: usize) {
        let again = self.rng.u32(..3) == 0;
        let may_repeat = |op: &Op| {
            op.unit.is_some() && op.in_flight == 0 && !op.twin && (op.unsure || !op.acked.is_empty())
        };
        let op = if again { self.model.ops.iter().rposition(may_repeat) } else { None };
        let op = op.unwrap_or_else(|| self.model.make_op(&mut self.rng, self.plan.units, self.plan.edge));
        self.submit(at, op);
    }

    pub(crate) fn submit(&mut self, at: usize, op: usize) {
        let Some(running) = &mut self.sites[at].running else { return };
        let (entries, unit) = self.model.packed(op);
        note!(
            self.common.log,
            "site {at}: #{op} {:?} {:?} is sent",
            self.model.ops[op].entries,
            unit.as_ref().map(|u| &u.0)
        );
        let front = running.front.clone();
        let tries = &mut self.model.ops[op].tries;
        let number = tries.len();
        // As an HTTP worker does: a plain request is submitted, unless its connection has many already.
        let submitted = if unit.is_none() && !op.is_multiple_of(4) { front.submit(&entries) } else { None };
        match submitted {
            Some(Ok(())) => running.submitted.push_back((op, number)),
            Some(Err(refusal)) => {
                let answer = std::future::ready(Err(refusal));
                running.waiting.push(Waiting { op, number, answer: Box::pin(answer) });
            }
            None => {
                let answer = async move {
                    let unit = unit.as_ref().map(|(id, fingerprint)| (id.as_str(), *fingerprint));
                    front.count(&entries, unit).await
                };
                running.waiting.push(Waiting { op, number, answer: Box::pin(answer) });
            }
        }
        self.sites[at].handed_over.push((op, tries.len()));
        tries.push(Try::default());
        self.model.ops[op].in_flight += 1;
        if self.common.sabotage == Some(Sabotage::AnswerOnHandOver) {
            self.model.ops[op].acked.push((at, self.step));
        }
        // Its hand-over happens when it is first looked at; it may be refused at once.
        self.take_answers(at);
    }

    /// The writer of a site takes all that waits for it.
    fn take_over(&mut self, at: usize) {
        let taken_ms = Some(lock(&self.common.clock).right_ms());
        for (op, number) in self.sites[at].handed_over.drain(..) {
            let one = &mut self.model.ops[op].tries[number];
            (one.taken_ms, one.taken_by) = (taken_ms, Some((at, self.step)));
        }
    }

    fn ask(&mut self, at: usize) -> Result<(), Broken> {
        let key = self.rng.usize(..self.plan.keys);
        if let Some(running) = &mut self.sites[at].running {
            let (front, name) = (running.front.clone(), self.model.keys[key].clone());
            let answer = Box::pin(async move { front.total(&name).await });
            running.reads.push(WaitingRead { key, asked_at: self.step, answer });
        }
        self.check_reads(at)
    }

    /// Lets the writer of a site take a turn.
    pub(crate) fn turn(&mut self, at: usize) -> Result<(), Broken> {
        if self.sites[at].running.is_none() {
            return self.begin(at);
        }
        self.take_over(at);
        let Some(running) = &mut self.sites[at].running else { return Ok(()) };
        let outcome = alive(|| running.turn());
        let failed = std::mem::take(&mut lock(&self.sites[at].machine).failed);
        match outcome {
            None => {
                // What was answered before may have reached its client, or not.
                if self.rng.bool() {
                    self.take_answers(at);
                }
                self.died(at, "in a turn");
                Ok(())
            }
            Some(Err(fatal)) => {
                self.take_answers(at);
                self.died(at, &fatal.to_string());
                let faulty = self.plan.disk.sync + self.plan.disk.write + self.plan.disk.names > 0;
                if faulty && !self.healing {
                    Ok(())
                } else {
                    Err(format!("site {at} ended by itself: {fatal}"))
                }
            }
            Some(Ok(_)) if failed => Err(format!("site {at} goes on after a write or sync failed")),
            Some(Ok(quit)) => {
                self.check_bytes(at)?;
                if self.rng.u32(..20) > 0 || !self.plan.gives_up {
                    self.check_reads(at)?;
                } else {
                    self.give_up(at);
                }
                if quit {
                    self.died(at, "stopped");
                }
                Ok(())
            }
        }
    }

    /// Clients that don't wait any more: their connections are cut.
    fn give_up(&mut self, at: usize) {
        let Some(running) = &mut self.sites[at].running else { return };
        for waiting in running.waiting.drain(..) {
            let op = &mut self.model.ops[waiting.op];
            op.in_flight -= 1;
            op.unsure = true;
        }
        running.reads.clear();
    }

    fn check_bytes(&mut self, at: usize) -> Result<(), Broken> {
        let Some(running) = &self.sites[at].running else { return Ok(()) };
        let pending = running.engine.vitals().journal_bytes.load(Relaxed);
        let limit = self.plan.settings.max_bytes;
        let on_disk = lock(&self.sites[at].machine).bytes_of(".segment");
        // One segment may be ready, and one or two applied ones wait to be written over.
        if pending > limit || on_disk > limit + 3 * self.plan.settings.segment_bytes {
            return Err(format!(
                "site {at}: {pending} bytes are pending, {on_disk} on disk; {limit} are allowed"
            ));
        }
        Ok(())
    }

    /// Hands answers to clients; reads come back.
    fn take_answers(&mut self, at: usize) -> Vec<(usize, u64, Option<i64>)> {
        let Some(running) = &mut self.sites[at].running else { return Vec::new() };
        let (counted, read) = running.answers();
        for (number, one, answer) in counted {
            self.model.ops[number].in_flight -= 1;
            match answer {
                Ok(counted) => {
                    note!(
                        self.common.log,
                        "site {at}: #{number} is acknowledged, replayed {}",
                        counted.replayed
                    );
                    self.check_replayed(number, one, counted.replayed);
                    let op = &mut self.model.ops[number];
                    op.acked.push((at, self.step));
                    op.tries[one].acked = true;
                    if counted.replayed {
                        op.replays.push((at, self.step));
                    }
                    *self.counts.entry("acks").or_default() += 1;
                }
                Err(refusal) => {
                    note!(self.common.log, "site {at}: #{number} is refused: {refusal}");
                    self.sites[at].handed_over.retain(|waits| *waits != (number, one));
                    let one = &mut self.model.ops[number].tries[one];
                    (one.taken_ms, one.taken_by) = (None, None);
                    *self.counts.entry("refusals").or_default() += 1;
                }
            }
        }
        let told = |(key, asked_at, answer): (usize, u64, Result<Option<i64>, Refusal>)| {
            Some((key, asked_at, answer.ok()?))
        };
        read.into_iter().filter_map(told).collect()
    }

    /// An instance that is alone and has acknowledged a request knows that it has, whatever happened
    /// to it since, for as long as the window is open.
    fn check_replayed(&mut self, op: usize, one: usize, replayed: bool) {
        let limits = self.plan.settings.limits;
        let alone = self.sites.len() == 1 && !self.failed_over && limits.max_ids > MANY_IDS;
        let op_of = &self.model.ops[op];
        let known = op_of.tries.iter().any(|one| one.acked) && !op_of.twin;
        if replayed || !alone || !known {
            return;
        }
        let (taken, first) = (op_of.tries[one].taken_ms.unwrap_or(0), op_of.first_taken_ms().unwrap_or(0));
        if taken - first < limits.id_window_ms - limits.id_window_ms / 8 {
            self.unmarked = Some(format!("#{op} came again and was not told as a repetition"));
        }
    }

    /// Hands answers out and looks whether reads show what they must.
    fn check_reads(&mut self, at: usize) -> Result<(), Broken> {
        if let Some(broken) = self.unmarked.take() {
            return Err(broken);
        }
        for (key, asked_at, total) in self.take_answers(at) {
            note!(self.common.log, "site {at}: key {key} is {total:?}");
            if key == EDGE && self.plan.edge {
                continue;
            }
            // A repetition may lie in another instance's journal alone. Where the store forgot it, this
            // one lacks it until that one has brought it in again.
            let failed_over = self.failed_over;
            let known = |op: &Op| {
                let here = |ack: &&(usize, u64)| ack.0 == at && ack.1 < asked_at;
                let mut acks = op.acked.iter().filter(here);
                !op.twin && acks.any(|ack| !failed_over || !op.replays.contains(ack))
            };
            let (low, high) = self.model.bounds_meanwhile(key, known);
            let shown = i128::from(total.unwrap_or(0));
            // What was set aside as unknowable has been taken back, also where a failover then lost its row.
            let aside = lock(&self.common.server).taken_back(&self.model.keys[key]);
            let (low, high) = (low - aside.end(), high - aside.start());
            if shown < low
                || shown > high
                || (total.is_none() && aside == (0..=0) && self.model.has_key(key, known))
            {
                return Err(format!(
                    "site {at} shows {total:?} for key {key}; it must be from {low} to {high}"
                ));
            }
            // What was shown twice may be taken back.
            if only_grows(key) && self.plan.units == 0 {
                let highest = &mut self.model.highest[key];
                *highest = (*highest).max(total);
            }
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self, at: usize) -> Result<(), Broken> {
        let Some(running) = &mut self.sites[at].running else { return Ok(()) };
        match alive(|| running.flush()) {
            None => self.died(at, "in a flush"),
            Some(Ok(())) => self.purge(at),
            Some(Err(error)) => return self.gave_up_the_store(at, &error),
        }
        Ok(())
    }

    /// Between batches, old idempotency keys leave the store.
    pub(crate) fn purge(&mut self, at: usize) {
        let due = self.plan.units > 0 && self.rng.u32(..3) > 0;
        let Some(running) = self.sites[at].running.as_mut().filter(|r| due && r.batch.is_none()) else {
            return;
        };
        match alive(|| running.purge()) {
            None => self.died(at, "while ids leave the store"),
            Some(Ok(purged)) if purged.removed > 0 => {
                note!(self.common.log, "site {at}: {} ids have left the store", purged.removed);
                self.count("purges");
                for _ in &purged.written_off {
                    self.count(WRITTEN_OFF);
                }
            }
            Some(_) => {}
        }
    }

    pub(crate) fn read(&mut self, at: usize) -> Result<(), Broken> {
        let Some(running) = &mut self.sites[at].running else { return Ok(()) };
        match alive(|| running.read()) {
            None => self.died(at, "while it read from the store"),
            Some(Ok(())) => {}
            Some(Err(error)) => return self.gave_up_the_store(at, &error),
        }
        Ok(())
    }

    pub(crate) fn died(&mut self, at: usize, how: &str) {
        note!(self.common.log, "site {at}: the process ends: {how}");
        self.count("ends");
        if let Some(running) = &self.sites[at].running {
            running.process.end();
        }
        self.give_up(at);
        self.sites[at].running = None;
        self.sites[at].handed_over.clear();
        if self.rng.bool() {
            self.sites[at].down_until = self.step + self.rng.u64(..60);
        }
    }

    pub(crate) fn begin(&mut self, at: usize) -> Result<(), Broken> {
        let site = &mut self.sites[at];
        let waits = self.step < site.down_until && !self.healing;
        if site.lost || site.displaced || waits {
            return Ok(());
        }
        lock(&site.machine).evict();
        if self.plan.rot && !self.healing && self.rng.u32(..3) == 0 {
            rot::probe(&site.machine, &self.plan.settings, &mut self.rng, &self.common.log)?;
        }
        let process = Process::new();
        if self.plan.kills && !self.healing && self.rng.u32(..4) == 0 {
            process.dies_after(self.rng.u32(1..40));
        }
        note!(self.common.log, "site {at}: starts");
        lock(&site.machine).failed = false;
        let started = alive(|| {
            start(&site.machine, &process, &self.plan.settings, site.skew_ms, &self.common, &mut self.rng)
        });
        process.disarm();
        let failed = lock(&site.machine).failed;
        match started {
            None => note!(self.common.log, "site {at}: dies while it starts"),
            Some(Ok(_)) if failed => return Err(format!("site {at} starts after a write or sync failed")),
            Some(Ok(running)) => {
                lock(&self.common.server).lost.remove(&running.journal());
                site.running = Some(running);
                self.count("starts");
            }
            Some(Err(error)) => {
                process.end();
                note!(self.common.log, "site {at}: doesn't start: {error}");
                return self.refused(at, &error, failed);
            }
        }
        Ok(())
    }
}
