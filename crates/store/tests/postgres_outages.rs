//! PostgreSQL that goes away, freezes, or whose answer gets lost.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use counter::Seq;
use store::testing::{ThrowawayPostgres, open_reader_with_timeout, open_with_timeout};
use store::{StoreError, StoreUrl};
use support::{Building, Fixture, is_away, new_claim, plain, server, wait_until};

#[test]
fn a_server_that_went_away_is_used_again_when_it_is_back() {
    let server = ThrowawayPostgres::start();
    let url: StoreUrl = server.url("totals").parse().unwrap();
    let (mut store, mut reader) = (store::open(&url).unwrap(), store::open_reader(&url).unwrap());
    store.prepare().unwrap();
    let claim = new_claim();
    store.claim(&claim, None, u64::MAX).unwrap();
    for seq in 0..5 {
        store.apply(&claim, &plain(seq, seq + 1, &[("a", 1)])).unwrap();
        reader.totals(claim.journal, &["a"]).unwrap();
        server.stop_immediate();
        if seq % 2 == 0 {
            assert!(is_away(store.apply(&claim, &plain(seq + 1, seq + 2, &[("a", 1)]))));
            assert!(matches!(reader.totals(claim.journal, &["a"]), Err(StoreError::Unavailable(_))));
        }
        // Every other time nobody notices that it was away.
        server.start_again();
    }
    let snapshot = reader.totals(claim.journal, &["a"]).unwrap();
    assert_eq!((snapshot.watermark, snapshot.totals), (Seq(5), vec![Some(5)]));
    assert_eq!(store.prepare().unwrap(), store::open(&url).unwrap().prepare().unwrap());
}

#[test]
fn a_frozen_server_ends_a_call_in_its_time() {
    let server = ThrowawayPostgres::start();
    for url in [server.url("totals"), server.socket_url("totals")] {
        let url: StoreUrl = url.parse().unwrap();
        let mut store = store::open(&url).unwrap();
        store.prepare().unwrap();
        let claim = new_claim();
        store.claim(&claim, None, u64::MAX).unwrap();
        drop(store);
        let step = Duration::from_millis(300);
        let (mut store, mut reader) = (open_with_timeout(&url, step), open_reader_with_timeout(&url, step));
        store.apply(&claim, &plain(0, 1, &[("a", 1)])).unwrap();
        let before = reader.totals(claim.journal, &["a"]).unwrap().totals[0].unwrap();

        server.sigstop();
        let batch = plain(1, 2, &[("a", 1)]);
        // The first finds a session that doesn't answer, the second a server that doesn't.
        for _ in 0..2 {
            assert!(is_away(store.apply(&claim, &batch)));
            assert!(reader.totals(claim.journal, &["a"]).is_err());
            assert!(store.standing(claim.journal).is_err());
            assert!(store.load(claim.journal, &mut |_, _| Ok(())).is_err());
        }
        server.sigcont();
        // The frozen server still has the statement of the first attempt, and may carry it out.
        wait_until("the batch is applied", || store.apply(&claim, &batch).is_ok());
        let totals = reader.totals(claim.journal, &["a"]).unwrap().totals;
        assert_eq!(totals, [Some(before + 1)]);
    }
}

/// Stands between a client and the server, and hangs up as soon as the server's answer contains
/// `needle`, which the client then never sees.
struct Eavesdropper {
    port: u16,
    armed: Arc<AtomicBool>,
}

impl Eavesdropper {
    fn new(server_port: u16, needle: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let armed = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&armed);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect(("127.0.0.1", server_port)).unwrap();
                let (mut up_from, mut up_to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut up_from, &mut up_to));
                let flag = Arc::clone(&flag);
                thread::spawn(move || forward(server, client, &flag, needle));
            }
        });
        Self { port, armed }
    }
}

fn forward(mut server: TcpStream, mut client: TcpStream, armed: &AtomicBool, needle: &[u8]) {
    let mut buffer = [0; 65536];
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        let answer = &buffer[..count];
        let found = answer.windows(needle.len()).any(|window| window == needle);
        if found && armed.swap(false, Ordering::SeqCst) {
            break;
        }
        if client.write_all(answer).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

/// Why the watermark is read where an answer is missing: the server had committed the batch, and
/// a server that applied it again would count it twice.
#[test]
fn a_commit_whose_answer_is_lost_counts_once() {
    let direct = Fixture::postgres();
    let (_, claim) = direct.claimed();
    let url = server().url("x");
    let port: u16 = url.rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap();
    let database = direct.url().to_string().rsplit('/').next().unwrap().to_owned();
    let batches = [
        (&b"INSERT 0 2\0"[..], plain(0, 1, &[("a", 1), ("b", 1)])),
        (
            b"COMMIT\0",
            Building::default().add("a", 1).unit("u", 1, &[("b", 1)]).unit("u", 1, &[("b", 1)]).batch(1, 2),
        ),
    ];
    for (number, (needle, batch)) in batches.iter().enumerate() {
        let between = Eavesdropper::new(port, needle);
        let url = format!("postgres://postgres@127.0.0.1:{}/{database}", between.port);
        let mut store = store::open(&url.parse().unwrap()).unwrap();
        store.standing(claim.journal).unwrap();
        between.armed.store(true, Ordering::SeqCst);
        assert!(is_away(store.apply(&claim, batch)));
        assert!(!between.armed.load(Ordering::SeqCst), "the answer was cut off");
        assert_eq!(direct.sql("SELECT seq FROM journals"), format!("{}", number + 1));
        let applied = store.apply(&claim, batch).unwrap();
        let each = Some(number as i64 + 1);
        assert_eq!(applied.totals, [each, each]);
        assert_eq!(applied.duplicates.len(), number);
    }
    assert_eq!(direct.table(), "a|2\nb|2");
}
