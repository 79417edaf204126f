//! Which ends of a process and which refused starts are right.

use counter::{JournalId, Seq};
use flusher::{FlushError, StartError};

use crate::log::lock;
use crate::world::{Broken, World};

impl World {
    /// Judges the end of a process that found its row in the store not as it left it.
    pub(crate) fn gave_up_the_store(&mut self, at: usize, error: &FlushError) -> Result<(), Broken> {
        self.died(at, &error.to_string());
        let expected = match error {
            FlushError::Fenced(_) if self.healing && self.copied_at.is_some() => {
                // As it says: not to be started again beside the other one.
                self.sites[at].displaced = true;
                true
            }
            FlushError::Fenced(_) => self.copied_at.is_some(),
            FlushError::Forgot(_) => self.failed_over,
        };
        if expected { Ok(()) } else { Err(format!("site {at} ended by itself: {error}")) }
    }

    /// Judges a refused start.
    pub(crate) fn refused(&mut self, at: usize, error: &StartError, failed: bool) -> Result<(), Broken> {
        let full = lock(&self.sites[at].machine).full;
        let faults = self.plan.disk;
        let disk = failed || full || (faults.names + faults.write + faults.sync > 0 && !self.healing);
        match error {
            StartError::Stopped if !self.healing => {}
            StartError::Journal(engine::OpenError::Io { .. }) | StartError::Fatal(_) if disk => {}
            StartError::OtherOwner { .. } | StartError::JournalBehind { .. } if self.copied_at.is_some() => {
                self.sites[at].displaced = true;
            }
            StartError::StoreForgot { journal, watermark, first_kept, .. } if self.failed_over => {
                self.sites[at].lost = true;
                self.count("starts refused because the store forgot");
                return self.check_forgotten(*journal, *watermark, *first_kept);
            }
            _ => return Err(format!("site {at} doesn't start: {error}")),
        }
        Ok(())
    }

    /// A start says that the store lost what the journal no longer has: whether that is so, and
    /// whether the journal was free to let go of it.
    fn check_forgotten(&self, journal: JournalId, watermark: Seq, first_kept: Seq) -> Result<(), Broken> {
        let server = lock(&self.common.server);
        let holds = server.db.journals.get(&journal).map_or(Seq::ZERO, |standing| standing.watermark);
        let held = server.highest.get(&journal).copied().unwrap_or(Seq::ZERO);
        if watermark != holds || first_kept <= watermark.next() || first_kept > held.next() {
            return Err(format!(
                "a start names what is missing as after {watermark} and before {first_kept}; the store holds \
                 {holds}, and held {held}"
            ));
        }
        let now = lock(&self.common.clock).elapsed;
        let age = server.lost.get(&journal).map(|since| now.saturating_sub(*since));
        if age.is_none() && self.copied_at.is_none() {
            return Err("what an earlier start found to be lost was applied again, or is pending".to_owned());
        }
        // Best effort where room or calendar are in the way.
        let keeps = self.plan.ample && !self.plan.full && !self.plan.jumps;
        if keeps && age.is_some_and(|age| age < self.plan.settings.keep) {
            return Err(format!("what was applied {age:?} ago was to be kept, and is gone"));
        }
        Ok(())
    }
}
