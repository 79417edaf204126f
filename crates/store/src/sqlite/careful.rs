//! Writes items one by one, and remembers those that the database refuses.

use std::collections::HashMap;

use rusqlite::Connection;

use super::faults::Fault;

/// Something that can be refused by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Item {
    /// The idempotency key of the unit of that number.
    Id(u32),
    /// The row of that number.
    Row(u32),
}

/// Which items the database refuses, and why. It starts out hopeful: items are written just so,
/// and the first refusal ends the transaction. From then on, each has a savepoint.
#[derive(Default)]
pub(crate) struct Refusals {
    careful: bool,
    news: bool,
    reasons: HashMap<Item, String>,
}

impl Refusals {
    /// The reason why `item` was refused.
    pub(crate) fn reason(&self, item: Item) -> Option<&str> {
        self.reasons.get(&item).map(String::as_str)
    }

    /// Whether something has been learnt since the last time; only then is it worth another try,
    /// and so the number of tries is bounded.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Writes an item by `write`, unless it is known to be refused; `None` where it is or turns
    /// out to be. After [`Fault::Row`] the transaction is over, and another is to be tried with
    /// what has been learnt.
    pub(crate) fn write<T>(
        &mut self,
        transaction: &Connection,
        item: Item,
        write: impl FnOnce() -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        if self.reasons.contains_key(&item) {
            return Ok(None);
        }
        if self.careful {
            transaction.prepare_cached("SAVEPOINT item")?.execute([])?;
        }
        let reason = match (write(), self.careful) {
            (Ok(written), false) => return Ok(Some(written)),
            (Ok(written), true) => {
                transaction.prepare_cached("RELEASE item")?.execute([])?;
                return Ok(Some(written));
            }
            (Err(Fault::Row(reason)), false) => {
                self.careful = true;
                self.news = true;
                return Err(Fault::Row(reason));
            }
            (Err(Fault::Row(reason)), true) => reason,
            (Err(fault), _) => return Err(fault),
        };
        self.reasons.insert(item, reason.clone());
        if transaction.is_autocommit() {
            // A trigger with RAISE(ROLLBACK) has ended the transaction.
            self.news = true;
            return Err(Fault::Row(reason));
        }
        transaction.execute_batch("ROLLBACK TO item; RELEASE item")?;
        Ok(None)
    }
}
