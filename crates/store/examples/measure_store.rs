//! How fast a store applies batches and hands totals over, beside what the database does bare.
//!
//! ```text
//! cargo run --release -p store --features testing --example measure_store -- [table rows] [rows to load]
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement may panic")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use counter::{Batch, JournalId, OpenBatch, OwnerId, Seq};
use store::testing::ThrowawayPostgres;
use store::{Claim, Store, StoreUrl};

const ROUNDS: usize = 9;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse().expect("a number of rows"));
    let table_rows: u64 = numbers.next().unwrap_or(1_000_000);
    let load_rows: u64 = numbers.next().unwrap_or(10_000_000);
    postgres(table_rows, load_rows);
    sqlite(table_rows);
}

fn postgres(table_rows: u64, load_rows: u64) {
    let settings = ["shared_buffers=1GB", "max_wal_size=8GB", "checkpoint_timeout=1h", "autovacuum=off"];
    let server = ThrowawayPostgres::start_with(&["--encoding=UTF8", "--locale=C"], &settings);
    let (mut store, claim) = claimed(&server.url("measure").parse().unwrap());
    fill(&server, 0, table_rows);

    let mut seq = 0;
    for rows in [1_000, 10_000, 100_000] {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            // Each goes first every other time, and has keys of its own.
            let mut apply = || {
                ours.push(timed_apply(&mut *store, &claim, &batch(seq, rows, table_rows)));
                seq += 1;
            };
            if round % 2 == 0 {
                apply();
            }
            bare.push(timed_psql(&server, &batch(0, rows, table_rows)));
            if round % 2 == 1 {
                apply();
            }
        }
        let (ours, bare) = (median(ours), median(bare));
        println!(
            "postgres, {rows} of {table_rows} rows: store {:.0} rows/s, bare upsert {:.0} rows/s, ratio {:.2}",
            rows as f64 / ours,
            rows as f64 / bare,
            bare / ours
        );
    }

    fill(&server, table_rows, load_rows);
    let copy = |to: &str| {
        let start = Instant::now();
        server.sql(
            "measure",
            &format!("SET enable_seqscan = on; COPY (SELECT key, value FROM counters) TO {to}"),
        );
        start.elapsed().as_secs_f64()
    };
    copy("'/dev/null'");
    let (mut ours, mut text, mut binary) = (Vec::new(), Vec::new(), Vec::new());
    let mut count = 0;
    for _ in 0..3 {
        text.push(copy("'/dev/null'"));
        binary.push(copy("'/dev/null' (FORMAT binary)"));
        let start = Instant::now();
        let mut each = |_: &str, _| {
            count += 1;
            Ok(())
        };
        store.load(claim.journal, &mut each).unwrap();
        ours.push(start.elapsed().as_secs_f64());
    }
    println!(
        "postgres, load of {} rows: {:.1} s; COPY to /dev/null as text {:.1} s, binary {:.1} s",
        count / 3,
        median(ours),
        median(text),
        median(binary)
    );
}

fn sqlite(table_rows: u64) {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let (mut store, claim) = claimed(&StoreUrl::sqlite(directory.path().join("measure.db")));
    let mut seq = 0;
    let mut keys = 0..table_rows;
    loop {
        let mut open = OpenBatch::default();
        for key in keys.by_ref().take(100_000) {
            let row = open.open_row(&name(key), 0);
            open.add(row, 1);
        }
        if open.is_empty() {
            break;
        }
        timed_apply(&mut *store, &claim, &open.freeze(Seq(seq), Seq(seq + 1)));
        seq += 1;
    }
    for rows in [1_000, 10_000, 100_000] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            times.push(timed_apply(&mut *store, &claim, &batch(seq, rows, table_rows)));
            seq += 1;
        }
        println!("sqlite, {rows} of {table_rows} rows: {:.0} rows/s", rows as f64 / median(times));
    }
    let start = Instant::now();
    store.load(claim.journal, &mut |_, _| Ok(())).unwrap();
    println!("sqlite, load of {table_rows} rows: {:.2} s", start.elapsed().as_secs_f64());
}

fn claimed(url: &StoreUrl) -> (Box<dyn Store>, Claim) {
    let mut store = store::open(url).unwrap();
    store.prepare().unwrap();
    let claim = Claim { journal: JournalId::random().unwrap(), owner: OwnerId::random().unwrap() };
    store.claim(&claim, None, u64::MAX).unwrap();
    (store, claim)
}

fn fill(server: &ThrowawayPostgres, from: u64, to: u64) {
    if from < to {
        server.sql(
            "measure",
            &format!(
                "INSERT INTO counters SELECT 'user:' || lpad(n::text, 8, '0') || ':clicks', 1
                   FROM generate_series({from}, {to} - 1) n; "
            ),
        );
        server.sql("measure", "VACUUM ANALYZE counters");
        server.sql("measure", "CHECKPOINT");
    }
}

fn name(key: u64) -> String {
    format!("user:{key:08}:clicks")
}

/// Distinct keys at random, in the order of chance.
fn batch(seq: u64, rows: usize, of: u64) -> Batch {
    let mut chosen = std::collections::HashSet::new();
    let mut open = OpenBatch::default();
    while open.len() < rows {
        let key = fastrand::u64(0..of);
        if chosen.insert(key) {
            let row = open.open_row(&name(key), 0);
            open.add(row, 1);
        }
    }
    open.freeze(Seq(seq), Seq(seq + 1))
}

fn timed_apply(store: &mut dyn Store, claim: &Claim, batch: &Batch) -> f64 {
    // A sealed batch may well be sorted before its turn comes, and the bare one comes sorted.
    let start = Instant::now();
    let _ = batch.in_key_order();
    let applied = store.apply(claim, batch).unwrap();
    let elapsed = start.elapsed();
    assert!(applied.totals.iter().all(Option::is_some));
    elapsed.as_secs_f64()
}

/// The same by psql, which measures from sending the statement to the end of the answer.
fn timed_psql(server: &ThrowawayPostgres, batch: &Batch) -> f64 {
    let mut keys = String::new();
    for &row in batch.in_key_order() {
        let _ = write!(keys, "{},", batch.key(&batch.rows()[row as usize]));
    }
    let ones = "1,".repeat(batch.rows().len());
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(
        file,
        "\\timing on\nINSERT INTO counters SELECT * FROM unnest('{{{}}}'::text[], '{{{}}}'::bigint[]) \
         ON CONFLICT (key) DO UPDATE SET value = counters.value + excluded.value;",
        keys.trim_end_matches(','),
        ones.trim_end_matches(',')
    )
    .unwrap();
    let output = server.psql("measure").arg("-f").arg(file.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let time = text.split("Time: ").nth(1).and_then(|rest| rest.split(' ').next());
    let ms: f64 = time.unwrap_or_else(|| panic!("no time in {text:?}")).parse().unwrap();
    Duration::from_secs_f64(ms / 1000.0).as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
