//! Clients that take their time: heads and bodies that never end, answers that nobody reads.

use crate::attacker::Attacker;
use crate::siege::{CONNECTION, READ, Siege};
use crate::size;
use crate::support::{Home, until};

const KIB: usize = 1 << 10;

/// None is cut off while the memory is looked at.
fn patient() -> Home {
    Home::new(None).set("http.header_timeout", "1h").set("http.body_timeout", "1h")
}

#[test]
fn heads_that_never_end_take_what_they_sent_and_no_more() {
    let siege = Siege::begin("slow heads", patient());
    let mut attackers = Attacker::many(size(500, 5_000), siege.server.address());
    let head = format!("POST /increment HTTP/1.1\r\nhost: a\r\nx-long: {}", "x".repeat(12 * KIB));
    for attacker in &mut attackers {
        assert!(attacker.send(&head));
    }
    siege.honest_get_on();
    // A little more of it, again and again.
    for _ in 0..3 {
        for attacker in &mut attackers {
            assert!(attacker.send("\r\nx: y"));
        }
        siege.honest_get_on();
    }
    assert!(!attackers.iter().any(Attacker::has_news), "one was answered before its head was there");
    let allowed = attackers.len() as u64 * (CONNECTION + READ);
    drop(attackers);
    siege.honest_get_on();
    siege.end(allowed, &[]);
}

#[test]
fn bodies_that_never_end_take_what_they_sent_and_no_more() {
    const SENT: usize = 60 * KIB;
    let siege = Siege::begin("slow bodies", patient());
    let mut attackers = Attacker::many(size(300, 3_000), siege.server.address());
    let length = "POST /increment HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n";
    let chunks = "POST /increments HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\nf0000\r\n";
    for (number, attacker) in attackers.iter_mut().enumerate() {
        let head = if number % 2 == 0 { length } else { chunks };
        assert!(attacker.send(format!("{head}{}", " ".repeat(SENT))));
    }
    siege.honest_get_on();
    for _ in 0..3 {
        for attacker in &mut attackers {
            assert!(attacker.send(" "));
        }
        siege.honest_get_on();
    }
    assert!(!attackers.iter().any(Attacker::has_news), "one was answered before its body was there");
    // A body is gathered in a vector that doubles past 64 KiB; its last piece may still lie in the
    // buffer before the one that is read into now.
    let allowed = attackers.len() as u64 * (CONNECTION + 2 * READ + 2 * 64 * KIB as u64);
    drop(attackers);
    siege.honest_get_on();
    siege.end(allowed, &[]);
}

#[test]
fn whoever_is_too_slow_is_told_so_and_cut_off() {
    let home = Home::new(None).set("http.header_timeout", "300ms").set("http.body_timeout", "300ms");
    let siege = Siege::begin("clients that are cut off", home);
    let mut attackers = Attacker::many(size(200, 2_000), siege.server.address());
    let json = "POST /increment HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
    let beginnings = [
        "POST /increment HTTP/1.1\r\nhost: a\r\nx: ".to_owned(),
        format!("{json}content-length: 1000000\r\n\r\n"),
        format!("{json}transfer-encoding: chunked\r\n\r\nfffff\r\n"),
        // White space after the size of a chunk has no bound but time.
        format!("{json}transfer-encoding: chunked\r\n\r\n1"),
    ];
    for (attacker, beginning) in attackers.iter_mut().zip(beginnings.iter().cycle()) {
        attacker.send(beginning);
    }
    let count = attackers.len();
    // Each goes on with a byte now and then until it is answered.
    until("all have been answered", || {
        let mut waiting = 0;
        for attacker in attackers.iter_mut().filter(|attacker| !attacker.has_news()) {
            attacker.send(" ");
            waiting += 1;
        }
        (waiting == 0).then_some(())
    });
    for attacker in &mut attackers {
        assert_eq!(attacker.answers(), [408]);
    }
    siege.honest_get_on();
    siege.end(count as u64 * (CONNECTION + READ), &[]);
}

#[test]
fn whoever_never_reads_gets_no_more_answers_made() {
    let siege = Siege::begin("clients that never read", patient());
    let mut attackers = Attacker::many(size(50, 500), siege.server.address());
    // Far more answers than the sockets on both sides could hold.
    let requests = "GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n".repeat(200);
    for attacker in &mut attackers {
        attacker.send(&requests);
    }
    siege.honest_get_on();
    siege.honest_get_on();
    // 64 KiB of answers may wait and one more be on its way, in a vector that doubles.
    let allowed = attackers.len() as u64 * (CONNECTION + READ + 2 * 2 * 64 * KIB as u64);
    drop(attackers);
    siege.honest_get_on();
    siege.end(allowed, &[]);
}
