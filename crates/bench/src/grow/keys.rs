//! The durable server at one number of counters: filled, under load, stopped, and started again.

use std::time::{Duration, Instant};

use anyhow::ensure;
use indicatif::ProgressBar;

use super::FILLED_IN_A_MS;
use super::bulk::{Bulk, settled};
use super::flush;
use crate::load::MODULUS;
use crate::proc;
use crate::process::{Interrupt, ask};
use crate::raw::{Figure, Run, SumCheck};
use crate::run::once::{Setting, sum_check, unaccounted};
use crate::run::server::{Kind, Server};

const RESTART_WITHIN: Duration = Duration::from_secs(600);
/// A server's memory varies by some 100 KiB, and flushes leave some MiB in the allocator: among
/// fewer counters that hides what they take.
const COUNTERS_SHOW_FROM: u32 = 10_000;

/// How long a point takes beside its load, about.
pub(super) fn costs_ms(keys: u32) -> u64 {
    // The restart, the flushes and the sums take half as long as the fill.
    20_000 + u64::from(keys) / FILLED_IN_A_MS * 3 / 2
}

/// Measures into `run`, and into `figures` what is not of the load.
///
/// # Errors
/// Anything that can't be measured, or a signal came.
pub(super) fn measure(
    setting: &Setting,
    run: &mut Run,
    figures: &mut Vec<Figure>,
    interrupt: &Interrupt,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let keys = setting.options.keys;
    let began_at = bar.position();
    let restarted_empty = restarted_empty(setting, interrupt)?;
    let mut server = Server::start(Kind::Durable, setting, interrupt)?;
    let mut figure = |run: &Run, subject: &str, quantity: &str, unit: &str, value: f64| {
        figures.push(Figure {
            series: run.series.clone(),
            point: run.point.clone(),
            round: run.round,
            subject: subject.to_owned(),
            quantity: quantity.to_owned(),
            value,
            unit: unit.to_owned(),
            failures: Vec::new(),
        });
    };
    Bulk::connect(server.address)?.warm_up(interrupt)?;
    let empty = proc::steady_memory(&server.pids(), interrupt)?;
    let progress = |sent: u32| bar.set_position(began_at + u64::from(sent) / FILLED_IN_A_MS);
    Bulk::connect(server.address)?.fill(keys, interrupt, progress)?;
    let full = proc::steady_memory(&server.pids(), interrupt)?;
    quiet_table(&server, keys)?;
    interrupt.check()?;

    let mut memory = |run: &Run, subject: &str, before: u64, after: u64| {
        figure(run, subject, "resident_memory", "bytes", after as f64);
        if keys < COUNTERS_SHOW_FROM {
            return;
        }
        let each = (after as f64 - before as f64) / f64::from(keys);
        figure(run, subject, "memory_per_counter_with_its_key", "bytes", each);
        figure(run, subject, "memory_per_counter", "bytes", each - key_bytes(keys));
    };
    memory(run, "durable", empty, full);
    let loads = setting.under_load(Kind::Durable, &server, run, interrupt, bar)?;
    // Its last flush brings in what is pending.
    server.stop_process(interrupt)?;

    let restart_s = restart(&mut server, setting, interrupt)?;
    settled(server.address, keys, interrupt)?;
    memory(run, "durable, restarted", restarted_empty, proc::steady_memory(&server.pids(), interrupt)?);
    figure(run, "durable", "restart", "s", restart_s);
    server.stop_process(interrupt)?;

    let rates = flush::rates(&server, keys, run.round.into(), interrupt)?;
    figure(run, "durable", "flush_keys", "keys/s", rates.durable);
    figure(run, "psql", "flush_keys", "keys/s", rates.psql);
    if let Some(stored) = server.stop(interrupt)? {
        let check = with_fill(sum_check(&loads, stored), keys);
        run.failures.extend(unaccounted(&check));
        run.sum_check = Some(check);
    }
    Ok(())
}

/// The resident memory of a server that was started again and has one counter, in bytes: a start
/// reads and rewrites a segment of the journal, and that leaves its mark.
fn restarted_empty(setting: &Setting, interrupt: &Interrupt) -> anyhow::Result<u64> {
    let mut server = Server::start(Kind::Durable, setting, interrupt)?;
    Bulk::connect(server.address)?.warm_up(interrupt)?;
    server.stop_process(interrupt)?;
    restart(&mut server, setting, interrupt)?;
    Ok(proc::steady_memory(&server.pids(), interrupt)?)
}

/// From the start of the process until it takes increments, in seconds. Nothing is pending.
fn restart(server: &mut Server, setting: &Setting, interrupt: &Interrupt) -> anyhow::Result<f64> {
    let address = server.address;
    let ready = || ask(address, "GET", "/readyz", "").is_ok_and(|(status, _)| status == 200);
    let began = Instant::now();
    server.start_process(setting)?.until_ready(RESTART_WITHIN, interrupt, ready)?;
    Ok(began.elapsed().as_secs_f64())
}

/// The table holds what the server does, and PostgreSQL has nothing left to do for it: the load
/// of every point begins alike.
fn quiet_table(server: &Server, keys: u32) -> anyhow::Result<()> {
    let said = server.psql(&["VACUUM (ANALYZE) counters", "CHECKPOINT", "SELECT count(*) FROM counters"])?;
    ensure!(said.trim() == keys.to_string(), "after the fill {} of {keys} keys are stored", said.trim());
    Ok(())
}

/// The mean length of `key-1` to `key-N`.
fn key_bytes(keys: u32) -> f64 {
    let keys = u64::from(keys);
    let (mut digits, mut from) = (0, 1);
    while from <= keys {
        // Each of these has one digit more than those before `from`.
        digits += keys - from + 1;
        from *= 10;
    }
    "key-".len() as f64 + digits as f64 / keys as f64
}

/// The fill sent 1 to each key.
fn with_fill(check: SumCheck, keys: u32) -> SumCheck {
    let keys = u64::from(keys);
    let weighted = keys * (keys + 1) / 2;
    let weighted_sent = check.weighted_sent.map(|sent| (sent + weighted) % MODULUS);
    SumCheck { sent: check.sent + keys, weighted_sent, ..check }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_length_of_keys_is_that_of_their_names() {
        for keys in [1, 9, 10, 11, 99, 100, 12_345] {
            let bytes: usize = (1..=keys).map(|number| format!("key-{number}").len()).sum();
            assert!((key_bytes(keys) - bytes as f64 / f64::from(keys)).abs() < 1e-9, "{keys}");
        }
        assert!((key_bytes(10_000_000) - 10.888_889_8).abs() < 1e-6, "{}", key_bytes(10_000_000));
    }

    #[test]
    fn the_fill_is_accounted_for() {
        let check = SumCheck { sent: 5, stored: 8, weighted_sent: Some(MODULUS - 1), ..SumCheck::default() };
        let check = with_fill(SumCheck { weighted_stored: Some(5), ..check }, 3);
        assert_eq!((check.sent, check.weighted_sent), (8, Some(5)));
        assert_eq!(unaccounted(&check), None);
    }
}
