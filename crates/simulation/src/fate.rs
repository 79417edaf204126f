//! What befalls a world, and how it heals.

use std::time::Duration;

use crate::disk::DiskFaults;
use crate::log::{lock, note, shared};
use crate::model::{Op, only_grows};
use crate::plan::FOR_EVER_MS;
use crate::running::Running;
use crate::store::StoreFaults;
use crate::world::{Broken, Site, World};

impl World {
    /// Something happens that nobody asked for, if this run has such things.
    pub(crate) fn befall(&mut self, at: usize) -> Result<(), Broken> {
        let plan = self.plan;
        match self.rng.u32(..12) {
            0..=2 if plan.kills => self.kill(at),
            3 if plan.power => {
                self.died(at, "the power fails");
                lock(&self.sites[at].machine).lose_power();
                self.count("power losses");
            }
            4 | 5 if plan.outages => {
                let mut server = lock(&self.common.server);
                server.up = !server.up;
                note!(self.common.log, "store: up {}", server.up);
            }
            6 => lock(&self.common.server).land_late(),
            7 if plan.failovers && self.rng.u32(..2) == 0 => {
                let ids_leave = plan.units > 0 && plan.settings.limits.id_window_ms < FOR_EVER_MS;
                if ids_leave && self.sites.len() > 1 && self.apart.u32(..2) == 0 {
                    return self.forget_claim(at);
                }
                self.fail_over(None);
            }
            8 if plan.full => {
                let mut machine = lock(&self.sites[at].machine);
                machine.full = !machine.full;
                note!(self.common.log, "site {at}: disk full {}", machine.full);
            }
            9 if plan.jumps => {
                let jump = self.off();
                lock(&self.common.clock).jumped_ms = jump;
                note!(self.common.log, "the calendar is off by {jump} ms");
            }
            10 if plan.stops => {
                let within = Duration::from_millis(self.rng.u64(1..500));
                if let Some(running) = &mut self.sites[at].running {
                    note!(self.common.log, "site {at}: is told to stop within {within:?}");
                    running.stop(within);
                }
            }
            11 if plan.copies && self.copied_at.is_none() && self.rng.u32(..4) == 0 => {
                note!(self.common.log, "site {at}: its data directory is copied");
                let machine = lock(&self.sites[at].machine).copy("the copy".to_owned(), self.rng.fork());
                self.copied_at = Some(self.step);
                self.count("copies");
                self.sites.push(Site {
                    machine: shared(machine),
                    running: None,
                    lost: false,
                    displaced: false,
                    down_until: 0,
                    skew_ms: self.sites[at].skew_ms,
                    handed_over: Vec::new(),
                });
                if plan.failovers && self.apart.u32(..2) == 0 {
                    return self.go_apart(at);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The last `most` commits are lost, or any number of them.
    pub(crate) fn fail_over(&mut self, most: Option<usize>) {
        let lost = lock(&self.common.server).fail_over(most);
        self.failed_over |= lost > 0;
        self.count("failovers");
        // Whoever had to give way to a copy may be the one who goes on now.
        for site in &mut self.sites {
            site.displaced &= lost == 0;
        }
    }

    /// The process dies now, or some calls later.
    fn kill(&mut self, at: usize) {
        self.count("kills");
        let calls = self.rng.u32(..12);
        match &self.sites[at].running {
            Some(running) if calls > 0 => {
                note!(self.common.log, "site {at}: will die in {calls} calls");
                running.process.dies_after(calls);
            }
            Some(_) => self.died(at, "killed"),
            None => {}
        }
    }

    /// Nothing goes wrong any more: everything must get into the store, once.
    pub(crate) fn heal(&mut self) -> Result<(), Broken> {
        note!(self.common.log, "healing begins");
        self.healing = true;
        self.plan.gives_up = false;
        self.set_faults(DiskFaults::default(), StoreFaults::default());
        {
            let mut server = lock(&self.common.server);
            server.up = true;
            while self.rng.bool() {
                server.land_late();
            }
            server.late.clear();
        }
        for at in 0..self.sites.len() {
            lock(&self.sites[at].machine).full = false;
            if let Some(running) = &self.sites[at].running {
                running.process.disarm();
            }
            // What a disk did in the background is noticed at the next start.
            let disk = self.plan.disk.sync + self.plan.disk.write + self.plan.disk.names > 0;
            if disk || self.rng.u32(..3) == 0 {
                self.died(at, "restarted");
            }
        }
        // So that each looks at the store once more: what it forgot is noticed without a flush.
        lock(&self.common.clock).pass(crate::running::MAX_AGE);
        self.settle()?;
        if self.plan.failovers && self.rng.bool() {
            // With nothing to flush.
            self.fail_over(None);
            lock(&self.common.clock).pass(crate::running::MAX_AGE);
            self.settle()?;
        }
        self.retry()?;
        self.compare_memory()?;
        if self.rng.bool() {
            for site in &mut self.sites {
                if let Some(running) = &mut site.running {
                    running.stop(Duration::from_secs(1000));
                }
            }
            self.settle()?;
            self.compare_memory()?;
        }
        self.compare_totals()
    }

    /// Until nothing is on its way.
    fn settle(&mut self) -> Result<(), Broken> {
        for _ in 0..600 {
            let mut settled = true;
            for at in 0..self.sites.len() {
                self.turn(at)?;
                self.flush(at)?;
                self.read(at)?;
                let site = &self.sites[at];
                let up = site.running.as_ref().is_some_and(|r| r.is_settled() && !r.is_stopping());
                settled &= up || site.lost || site.displaced;
            }
            lock(&self.common.clock).pass(Duration::from_millis(25));
            if settled {
                return Ok(());
            }
        }
        Err("nothing is wrong any more, and still something is pending".to_owned())
    }

    /// Clients send again what they got no answer to, where that is safe.
    fn retry(&mut self) -> Result<(), Broken> {
        for op in 0..self.model.ops.len() {
            let Op { unit, twin, acked, unsure, .. } = &self.model.ops[op];
            if unit.is_some() && !twin && acked.is_empty() && *unsure {
                let at = self.rng.usize(..self.sites.len());
                self.submit(at, op);
            }
        }
        self.settle()
    }

    /// What memory shows is what the store holds.
    fn compare_memory(&mut self) -> Result<(), Broken> {
        // So that no answer is young enough to be given without asking.
        lock(&self.common.clock).pass(crate::running::MAX_AGE * 2);
        for at in 0..self.sites.len() {
            let server = lock(&self.common.server);
            let owns = |running: &Running| running.owns_its_journal(&server);
            let superseded = self.sites[at].running.as_ref().is_some_and(|running| !owns(running));
            drop(server);
            if superseded {
                // It has nothing pending, so it will hear of that with its next batch.
                if self.copied_at.is_none() {
                    return Err(format!("site {at} no longer owns its journal"));
                }
                continue;
            }
            // A look at the others, which the reader's thread takes by itself.
            self.read(at)?;
            let asked: Vec<(usize, Option<i64>)> = self.read_all(at)?;
            for (key, shown) in asked {
                let stored = lock(&self.common.server).db.counters.get(&self.model.keys[key]).copied();
                // What another one flushed and the store forgot before it was looked at is shown until
                // somebody flushes; where its journal is lost too, nobody does.
                let forgotten = self.sites.iter().any(|site| site.lost);
                if shown != stored && !forgotten {
                    return Err(format!(
                        "site {at} shows {shown:?} for key {key}; the store holds {stored:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The totals in the store are the sums of what was acknowledged.
    fn compare_totals(&mut self) -> Result<(), Broken> {
        let copied_at = self.copied_at.unwrap_or(u64::MAX);
        let sites: Vec<_> = self.sites.iter().map(|site| (site.lost, site.displaced)).collect();
        let lost = sites.iter().any(|(lost, _)| *lost);
        // What a displaced copy took after the copying is in its journal alone, as it says itself.
        let displaced = |(site, step): (usize, u64)| sites[site].1 && step >= copied_at;
        // A repetition that is told as one is in no journal of who tells it. Where such a copy took the
        // request, and a failover may have lost what it flushed, the copy's journal alone may have it.
        let strayed = |op: &Op| {
            let mut taken = op.tries.iter().filter_map(|one| one.taken_by);
            self.failed_over && taken.any(displaced)
        };
        let sure = |op: &Op| {
            let told_alone = |ack| op.replays.contains(ack) && strayed(op);
            !lost && op.acked.iter().any(|ack| !displaced(*ack) && !told_alone(ack))
        };
        let db = lock(&self.common.server).db.clone();
        let window_ms = self.plan.settings.limits.id_window_ms;
        for (key, name) in self.model.keys.iter().enumerate() {
            let aside = db.set_aside.iter().filter(|aside| aside.key == *name);
            let (mut rows, mut aside_sum, mut unknowable) = (0, 0, 0..=0);
            for part in aside {
                rows += 1;
                if part.unknowable {
                    // It may have been counted under another server, or not.
                    unknowable =
                        unknowable.start() + part.value.min(0)..=unknowable.end() + part.value.max(0);
                } else {
                    aside_sum += part.value;
                }
            }
            let in_doubt = self.failed_over || self.copied_at.is_some() || db.wrote_off;
            if unknowable != (0..=0) && !in_doubt {
                return Err(format!("of key {key}, {unknowable:?} was set aside, and nothing was in doubt"));
            }
            let total = db.counters.get(name).copied();
            let counted = i128::from(total.unwrap_or(0)) + aside_sum;
            let (low, high) = self.model.bounds(key, window_ms, sure);
            note!(self.common.log, "key {key}: {total:?}, {rows} set aside; from {low} to {high}");
            if counted + unknowable.end() < low || counted + unknowable.start() > high {
                return Err(format!("key {key} adds up to {counted}; it must be from {low} to {high}"));
            }
            if total.is_none() && rows == 0 && self.model.has_key(key, sure) {
                return Err(format!("key {key} was acknowledged and is not there"));
            }
            let displaced = sites.iter().any(|(_, displaced)| *displaced);
            let whole = !lost && !displaced && !self.failed_over && rows == 0;
            if whole && only_grows(key) && self.model.highest[key] > total {
                let shown = self.model.highest[key];
                return Err(format!("key {key} was shown as {shown:?}, and ended as {total:?}"));
            }
        }
        Ok(())
    }

    fn read_all(&mut self, at: usize) -> Result<Vec<(usize, Option<i64>)>, Broken> {
        use crate::running::WaitingRead;
        use engine::Front;
        let Some(running) = &mut self.sites[at].running else { return Ok(Vec::new()) };
        for (key, name) in self.model.keys.iter().enumerate() {
            let (front, name) = (running.front.clone(), name.clone());
            let answer = Box::pin(async move { front.total(&name).await });
            running.reads.push(WaitingRead { key, asked_at: self.step, answer });
        }
        let mut shown = Vec::new();
        for _ in 0..20 {
            for (key, _, answer) in running.answers().1 {
                shown.push((key, answer.map_err(|refusal| format!("site {at} refuses a read: {refusal}"))?));
            }
            if running.reads.is_empty() {
                return Ok(shown);
            }
            running.turn().map_err(|fatal| fatal.to_string())?;
            running.read().map_err(|error| error.to_string())?;
        }
        Err(format!("site {at} doesn't answer reads"))
    }
}
