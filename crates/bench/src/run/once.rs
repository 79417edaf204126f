//! One run: a server, a warm-up, the load, and whether what is stored accounts for it.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use indicatif::ProgressBar;

use super::server::{Kind, Server};
use super::{Options, beside, check_postgres, clock};
use crate::load::{self, MODULUS, Outcome, Plan, Shape};
use crate::proc;
use crate::process::{Interrupt, Interrupted, ask};
use crate::raw::{Cpu, Errors, Load, Metrics, Run, SumCheck};

/// What all runs of an experiment share.
pub(crate) struct Setting {
    pub(crate) options: Options,
    pub(crate) series: String,
    pub(crate) incrementer: PathBuf,
    pub(crate) shape: Shape,
    /// Known once the first PostgreSQL runs.
    pub(crate) postgres_version: RefCell<Option<(String, String)>>,
}

impl Setting {
    /// # Errors
    /// wrk is missing, or the server's binary is and would be needed; or wrk's threads can't have equal parts
    /// of the connections.
    pub(crate) fn new(options: &Options, series: &str) -> anyhow::Result<Self> {
        load::check()?;
        load::check_split(options.connections, options.threads)?;
        if options.servers.iter().any(|kind| kind.has_postgres()) {
            check_postgres()?;
        }
        let needed = options.servers.iter().any(|kind| kind.is_ours());
        let incrementer = match beside(options.incrementer.as_deref(), "--incrementer") {
            Err(error) if needed => return Err(error),
            found => found.unwrap_or_default(),
        };
        let (options, series) = (options.clone(), series.to_owned());
        let shape = Shape::SINGLE;
        Ok(Self { options, series, incrementer, shape, postgres_version: RefCell::default() })
    }

    /// Measures one server. What goes wrong with it stands in the run.
    ///
    /// # Errors
    /// A signal came.
    pub(crate) fn once(
        &self,
        kind: Kind,
        round: u32,
        place: u32,
        interrupt: &Interrupt,
        bar: &ProgressBar,
    ) -> Result<Run, Interrupted> {
        let options = &self.options;
        let mut run = self.planned(kind, round, place);
        let done_before = bar.position();
        if let Err(error) = self.measure(kind, &mut run, interrupt, bar) {
            interrupt.check()?;
            run.failures.push(format!("{error:#}"));
        }
        bar.set_position(done_before + u64::from(options.warm_up + options.seconds) * 1000);
        Ok(run)
    }

    /// A run of which nothing is measured yet.
    pub(crate) fn planned(&self, kind: Kind, round: u32, place: u32) -> Run {
        let options = &self.options;
        Run {
            series: self.series.clone(),
            round,
            place,
            server: kind.to_string(),
            load: Load {
                tool: "wrk".to_owned(),
                connections: options.connections,
                threads: options.threads.min(options.connections),
                seconds: options.seconds.into(),
                keys: options.keys.into(),
                per_request: self.shape.per_request,
                pipelined: self.shape.pipelined,
                rate: None,
            },
            seconds: options.seconds.into(),
            ..Run::default()
        }
    }

    fn measure(
        &self,
        kind: Kind,
        run: &mut Run,
        interrupt: &Interrupt,
        bar: &ProgressBar,
    ) -> anyhow::Result<()> {
        let server = Server::start(kind, self, interrupt)?;
        let loads = self.under_load(kind, &server, run, interrupt, bar)?;
        if let Some(stored) = server.stop(interrupt)? {
            let check = sum_check(&loads, stored);
            run.failures.extend(unaccounted(&check));
            run.sum_check = Some(check);
        }
        Ok(())
    }

    /// The warm-up and the load, which is measured into `run`. Returns what both sent.
    ///
    /// # Errors
    /// wrk fails, the metrics can't be read, or a signal came.
    pub(crate) fn under_load(
        &self,
        kind: Kind,
        server: &Server,
        run: &mut Run,
        interrupt: &Interrupt,
        bar: &ProgressBar,
    ) -> anyhow::Result<Vec<(Plan, Outcome)>> {
        if let Some(version) = server.store_version() {
            self.postgres_version.replace(Some(("postgres".to_owned(), version)));
        }
        let mut loads = Vec::new();
        if self.options.warm_up > 0 {
            let (plan, outcome) =
                self.load(kind, server, self.options.warm_up, run.round * 2, interrupt, bar)?;
            run.failures.extend(failures_of_warm_up(&outcome.errors));
            loads.push((plan, outcome));
        }
        let route = self.path(kind);
        let meter = Meter::begin(kind, server, route)?;
        // Every server of a round gets the same keys and values; no two rounds do.
        let seed = run.round * 2 + 1;
        let (plan, outcome) = self.load(kind, server, self.options.seconds, seed, interrupt, bar)?;
        run.requests = outcome.requests;
        run.increments = outcome.requests * u64::from(self.shape.per_request);
        run.seconds = outcome.seconds;
        // Of pipelined requests wrk tells how long a whole group took, made up with samples that it invents.
        run.latency_us = (self.shape.pipelined == 1).then(|| outcome.latency_us.clone());
        run.errors = outcome.errors.clone();
        run.failures.extend(failures_of_load(run));
        loads.push((plan, outcome));
        // Of the warm-up's, too, some may only be accepted now.
        meter.end(run, loads.iter().map(|(plan, _)| plan.requests_in_flight()).sum())?;
        Ok(loads)
    }

    fn path(&self, kind: Kind) -> &'static str {
        if self.shape.per_request > 1 { "/increments" } else { kind.request().0 }
    }

    fn load(
        &self,
        kind: Kind,
        server: &Server,
        seconds: u32,
        seed: u32,
        interrupt: &Interrupt,
        bar: &ProgressBar,
    ) -> anyhow::Result<(Plan, Outcome)> {
        let (path, form) = (self.path(kind), kind.request().1);
        let (connections, threads) = (self.options.connections, self.options.threads);
        let plan = Plan {
            address: server.address,
            path,
            form,
            connections,
            threads,
            seconds,
            keys: self.options.keys,
            seed,
            shape: self.shape,
        };
        let show = clock(bar, seconds);
        let outcome = plan.run(server.directory(), interrupt, show)?;
        Ok((plan, outcome))
    }
}

/// What the server spends and counts while it is under load.
pub(crate) struct Meter<'a> {
    server: &'a Server,
    kind: Kind,
    route: &'static str,
    metrics: Option<(u64, Metrics)>,
    of_server: Cpu,
    of_store: Option<Cpu>,
    of_load: Cpu,
}

impl<'a> Meter<'a> {
    /// # Errors
    /// The metrics can't be read.
    pub(crate) fn begin(kind: Kind, server: &'a Server, route: &'static str) -> anyhow::Result<Self> {
        Ok(Self {
            server,
            kind,
            route,
            metrics: metrics(kind, server, route)?,
            of_server: proc::cpu(&server.pids()),
            of_store: server.store_pid().map(|pid| proc::cpu(&[pid])),
            of_load: proc::cpu_of_waited(),
        })
    }

    /// Writes it into `run`, whose requests are known, with so many more in flight at most. Where the
    /// server counted others, the run doesn't count.
    ///
    /// # Errors
    /// The metrics can't be read.
    pub(crate) fn end(self, run: &mut Run, in_flight: u64) -> anyhow::Result<()> {
        let (pids, store) = (self.server.pids(), self.server.store_pid());
        run.load_cpu = proc::between(self.of_load, proc::cpu_of_waited());
        run.server_cpu = proc::between(self.of_server, proc::cpu(&pids));
        run.store_cpu =
            store.zip(self.of_store).map(|(pid, before)| proc::between(before, proc::cpu(&[pid])));
        run.peak_rss_bytes = proc::memory_bytes(&pids, "VmHWM");
        run.rss_bytes = proc::memory_bytes(&pids, "VmRSS");
        if let Some((accepted_before, before)) = self.metrics {
            let after = metrics(self.kind, self.server, self.route)?;
            let (accepted, after) = after.context("the metrics are gone")?;
            run.metrics = Some(gained(&before, &after));
            run.failures.extend(miscounted(accepted - accepted_before, run.requests, in_flight));
        }
        Ok(())
    }
}

pub(crate) fn failures_of_load(run: &Run) -> Vec<String> {
    let mut failures: Vec<String> = in_words(&run.errors).collect();
    if run.requests == 0 {
        failures.push("nothing was answered".to_owned());
    }
    failures
}

/// Its sums are checked with the load's, so what went wrong in it has to be told.
pub(crate) fn failures_of_warm_up(errors: &Errors) -> impl Iterator<Item = String> + use<> {
    in_words(errors).map(|what| format!("in the warm-up: {what}"))
}

fn in_words(errors: &Errors) -> impl Iterator<Item = String> + use<> {
    let &Errors { connect, read, write, timeout, status } = errors;
    let kinds = [
        (connect, "connections could not be made"),
        (read, "connections broke while an answer was read"),
        (write, "connections broke while a request was written"),
        (timeout, "answers took too long"),
        (status, "answers were refusals"),
    ];
    kinds.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"))
}

/// How the server's own count of accepted requests differs from the load tool's. Those in flight
/// at the stops may have been accepted besides.
fn miscounted(accepted: u64, answered: u64, in_flight: u64) -> Option<String> {
    let may_be = answered..=answered + in_flight;
    let differs = !may_be.contains(&accepted);
    differs.then(|| {
        format!("the server says that it accepted {accepted} requests, the load tool that {answered} were answered")
    })
}

/// What these loads sent beside what is stored.
pub(crate) fn sum_check(loads: &[(Plan, Outcome)], (stored, weighted_stored): (u64, u64)) -> SumCheck {
    let weighted = loads.iter().map(|(_, outcome)| outcome.weighted).sum::<u64>() % MODULUS;
    SumCheck {
        sent: loads.iter().map(|(_, outcome)| outcome.sent).sum(),
        in_flight: loads.iter().map(|(plan, outcome)| plan.in_flight(outcome)).sum(),
        stored,
        weighted_sent: Some(weighted),
        weighted_stored: Some(weighted_stored),
    }
}

/// What is stored and was not sent, or was answered and is not stored.
pub(crate) fn unaccounted(check: &SumCheck) -> Option<String> {
    let SumCheck { sent, in_flight, stored, .. } = *check;
    if stored > sent {
        return Some(format!("{} more is stored than was sent", stored - sent));
    }
    if sent - stored > in_flight {
        return Some(format!("{} of what was acknowledged is not stored", sent - stored - in_flight));
    }
    let elsewhere = sent == stored && check.weighted_sent != check.weighted_stored;
    elsewhere.then(|| "the sum is right, but increments went to other keys".to_owned())
}

/// How many increments incrementer has accepted, and its other counts; `None` for the others.
fn metrics(kind: Kind, server: &Server, route: &str) -> anyhow::Result<Option<(u64, Metrics)>> {
    if !kind.is_ours() {
        return Ok(None);
    }
    let page = metrics_page(server.address)?;
    let number = |name: &str| metric(&page, name);
    // A route that nobody has asked for has no line yet.
    let accepted = format!("incrementer_http_requests_total{{route=\"{route}\",status=\"202\"}}");
    let accepted = metric(&page, &accepted).unwrap_or(0.0);
    let metrics = Metrics {
        counted_requests: number("incrementer_counted_requests_total")? as u64,
        commits: number("incrementer_commits_total")? as u64,
        sync_s: number("incrementer_sync_seconds_total")?,
        flushes: number("incrementer_flushes_total")? as u64,
    };
    Ok(Some((accepted as u64, metrics)))
}

/// The page `/metrics` of incrementer.
///
/// # Errors
/// It doesn't answer.
pub(crate) fn metrics_page(address: SocketAddr) -> anyhow::Result<String> {
    Ok(ask(address, "GET", "/metrics", "").context("the metrics can't be read")?.1)
}

/// A number on the page of metrics.
///
/// # Errors
/// It isn't there.
pub(crate) fn metric(page: &str, name: &str) -> anyhow::Result<f64> {
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).with_context(|| format!("there is no metric {name}"))
}

fn gained(before: &Metrics, after: &Metrics) -> Metrics {
    Metrics {
        counted_requests: after.counted_requests - before.counted_requests,
        commits: after.commits - before.commits,
        sync_s: after.sync_s - before.sync_s,
        flushes: after.flushes - before.flushes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_accounts_for_what_was_sent() {
        let check = |stored, in_flight, weighted_stored| {
            let weighted_stored = Some(weighted_stored);
            unaccounted(&SumCheck { sent: 100, in_flight, stored, weighted_sent: Some(7), weighted_stored })
        };
        assert_eq!(check(100, 0, 7), None);
        assert_eq!(check(95, 5, 6), None);
        for (stored, in_flight, weighted, why) in [
            (101, 50, 8, "1 more is stored than was sent"),
            (99, 0, 6, "1 of what was acknowledged is not stored"),
            (94, 5, 6, "1 of what was acknowledged is not stored"),
            (100, 0, 8, "the sum is right, but increments went to other keys"),
        ] {
            assert_eq!(check(stored, in_flight, weighted).as_deref(), Some(why));
        }
    }

    #[test]
    fn what_the_server_accepted_was_answered_or_in_flight() {
        assert_eq!(miscounted(10, 10, 4), None);
        assert_eq!(miscounted(14, 10, 4), None);
        assert!(miscounted(9, 10, 4).is_some());
        assert!(miscounted(15, 10, 4).is_some());
    }
}
