//! What the front door counts about itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a request asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Route {
    /// `/increment`
    Increment,
    /// `/increments`
    Increments,
    /// `/counters/{key}`
    Counter,
    /// `/counters`
    Counters,
    /// `/healthz`
    Healthz,
    /// `/readyz`
    Readyz,
    /// `/metrics`
    Metrics,
    /// `/openapi.json`
    Openapi,
    /// Anything else.
    Unknown,
}

impl Route {
    /// Every one, in the order of their declaration.
    pub const ALL: [Self; 9] = [
        Self::Increment,
        Self::Increments,
        Self::Counter,
        Self::Counters,
        Self::Healthz,
        Self::Readyz,
        Self::Metrics,
        Self::Openapi,
        Self::Unknown,
    ];

    /// The path as the OpenAPI document spells it; `other` for [`Route::Unknown`].
    #[must_use]
    pub fn template(self) -> &'static str {
        match self {
            Self::Increment => "/increment",
            Self::Increments => "/increments",
            Self::Counter => "/counters/{key}",
            Self::Counters => "/counters",
            Self::Healthz => "/healthz",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::Openapi => "/openapi.json",
            Self::Unknown => "other",
        }
    }
}

/// The statuses that the service gives.
const STATUSES: [u16; 12] = [200, 202, 400, 404, 405, 408, 413, 415, 422, 429, 500, 503];

/// The counts of one worker. Only that worker writes them, so that a plain store is enough; the
/// alignment keeps two workers off each other's cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerStats {
    requests: [[AtomicU64; STATUSES.len()]; Route::ALL.len()],
    accepted: AtomicU64,
    refused: AtomicU64,
    ended: AtomicU64,
}

/// Counts of requests and connections over all workers, since the start. Reading costs the
/// workers nothing.
#[derive(Debug)]
pub struct Stats {
    workers: Box<[WorkerStats]>,
}

impl Stats {
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| WorkerStats::default()).collect() }
    }

    /// Requests answered, for each route and status that has occurred. What hyper refuses by
    /// itself (no HTTP, header section too large) and slow header sections aren't among them.
    pub fn requests(&self) -> impl Iterator<Item = (Route, u16, u64)> + '_ {
        Route::ALL.into_iter().flat_map(move |route| {
            STATUSES.into_iter().enumerate().filter_map(move |(at, status)| {
                let count = self.sum(|worker| &worker.requests[route as usize][at]);
                (count > 0).then_some((route, status, count))
            })
        })
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections_open(&self) -> u64 {
        // Ended first: read the other way round, one that ends in between would be below zero.
        let ended = self.sum(|worker| &worker.ended);
        self.sum(|worker| &worker.accepted).saturating_sub(ended)
    }

    /// Connections accepted and served.
    #[must_use]
    pub fn connections_accepted(&self) -> u64 {
        self.sum(|worker| &worker.accepted)
    }

    /// Connections turned away because `max_connections` were open.
    #[must_use]
    pub fn connections_refused(&self) -> u64 {
        self.sum(|worker| &worker.refused)
    }

    fn sum(&self, of: impl Fn(&WorkerStats) -> &AtomicU64) -> u64 {
        self.workers.iter().map(|worker| of(worker).load(Relaxed)).sum()
    }

    #[inline]
    pub(crate) fn count_request(&self, worker: usize, route: Route, status: u16) {
        let at = match status {
            202 => 1,
            _ => STATUSES.iter().position(|&known| known == status).unwrap_or(10),
        };
        bump(&self.workers[worker].requests[route as usize][at]);
    }

    pub(crate) fn count_accepted(&self, worker: usize) {
        bump(&self.workers[worker].accepted);
    }

    pub(crate) fn count_refused(&self, worker: usize) {
        bump(&self.workers[worker].refused);
    }

    pub(crate) fn count_ended(&self, worker: usize) {
        bump(&self.workers[worker].ended);
    }
}

/// No read-modify-write: each number has one writer.
#[inline]
fn bump(number: &AtomicU64) {
    number.store(number.load(Relaxed) + 1, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_over_workers() {
        let stats = Stats::new(2);
        for (worker, status) in [(0, 202), (1, 202), (1, 422), (0, 418)] {
            stats.count_request(worker, Route::Increment, status);
        }
        stats.count_accepted(0);
        stats.count_accepted(1);
        stats.count_ended(1);
        let requests: Vec<_> = stats.requests().collect();
        let route = Route::Increment;
        assert_eq!(requests, [(route, 202, 2), (route, 422, 1), (route, 500, 1)]);
        assert_eq!((stats.connections_open(), stats.connections_accepted()), (1, 2));
        assert!(Route::ALL.iter().enumerate().all(|(at, &route)| route as usize == at));
    }
}
