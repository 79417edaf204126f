//! Connections that do nothing, and more of them than may be.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::attacker::Attacker;
use crate::siege::{CONNECTION, Siege};
use crate::support::{Home, until};

/// Raises the limit of open files for this process, and so for the server, which inherits it.
/// `false`, with the reason printed, where it can't be so high.
fn may_open(files: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let enough = limit.maximum.is_none_or(|maximum| maximum >= files);
    if !enough || setrlimit(Resource::Nofile, raised).is_err() {
        println!("SKIPPED: it needs {files} open files, and this process may have {:?}", limit.maximum);
        return false;
    }
    true
}

#[test]
fn ten_thousand_idle_connections_are_kept_and_hinder_nobody() {
    const IDLE: usize = 10_000;
    if !may_open(IDLE as u64 + 500) {
        return;
    }
    let siege = Siege::begin("10,000 idle connections", Home::new(None));
    let mut attackers = Attacker::many(IDLE, siege.server.address());
    until("all are open", || {
        let open = siege.server.metric("incrementer_connections");
        (open >= IDLE as f64).then_some(())
    });
    siege.honest_get_on();
    siege.honest_get_on();
    // They are no worse than others: each is answered when it asks.
    for attacker in &mut attackers {
        assert!(attacker.send("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"));
    }
    for attacker in &mut attackers {
        assert_eq!(attacker.answer(), Some(200));
    }
    siege.honest_get_on();
    siege.end(IDLE as u64 * CONNECTION, &[]);
}

#[test]
fn past_the_limit_connections_are_turned_away_and_the_others_go_on() {
    let home = Home::new(None).set("http.max_connections", "100");
    let siege = Siege::begin("connections past the limit", home);
    let mut kept = Vec::new();
    let mut turned_away = 0;
    for _ in 0..1_000 {
        let mut attacker = Attacker::connect(siege.server.address());
        attacker.send("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n");
        match attacker.answer() {
            Some(200) => kept.push(attacker),
            Some(503) => turned_away += 1,
            // Where too many are being turned away already, it is only closed.
            None => turned_away += 1,
            other => panic!("{other:?}"),
        }
    }
    // The four honest clients have theirs.
    assert!(kept.len() <= 96, "{} were kept", kept.len());
    assert!(turned_away >= 904, "{turned_away} were turned away");
    siege.honest_get_on();
    siege.end(1_000 * CONNECTION, &[]);
}
