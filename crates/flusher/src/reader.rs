//! Asks the store for what memory doesn't hold, and looks whether other instances have flushed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use counter::{JournalId, Seq};
use engine::{Clock, Control, Controls, Freshness, Lookup, Page, PageRequest, Refusal, Vitals};
use store::{PageQuery, StoreError, StoreReader};
use tokio::sync::oneshot;

use crate::flusher::FlushError;
use crate::own::Own;

/// How many requests may wait for the store.
const QUEUE: usize = 1024;
/// So many keys are asked for in one round trip.
const KEYS_AT_ONCE: usize = 256;
/// An answer that crossed a flush is asked for again so often.
const ATTEMPTS: usize = 500;
/// After the store was found away, it is left alone for so long.
const LEAVE_ALONE: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum Request {
    Total { key: String, reply: oneshot::Sender<Result<Option<i64>, Refusal>> },
    Page { request: PageRequest, reply: oneshot::Sender<Result<Page, Refusal>> },
}

/// The way to the reader's thread, for the engine's fronts.
#[derive(Debug)]
pub struct ReaderQueue(SyncSender<Request>);

impl ReaderQueue {
    /// A way that nobody stands at the end of yet.
    #[must_use]
    pub fn new() -> (Arc<Self>, ReaderRequests) {
        let (sender, receiver) = sync_channel(QUEUE);
        (Arc::new(Self(sender)), ReaderRequests(receiver))
    }

    fn send(&self, request: Request) {
        let (request, refusal) = match self.0.try_send(request) {
            Ok(()) => return,
            Err(TrySendError::Full(request)) => (request, Refusal::Busy),
            Err(TrySendError::Disconnected(request)) => (request, Refusal::Stopping),
        };
        // Who asked may be gone.
        match request {
            Request::Total { reply, .. } => drop(reply.send(Err(refusal))),
            Request::Page { reply, .. } => drop(reply.send(Err(refusal))),
        }
    }
}

/// The other end of a [`ReaderQueue`].
#[derive(Debug)]
pub struct ReaderRequests(Receiver<Request>);

impl Lookup for ReaderQueue {
    fn total(&self, key: String, reply: oneshot::Sender<Result<Option<i64>, Refusal>>) {
        self.send(Request::Total { key, reply });
    }

    fn page(&self, request: PageRequest, reply: oneshot::Sender<Result<Page, Refusal>>) {
        self.send(Request::Page { request, reply });
    }
}

/// Owns the store's second connection.
#[derive(Debug)]
pub struct Reader<S, C> {
    store: S,
    own: Own,
    controls: Controls,
    freshness: Arc<Freshness>,
    vitals: Arc<Vitals>,
    clock: C,
    /// The watermarks of the other journals, as they were last seen.
    others: HashMap<JournalId, Seq>,
    /// Until when the store is left alone, in time elapsed, and why.
    away: Option<(Duration, String)>,
}

impl<S: AsMut<dyn StoreReader>, C: Clock> Reader<S, C> {
    /// For the instance `own`; `others` is what its start saw of the others.
    #[must_use]
    pub fn new(
        store: S,
        own: Own,
        controls: Controls,
        freshness: Arc<Freshness>,
        vitals: Arc<Vitals>,
        clock: C,
        others: Vec<(JournalId, Seq)>,
    ) -> Self {
        let others = others.into_iter().collect();
        Self { store, own, controls, freshness, vitals, clock, others, away: None }
    }

    /// The reader's thread: answers until nobody can ask any more.
    ///
    /// # Errors
    /// The instance's own row is not as it left it: no batch can be applied any more.
    pub fn run(&mut self, requests: &ReaderRequests) -> Result<(), FlushError> {
        // With 0, nothing that memory holds is ever young enough, so there is nothing to look for.
        let max_age = Some(self.freshness.max_age()).filter(|age| !age.is_zero()).unwrap_or(Duration::MAX);
        let every = (max_age / 2).clamp(Duration::from_millis(20), Duration::from_secs(60));
        let mut next_look = self.clock.now().elapsed + every;
        loop {
            let wait = next_look.saturating_sub(self.clock.now().elapsed);
            match requests.0.recv_timeout(wait) {
                Ok(request) => self.serve(request, requests),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let now = self.clock.now().elapsed;
            if now >= next_look {
                self.look();
                self.look_at_own_row()?;
                next_look = self.clock.now().elapsed + every;
            }
        }
    }

    /// Looks whether other instances have flushed.
    fn look(&mut self) {
        let began_ms = self.clock.now().elapsed_ms();
        let journal = self.own.claim().journal;
        let Ok(others) = self.ask(|store| store.others(journal)) else { return };
        let others: HashMap<_, _> = others.into_iter().collect();
        self.freshness.looked(began_ms, others != self.others);
        self.others = others;
    }

    /// Looks whether the store still has what it had confirmed: a server that has nothing to flush
    /// would not find out otherwise.
    fn look_at_own_row(&mut self) -> Result<(), FlushError> {
        // Before the store is asked: it may only have more by then.
        let confirmed = Seq(self.vitals.applied_seq.load(Relaxed));
        let journal = self.own.claim().journal;
        self.ask(|store| store.standing(journal)).map_or(Ok(()), |found| self.own.check(found, confirmed))
    }

    /// Serves a request, together with the totals that wait behind it.
    fn serve(&mut self, request: Request, requests: &ReaderRequests) {
        let mut totals = Vec::new();
        let mut next = Some(request);
        while let Some(request) = next.take() {
            match request {
                Request::Total { key, reply } => totals.push((key, reply)),
                Request::Page { request, reply } => drop(reply.send(self.page(&request))),
            }
            if totals.len() < KEYS_AT_ONCE {
                next = requests.0.try_recv().ok();
            }
        }
        if totals.is_empty() {
            return;
        }
        let (keys, replies): (Vec<String>, Vec<_>) = totals.into_iter().unzip();
        match self.totals(&keys) {
            Ok(totals) => {
                for (reply, total) in replies.into_iter().zip(totals) {
                    let _ = reply.send(Ok(total));
                }
            }
            Err(refusal) => {
                for reply in replies {
                    let _ = reply.send(Err(refusal.clone()));
                }
            }
        }
    }

    /// Totals out of the store, put together with what is pending.
    fn totals(&mut self, keys: &[String]) -> Result<Vec<Option<i64>>, Refusal> {
        let journal = self.own.claim().journal;
        let names: Vec<&str> = keys.iter().map(String::as_str).collect();
        for _ in 0..ATTEMPTS {
            let epoch = self.freshness.epoch();
            let snapshot = self.ask(|store| store.totals(journal, &names))?;
            let stored = keys.iter().cloned().zip(snapshot.totals).collect();
            let watermark = snapshot.watermark;
            let answer = self
                .controls
                .ask(|reply| Control::Refresh { keys: stored, watermark, epoch, reply })
                .map_err(|_| Refusal::Stopping)?;
            if let Some(totals) = answer {
                return Ok(totals);
            }
            // A flush was between the two; it is settled within milliseconds.
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(Refusal::StoreAway("a flush is being taken over; try again".to_owned()))
    }

    /// A page: its keys from the store's index and from what is pending, its values from memory.
    fn page(&mut self, request: &PageRequest) -> Result<Page, Refusal> {
        let limit = request.limit.max(1) as usize;
        let (prefix, after) = (request.prefix.clone(), request.after.clone());
        // Before the store is asked: what is flushed in between is then in one of the two.
        let (open, frozen) = self
            .controls
            .ask(|reply| Control::PendingKeys { prefix, after, reply })
            .map_err(|_| Refusal::Stopping)?;
        // One more than fits tells whether there is a next page.
        let query =
            PageQuery { prefix: &request.prefix, after: request.after.as_deref(), limit: limit as u32 + 1 };
        let mut keys = self.ask(|store| store.page(&query))?;
        for batch in &frozen {
            let order = batch.in_key_order();
            let key_at = |row: &u32| batch.key(&batch.rows()[*row as usize]);
            let first = order.partition_point(|row| {
                let key = key_at(row);
                key < query.prefix || query.after.is_some_and(|after| key <= after)
            });
            let pending = order[first..].iter().map(key_at);
            let pending = pending.take_while(|key| key.starts_with(query.prefix)).take(limit + 1);
            keys.extend(pending.map(str::to_owned));
        }
        keys.extend(open);
        keys.sort_unstable();
        keys.dedup();
        let more = keys.len() > limit;
        keys.truncate(limit);
        let next = keys.last().filter(|_| more).cloned();
        let totals = self.values(&keys)?;
        let counters = keys.into_iter().zip(totals).filter_map(|(key, total)| Some((key, total?))).collect();
        Ok(Page { counters, next })
    }

    /// Totals from memory; of the store where memory doesn't hold them, or not freshly.
    fn values(&mut self, keys: &[String]) -> Result<Vec<Option<i64>>, Refusal> {
        let asked = keys.to_vec();
        let known = self
            .controls
            .ask(|reply| Control::Totals { keys: asked, reply })
            .map_err(|_| Refusal::Stopping)?;
        let mut totals: Vec<_> = known.iter().map(|known| known.map(|(total, _)| total)).collect();
        let stale: Vec<usize> =
            (0..keys.len()).filter(|&at| !known[at].is_some_and(|(_, fresh)| fresh)).collect();
        if !stale.is_empty() {
            let names: Vec<String> = stale.iter().map(|&at| keys[at].clone()).collect();
            for (at, total) in stale.into_iter().zip(self.totals(&names)?) {
                totals[at] = total;
            }
        }
        Ok(totals)
    }

    /// Asks the store, unless it was found away just now.
    fn ask<T>(
        &mut self,
        question: impl FnOnce(&mut dyn StoreReader) -> Result<T, StoreError>,
    ) -> Result<T, Refusal> {
        let now = self.clock.now().elapsed;
        if let Some((until, reason)) = &self.away
            && now < *until
        {
            return Err(Refusal::StoreAway(reason.clone()));
        }
        let answer = question(self.store.as_mut());
        self.freshness.set_store_away(answer.is_err());
        match answer {
            Ok(answer) => {
                self.away = None;
                Ok(answer)
            }
            Err(StoreError::Unavailable(reason) | StoreError::Refused(reason)) => {
                if self.away.is_none() {
                    tracing::warn!(reason, "The store can't be read; reads go on from memory");
                }
                self.away = Some((self.clock.now().elapsed + LEAVE_ALONE, reason.clone()));
                Err(Refusal::StoreAway(reason))
            }
        }
    }
}
