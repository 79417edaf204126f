//! The way between a front door's thread and the writer, and back.
//!
//! Each front door's thread has a lane of its own. Requests gather in its inbox, which the writer
//! swaps out whole; answers come back in its outbox, a commit's worth at a time, and one wake-up
//! tells the thread's [driver](Lane::drive), which hands them to those who wait, on their own
//! thread. So neither side ever wakes the other once for each request.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::bell::Bell;
use crate::front::{Counted, Refusal};

/// How many requests may wait in a lane.
const MAX_REQUESTS: usize = 65_536;

/// What waits in a lane for the writer.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// Requests to count: who waits, and where its packed increments end in `packed`.
    pub(crate) counts: Vec<(Slot, u32)>,
    pub(crate) packed: Vec<u8>,
    /// Keys to read: who waits, and where the key ends in `keys`.
    pub(crate) reads: Vec<(Slot, u32)>,
    pub(crate) keys: String,
}

impl Inbox {
    pub(crate) fn clear(&mut self) {
        self.counts.clear();
        self.packed.clear();
        self.reads.clear();
        self.keys.clear();
    }

    fn len(&self) -> usize {
        self.counts.len() + self.reads.len()
    }
}

/// What the writer answers.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Counted(Counted),
    Refused(Box<Refusal>),
    /// The total, and whether it is young enough; `None` where memory doesn't hold the key.
    Total(Option<(i64, bool)>),
}

impl Answer {
    /// The answer to a request to count.
    pub(crate) fn counted(self) -> Result<Counted, Box<Refusal>> {
        match self {
            Self::Counted(counted) => Ok(counted),
            Self::Refused(refusal) => Err(refusal),
            // Only reads are answered so.
            Self::Total(_) => Err(Box::new(Refusal::Stopping)),
        }
    }
}

/// Who waits: a place among a lane's waiters, or [`SUBMITTED`].
pub(crate) type Slot = u32;

/// Nobody waits: the answer goes to all that was submitted, in its order.
const SUBMITTED: Slot = Slot::MAX;

#[derive(Debug)]
enum Waiter {
    Free {
        next: Option<Slot>,
    },
    Waiting(Option<Waker>),
    Answered(Answer),
    /// Its future was dropped; the answer will free the place.
    Gone,
}

#[derive(Debug, Default)]
struct Waiters {
    slots: Vec<Waiter>,
    free: Option<Slot>,
}

#[derive(Debug, Default)]
struct Outbox {
    answers: Vec<(Slot, Answer)>,
    driver: Option<Waker>,
}

/// Answers to what was submitted, and the task that takes them.
#[derive(Debug, Default)]
struct Submitted {
    answers: Vec<Result<Counted, Box<Refusal>>>,
    taker: Option<Waker>,
}

#[derive(Debug)]
struct Shared {
    inbox: Mutex<Inbox>,
    outbox: Mutex<Outbox>,
    waiters: Mutex<Waiters>,
    submitted: Mutex<Submitted>,
    bell: Arc<Bell>,
    max_packed: usize,
}

/// A lane. A clone is the same lane.
#[derive(Clone, Debug)]
pub(crate) struct Lane(Arc<Shared>);

impl Lane {
    /// `max_packed`: how many packed bytes may wait in it.
    pub(crate) fn new(bell: Arc<Bell>, max_packed: usize) -> Self {
        let (inbox, outbox, waiters) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { inbox, outbox, waiters, submitted: Mutex::default(), bell, max_packed }))
    }

    /// Hands over a request to count.
    pub(crate) fn count(&self, request: &[u8]) -> Result<Waiting, Refusal> {
        let slot = self.take_slot();
        self.put(slot, request, 1).inspect_err(|_| self.free_slot(slot))?;
        Ok(Waiting { lane: self.clone(), slot, done: false })
    }

    /// Hands over a request to count, whose answer will be among those that
    /// [`poll_submitted`](Self::poll_submitted) gives. `false`, and nothing is handed over, where the
    /// lane is half full: who submits may do so again and again, and is not to keep out those who
    /// wait for each answer.
    pub(crate) fn submit(&self, request: &[u8]) -> bool {
        self.put(SUBMITTED, request, 2).is_ok()
    }

    /// Into the first of so many equal parts of the lane.
    #[inline]
    fn put(&self, slot: Slot, request: &[u8], parts: usize) -> Result<(), Refusal> {
        let mut inbox = lock(&self.0.inbox);
        let packed = inbox.packed.len() + request.len();
        if inbox.len() >= MAX_REQUESTS / parts || packed > self.0.max_packed / parts {
            return Err(Refusal::Busy);
        }
        inbox.packed.extend_from_slice(request);
        inbox.counts.push((slot, packed as u32));
        drop(inbox);
        self.0.bell.ring();
        Ok(())
    }

    /// Appends the answers to what was submitted, in the order of submission.
    pub(crate) fn poll_submitted(
        &self,
        context: &Context<'_>,
        answers: &mut Vec<Result<Counted, Box<Refusal>>>,
    ) {
        let mut submitted = lock(&self.0.submitted);
        answers.append(&mut submitted.answers);
        if !submitted.taker.as_ref().is_some_and(|taker| taker.will_wake(context.waker())) {
            submitted.taker = Some(context.waker().clone());
        }
    }

    /// Hands over a key to read.
    pub(crate) fn read(&self, key: &str) -> Result<Waiting, Refusal> {
        let slot = self.take_slot();
        let mut inbox = lock(&self.0.inbox);
        if inbox.len() >= MAX_REQUESTS {
            drop(inbox);
            self.free_slot(slot);
            return Err(Refusal::Busy);
        }
        inbox.keys.push_str(key);
        let end = inbox.keys.len() as u32;
        inbox.reads.push((slot, end));
        drop(inbox);
        self.0.bell.ring();
        Ok(Waiting { lane: self.clone(), slot, done: false })
    }

    /// Hands answers to those who wait, for as long as it is polled: one of these has to run on
    /// the lane's thread.
    pub(crate) fn drive(self) -> impl Future<Output = ()> + Send {
        let mut answers = Vec::new();
        poll_fn(move |context| {
            {
                let mut outbox = lock(&self.0.outbox);
                std::mem::swap(&mut outbox.answers, &mut answers);
                if !outbox.driver.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                    outbox.driver = Some(context.waker().clone());
                }
            }
            self.hand_out(&mut answers);
            Poll::Pending
        })
    }

    /// Swaps the inbox for an empty one.
    pub(crate) fn take(&self, empty: &mut Inbox) {
        std::mem::swap(&mut *lock(&self.0.inbox), empty);
    }

    /// Puts answers into the outbox and wakes the driver once.
    pub(crate) fn answer(&self, answers: &mut Vec<(Slot, Answer)>) {
        if answers.is_empty() {
            return;
        }
        let driver = {
            let mut outbox = lock(&self.0.outbox);
            if outbox.answers.is_empty() {
                std::mem::swap(&mut outbox.answers, answers);
            } else {
                outbox.answers.append(answers);
            }
            outbox.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    fn hand_out(&self, answers: &mut Vec<(Slot, Answer)>) {
        if answers.is_empty() {
            return;
        }
        let mut waiters = lock(&self.0.waiters);
        let mut submitted = lock(&self.0.submitted);
        for (slot, answer) in answers.drain(..) {
            if slot == SUBMITTED {
                submitted.answers.push(answer.counted());
                continue;
            }
            let waiter = &mut waiters.slots[slot as usize];
            match std::mem::replace(waiter, Waiter::Answered(answer)) {
                Waiter::Waiting(Some(waker)) => waker.wake(),
                Waiter::Waiting(None) => {}
                Waiter::Gone | Waiter::Free { .. } | Waiter::Answered(_) => {
                    let next = waiters.free.replace(slot);
                    waiters.slots[slot as usize] = Waiter::Free { next };
                }
            }
        }
        if let (false, Some(taker)) = (submitted.answers.is_empty(), &submitted.taker) {
            taker.wake_by_ref();
        }
    }

    fn take_slot(&self) -> Slot {
        let mut waiters = lock(&self.0.waiters);
        let waiting = Waiter::Waiting(None);
        if let Some(slot) = waiters.free {
            if let Waiter::Free { next } = std::mem::replace(&mut waiters.slots[slot as usize], waiting) {
                waiters.free = next;
            }
            return slot;
        }
        waiters.slots.push(waiting);
        waiters.slots.len() as Slot - 1
    }

    fn free_slot(&self, slot: Slot) {
        let mut waiters = lock(&self.0.waiters);
        let next = waiters.free.replace(slot);
        waiters.slots[slot as usize] = Waiter::Free { next };
    }
}

/// An answer that is on its way. Dropping it takes nothing back.
#[derive(Debug)]
pub(crate) struct Waiting {
    lane: Lane,
    slot: Slot,
    done: bool,
}

impl Future for Waiting {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let slot = self.slot as usize;
        let mut waiters = lock(&self.lane.0.waiters);
        let next = waiters.free;
        match &mut waiters.slots[slot] {
            Waiter::Waiting(waker) => {
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                    *waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
            answered => {
                let taken = std::mem::replace(answered, Waiter::Free { next });
                waiters.free = Some(slot as Slot);
                drop(waiters);
                self.done = true;
                match taken {
                    Waiter::Answered(answer) => Poll::Ready(answer),
                    // A place is only given to one future, and freed when that is done.
                    _ => Poll::Ready(Answer::Refused(Box::new(Refusal::Stopping))),
                }
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut waiters = lock(&self.lane.0.waiters);
        let slot = self.slot as usize;
        if matches!(waiters.slots[slot], Waiter::Answered(_)) {
            let next = waiters.free.replace(self.slot);
            waiters.slots[slot] = Waiter::Free { next };
        } else {
            waiters.slots[slot] = Waiter::Gone;
        }
    }
}

/// A panic elsewhere ends the process (see supervision), so what it left is not looked at.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who pipelines without end would have others refused.
    #[test]
    fn what_is_submitted_leaves_half_of_the_lane_to_those_who_wait() {
        for (bytes, half) in [(1, MAX_REQUESTS / 2), (1_000, 500)] {
            let lane = Lane::new(Arc::new(Bell::new()), 1_000_000);
            let request = vec![0; bytes];
            let submitted = (0..MAX_REQUESTS).take_while(|_| lane.submit(&request)).count();
            assert_eq!((submitted, lane.submit(&request)), (half, false));
            let waiting = (0..half).map(|_| lane.count(&request)).collect::<Result<Vec<_>, _>>();
            assert_eq!(waiting.map(|waiting| waiting.len()), Ok(half));
            assert!(matches!(lane.count(&request), Err(Refusal::Busy)));
        }
    }
}
