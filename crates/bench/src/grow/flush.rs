//! How fast the table takes a flush, beside what PostgreSQL does bare.
//!
//! It is the server's own code (`Store::apply`), in a journal of its own: no server runs
//! meanwhile, so that nothing is measured but the flush. All values are 0, which costs the same and
//! leaves the sums as they are.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context, ensure};
use counter::{Batch, JournalId, OpenBatch, OwnerId, Seq};
use store::{Claim, Store};

use crate::process::Interrupt;
use crate::run::server::Server;
use crate::stats::spread;

/// Pairs of batches.
const PAIRS: u64 = 9;
/// Keys in a batch, or all where there are fewer: what begins a flush by default.
const ROWS: u32 = 10_000;

/// Distinct keys per second: by the server's code, and by an upsert of sorted arrays in psql.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub(super) durable: f64,
    pub(super) psql: f64,
}

/// Flushes batches of random keys into the table, which holds `key-1` to `key-N`. Medians.
///
/// # Errors
/// The store's or psql's, or a signal came.
pub(super) fn rates(server: &Server, keys: u32, seed: u64, interrupt: &Interrupt) -> anyhow::Result<Rates> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut store = store::open(&server.store_url().parse()?)?;
    let claim = Claim { journal: JournalId::random()?, owner: OwnerId::random()? };
    store.claim(&claim, None, u64::MAX)?;
    let (mut durable, mut psql) = (Vec::new(), Vec::new());
    // The first pair makes connections and plans, and doesn't count.
    for pair in 0..=PAIRS {
        interrupt.check()?;
        let (ours, bare) = (batch(pair, keys, &mut random), batch(pair, keys, &mut random));
        let rows = f64::from(keys.min(ROWS));
        // Each goes first every other time.
        let (ours_s, bare_s) = if pair % 2 == 0 {
            let ours_s = applied_s(&mut *store, &claim, &ours)?;
            (ours_s, upserted_s(server, &bare)?)
        } else {
            let bare_s = upserted_s(server, &bare)?;
            (applied_s(&mut *store, &claim, &ours)?, bare_s)
        };
        if pair > 0 {
            durable.push(rows / ours_s);
            psql.push(rows / bare_s);
        }
    }
    let median = |rates: &[f64]| spread(rates).map(|spread| spread.median).context("a flush took no time");
    Ok(Rates { durable: median(&durable)?, psql: median(&psql)? })
}

/// Distinct keys at random.
fn batch(seq: u64, keys: u32, random: &mut fastrand::Rng) -> Batch {
    let (mut chosen, mut open) = (HashSet::new(), OpenBatch::default());
    while open.len() < keys.min(ROWS) as usize {
        let number = random.u32(1..=keys);
        if chosen.insert(number) {
            let row = open.open_row(&format!("key-{number}"), 0);
            open.add(row, 0);
        }
    }
    open.freeze(Seq(seq), Seq(seq + 1))
}

/// Sorting is a part of it: the server sorts between the last increment and the flush.
fn applied_s(store: &mut dyn Store, claim: &Claim, batch: &Batch) -> anyhow::Result<f64> {
    let began = Instant::now();
    let applied = store.apply(claim, batch)?;
    let took_s = began.elapsed().as_secs_f64();
    ensure!(applied.totals.iter().all(Option::is_some), "the store refused a key");
    Ok(took_s)
}

/// By psql's own clock, which runs from sending the statement to the end of the answer. The keys
/// come sorted.
fn upserted_s(server: &Server, batch: &Batch) -> anyhow::Result<f64> {
    let mut keys = String::new();
    for &row in batch.in_key_order() {
        let _ = write!(keys, "{},", batch.key(&batch.rows()[row as usize]));
    }
    let zeros = "0,".repeat(batch.rows().len());
    let (keys, zeros) = (keys.trim_end_matches(','), zeros.trim_end_matches(','));
    let script = server.directory().join("upsert.sql");
    let statement = format!(
        "\\timing on\nINSERT INTO counters SELECT * FROM unnest('{{{keys}}}'::text[], '{{{zeros}}}'::bigint[]) \
         ON CONFLICT (key) DO UPDATE SET value = counters.value + excluded.value;\n"
    );
    std::fs::write(&script, statement)?;
    let said = server.psql_file(&script)?;
    let time = said.split("Time: ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    Ok(time.with_context(|| format!("psql told no time: {}", said.trim()))? / 1000.0)
}
