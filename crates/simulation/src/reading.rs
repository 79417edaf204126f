//! What the reader's thread does, a step at a time: it asks the store for what memory doesn't
//! hold, and looks whether other instances have flushed, and whether the store has forgotten.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use counter::{JournalId, Seq};
use engine::{Control, Engine, Lookup, Now, Page, PageRequest, Refusal};
use flusher::{FlushError, Own};
use store::StoreReader;
use tokio::sync::oneshot;

use crate::log::lock;
use crate::store::SimStore;

/// As the product's reader: an answer that crossed a flush is asked for again so often.
const ATTEMPTS: u32 = 20;

type Reply = oneshot::Sender<Result<Option<i64>, Refusal>>;

/// Requests for the store.
#[derive(Debug, Default)]
pub(crate) struct Queue(Mutex<Vec<(String, Reply)>>);

impl Lookup for Queue {
    fn total(&self, key: String, reply: Reply) {
        lock(&self.0).push((key, reply));
    }

    fn page(&self, _request: PageRequest, reply: oneshot::Sender<Result<Page, Refusal>>) {
        drop(reply.send(Err(Refusal::Busy)));
    }
}

/// Replies that wait for the writer to put a snapshot together with what is pending.
struct Asked {
    requests: Vec<(String, Reply)>,
    answer: Receiver<Option<Vec<Option<i64>>>>,
}

/// The second connection of an instance.
pub(crate) struct Reading {
    queue: Arc<Queue>,
    store: SimStore,
    own: Own,
    /// Sabotage: doesn't look at its own row.
    blind: bool,
    others: Vec<(JournalId, Seq)>,
    next_look: Duration,
    asked: Option<Asked>,
    attempts: u32,
}

impl Reading {
    pub(crate) fn new(
        engine: &Engine,
        store: SimStore,
        own: Own,
        others: Vec<(JournalId, Seq)>,
        blind: bool,
    ) -> Self {
        let queue = Arc::<Queue>::default();
        engine.set_lookup(Arc::clone(&queue) as Arc<dyn Lookup>);
        Self { queue, store, own, blind, others, next_look: Duration::ZERO, asked: None, attempts: 0 }
    }

    pub(crate) fn step(&mut self, engine: &Engine, now: Now) -> Result<(), FlushError> {
        let freshness = engine.freshness();
        if now.elapsed >= self.next_look {
            self.next_look = now.elapsed + freshness.max_age() / 2;
            let journal = self.own.claim().journal;
            let others = self.store.others(journal);
            freshness.set_store_away(others.is_err());
            if let Ok(others) = others {
                freshness.looked(now.elapsed_ms(), others != self.others);
                self.others = others;
            }
            let confirmed = Seq(engine.vitals().applied_seq.load(Relaxed));
            if let Ok(found) = self.store.standing(journal)
                && !self.blind
            {
                self.own.check(found, confirmed)?;
            }
        }
        match self.asked.take() {
            Some(asked) => self.pass_on(asked),
            None => self.ask(engine),
        }
        Ok(())
    }

    fn ask(&mut self, engine: &Engine) {
        let requests = std::mem::take(&mut *lock(&self.queue.0));
        if requests.is_empty() {
            return;
        }
        let epoch = engine.freshness().epoch();
        let keys: Vec<&str> = requests.iter().map(|(key, _)| key.as_str()).collect();
        let snapshot = self.store.totals(self.own.claim().journal, &keys);
        engine.freshness().set_store_away(snapshot.is_err());
        let Ok(snapshot) = snapshot else {
            return refuse(requests);
        };
        let keys = requests.iter().map(|(key, _)| key.clone()).zip(snapshot.totals).collect();
        let (reply, answer) = channel();
        engine.controls().send(Control::Refresh { keys, watermark: snapshot.watermark, epoch, reply });
        self.asked = Some(Asked { requests, answer });
    }

    fn pass_on(&mut self, asked: Asked) {
        match asked.answer.try_recv() {
            Ok(Some(totals)) => {
                self.attempts = 0;
                for ((_, reply), total) in asked.requests.into_iter().zip(totals) {
                    drop(reply.send(Ok(total)));
                }
            }
            // It crossed a flush: again.
            Ok(None) if self.attempts < ATTEMPTS => {
                self.attempts += 1;
                lock(&self.queue.0).extend(asked.requests);
            }
            Ok(None) => {
                self.attempts = 0;
                refuse(asked.requests);
            }
            Err(TryRecvError::Empty) => self.asked = Some(asked),
            Err(TryRecvError::Disconnected) => {}
        }
    }
}

fn refuse(requests: Vec<(String, Reply)>) {
    for (_, reply) in requests {
        drop(reply.send(Err(Refusal::StoreAway("simulated".to_owned()))));
    }
}
