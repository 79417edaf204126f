//! Everything longer than it may be, or without an end.

use std::net::SocketAddr;

use crate::attacker::Attacker;
use crate::siege::{CONNECTION, READ, Siege};
use crate::size;
use crate::support::Home;

const KIB: usize = 1 << 10;
const MAX_BODY: usize = 64 * KIB;
const MAX_BULK_BODY: usize = 1024 * KIB;
/// So much is sent of what has no end, if nothing comes back: many times what may be kept.
const ENDLESS: usize = 64 << 20;

const JSON: &str = "POST /increment HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
const LINES: &str = "POST /increments HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-ndjson\r\n";
const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";

/// A beginning, what is sent after it for as long as nothing comes back, and the answer's status.
fn endless() -> Vec<(String, String, u16)> {
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
    let small_chunks = "1\r\n \r\n".repeat(1000);
    let x = "x".repeat(8 * KIB);
    let head = "GET /healthz HTTP/1.1\r\nhost: a\r\n";
    let endless = |beginning: String, more: &str, status| (beginning, more.to_owned(), status);
    vec![
        endless(String::new(), &x, 431),
        endless("GET /".to_owned(), &x, 431),
        endless("GET /healthz?".to_owned(), &x, 431),
        endless(format!("{head}x: "), &x, 431),
        endless(format!("{head}x"), &x, 431),
        endless(head.to_owned(), &"x: y\r\n".repeat(1000), 431),
        endless(format!("{JSON}{CHUNKED}"), &chunk, 413),
        endless(format!("{LINES}{CHUNKED}"), &chunk, 413),
        endless(format!("{JSON}{CHUNKED}"), &small_chunks, 413),
        endless(format!("{JSON}{CHUNKED}1;"), &x, 400),
        endless(format!("{JSON}{CHUNKED}0\r\nx: "), &x, 400),
        endless(format!("{JSON}{CHUNKED}0\r\n"), &"x: y\r\n".repeat(1000), 400),
        endless(format!("{JSON}content-length: 65537\r\n\r\n"), &x, 413),
        endless(format!("{LINES}content-length: 9223372036854775807\r\n\r\n"), &x, 413),
        endless(format!("{LINES}content-length: 18446744073709551616\r\n\r\n"), &x, 400),
    ]
}

fn json(body: &str) -> String {
    format!("{JSON}content-length: {}\r\n\r\n{body}", body.len())
}

/// Whole requests, as long as may be or too long, and the answer's status.
fn whole() -> Vec<(String, u16)> {
    let get = |target: &str, lines: &str| format!("GET {target} HTTP/1.1\r\nhost: a\r\n{lines}\r\n");
    let fill = |text: &str| text.repeat(MAX_BODY / text.len());
    let x = "x".repeat(15 * KIB);
    let id = format!("{JSON}idempotency-key: {x}\r\ncontent-length: 0\r\n\r\n");
    let prefer = format!("{JSON}prefer: {}\r\n", ",".repeat(15 * KIB));
    let plain = "{\"key\":\"large\",\"value\":1}";
    vec![
        (get("/healthz", &"x: y\r\n".repeat(101)), 431),
        (get(&format!("/{}", "x".repeat(70_000)), ""), 431),
        (get(&format!("/counters/{x}"), ""), 422),
        (get(&format!("/counters/{}", "%41".repeat(5_000)), ""), 422),
        (get(&format!("/counters?prefix={x}"), ""), 422),
        (get(&format!("/counters?{}", "&".repeat(15 * KIB)), ""), 200),
        (id, 400),
        (format!("{prefer}content-length: {}\r\n\r\n{plain}", plain.len()), 202),
        (json(&fill("[")), 400),
        (json(&fill("{\"x\":")), 400),
        (json(&format!("{{\"key\":\"{}\",\"value\":1}}", "k".repeat(MAX_BODY - 100))), 422),
        (json(&format!("{{\"key\":\"k\",\"value\":{}}}", "9".repeat(MAX_BODY - 100))), 422),
        (json(&format!("{{\"{}\":\"\",\"key\":\"large\",\"value\":1}}", "\\u0041".repeat(10_000))), 202),
        (
            json(&format!(
                "{{\"x\":{}{},\"key\":\"large\",\"value\":1}}",
                "[".repeat(30_000),
                "]".repeat(30_000)
            )),
            202,
        ),
    ]
}

/// As many entries as fit, and the same with a bad one at the end.
fn bulk(count: usize, last: &str) -> String {
    let body = format!("{}{last}", "{\"key\":\"bulk\",\"value\":1}\n".repeat(count));
    format!("{LINES}content-length: {}\r\n\r\n{body}", body.len())
}

const IN_BULK: usize = MAX_BULK_BODY / 25 - 1;

/// Everything once; how many requests counted `large`, and how many `bulk`.
fn attack(address: SocketAddr) -> (i64, i64) {
    for (beginning, more, status) in endless() {
        let mut attacker = Attacker::connect(address);
        let mut sent = attacker.send(&beginning);
        for _ in 0..ENDLESS / more.len() {
            if !sent || attacker.has_news() {
                break;
            }
            sent = attacker.send(&more);
        }
        assert_eq!(
            attacker.answers(),
            [status],
            "{beginning:?} and {} endlessly",
            &more[..more.len().min(20)]
        );
    }
    let (mut large, mut in_bulk) = (0, 0);
    for (request, status) in whole() {
        let mut attacker = Attacker::connect(address);
        attacker.send(&request);
        attacker.close_write();
        assert_eq!(attacker.answers(), [status], "{}", &request[..request.len().min(200)]);
        large += i64::from(status == 202);
    }
    for (last, status) in [("", 202), ("{\"key\":\"bulk\"}", 422)] {
        let mut attacker = Attacker::connect(address);
        attacker.send(bulk(IN_BULK, last));
        assert_eq!(attacker.answer(), Some(status));
        in_bulk += i64::from(status == 202);
    }
    (large, in_bulk)
}

#[test]
fn what_is_too_large_or_has_no_end_is_refused_before_it_is_kept() {
    let home = Home::new(None)
        .set("http.max_body_bytes", &format!("{MAX_BODY}B"))
        .set("http.max_bulk_body_bytes", &format!("{MAX_BULK_BODY}B"));
    let siege = Siege::begin("everything too large", home);
    let (threads, rounds) = (4, size(1, 10));
    let address = siege.server.address();
    let (mut large, mut in_bulk) = (0, 0);
    for _ in 0..rounds {
        let attackers: Vec<_> = (0..threads).map(|_| std::thread::spawn(move || attack(address))).collect();
        siege.honest_get_on();
        for attacker in attackers {
            let counted = attacker.join().unwrap();
            large += counted.0;
            in_bulk += counted.1;
        }
    }
    siege.honest_get_on();
    // Each thread has one bulk request at most on its way: its body in a vector that doubles (with
    // the old one beside the new one), the same packed (no longer than it), and once more in the
    // lane and in the journal's record. Those that are being closed keep the rest.
    let requests = (endless().len() + whole().len() + 2) as u64;
    let allowed = threads * (3 + 3 + 2 + 2) * MAX_BULK_BODY as u64 + threads * requests * (CONNECTION + READ);
    siege.end(allowed, &[("large", large), ("bulk", in_bulk * IN_BULK as i64)]);
}
