//! Two copies of a data directory that go on to the same seq, one after the other, while the store
//! forgets the first.
//!
//! By chance alone that comes about in one seed of 60,000. It is the one case in which only the name
//! beside the watermark tells whose records the store holds.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::log::{lock, note};
use crate::world::{Broken, World};

/// After so many turns all is taken or flushed, unless something is in the way.
const TURNS: u32 = 60;

impl World {
    /// The copy of site `at` has just been made, and is the last site.
    pub(crate) fn go_apart(&mut self, at: usize) -> Result<(), Broken> {
        note!(self.common.log, "site {at} and its copy go apart");
        self.count("copies that go apart");
        let before = lock(&self.common.server).commits;
        let Some(last) = self.newest_record(at)? else { return Ok(()) };
        let upto = last + self.apart.u64(1..5);
        self.go_on(at, upto)?;
        let since = lock(&self.common.server).commits - before;
        self.fail_over(Some(since));
        let copy = self.sites.len() - 1;
        self.go_on(copy, upto)?;
        // Whoever takes the records of the other one for its own goes on with that.
        self.sites[copy].down_until = self.plan.steps;
        self.go_on(at, upto + 4)
    }

    /// A site takes requests, each in a record of its own, up to a seq, flushes and stops.
    fn go_on(&mut self, at: usize, upto: u64) -> Result<(), Broken> {
        for _ in 0..TURNS {
            if self.newest_record(at)?.is_none_or(|last| last >= upto) {
                break;
            }
            let op = self.model.make_op(&mut self.rng, self.plan.units, self.plan.edge);
            self.submit(at, op);
            self.turn(at)?;
        }
        self.flush_all(at)?;
        if let Some(running) = &mut self.sites[at].running {
            running.stop(Duration::from_secs(1));
            self.flush_all(at)?;
        }
        Ok(())
    }

    /// `None` where the site doesn't start.
    fn newest_record(&mut self, at: usize) -> Result<Option<u64>, Broken> {
        if self.sites[at].running.is_none() {
            self.begin(at)?;
        }
        let running = self.sites[at].running.as_ref();
        Ok(running.map(|running| running.engine.vitals().last_seq.load(Relaxed)))
    }

    fn flush_all(&mut self, at: usize) -> Result<(), Broken> {
        for _ in 0..TURNS {
            let Some(running) = &self.sites[at].running else { return Ok(()) };
            if running.is_settled() && !running.is_stopping() {
                return Ok(());
            }
            self.turn(at)?;
            self.flush(at)?;
            lock(&self.common.clock).pass(Duration::from_millis(25));
        }
        Ok(())
    }
}

/// The other way: a claim that is forgotten, while a repetition lies in the journal. That too takes many
/// seeds to come about by itself.
impl World {
    /// Site `at` is stopped with nothing pending and started again, and dies with a repetition in its
    /// journal of what another one has taken. The store forgets that it was claimed, and ids leave.
    pub(crate) fn forget_claim(&mut self, at: usize) -> Result<(), Broken> {
        note!(self.common.log, "site {at} is to have its claim forgotten");
        self.count("claims forgotten");
        let other = (at + 1) % self.sites.len();
        lock(&self.common.server).up = true;
        let Some(last) = self.newest_record(at)? else { return Ok(()) };
        self.go_on(at, last)?;
        let Some(op) = self.take_once(other)? else { return Ok(()) };
        let before = lock(&self.common.server).commits;
        self.begin_now(at)?;
        self.submit(at, op);
        self.turn(at)?;
        self.died(at, "killed");
        let since = lock(&self.common.server).commits - before;
        self.fail_over(Some(since));
        self.flush_all(other)?;
        // Long enough for the id to leave, and not for a journal to be written off.
        let window = Duration::from_millis(self.plan.settings.limits.id_window_ms);
        lock(&self.common.clock).pass(window * 2);
        for _ in 0..3 {
            for site in (0..self.sites.len()).filter(|site| *site != at) {
                self.take_once(site)?;
                self.flush_all(site)?;
                self.purge(site);
            }
        }
        self.begin_now(at)?;
        self.flush_all(at)
    }

    /// Has a request with a new idempotency key taken at a site, if nothing is in the way: which it is.
    fn take_once(&mut self, at: usize) -> Result<Option<usize>, Broken> {
        let op = self.model.make_op(&mut self.rng, 1000, false);
        self.begin_now(at)?;
        self.submit(at, op);
        self.turn(at)?;
        let known = !self.model.ops[op].acked.is_empty() && !self.model.ops[op].twin;
        Ok(Some(op).filter(|_| known))
    }

    fn begin_now(&mut self, at: usize) -> Result<(), Broken> {
        self.sites[at].down_until = 0;
        if self.sites[at].running.is_none() { self.begin(at) } else { Ok(()) }
    }
}
