//! Requests that mean one thing to whoever stands before the server and another to the server.
//! Whatever can't be told for certain is refused, and nothing after it is ever taken for a request.

use crate::attacker::Attacker;
use crate::siege::{CONNECTION, READ, Siege};
use crate::support::Home;

const BODY: &str = r#"{"key":"victim","value":1}"#;
const LINE: &str = "POST /increment HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";

/// A whole request of its own.
fn increment(key: &str) -> String {
    let body = format!(r#"{{"key":"{key}","value":1}}"#);
    format!("{LINE}content-length: {}\r\n\r\n{body}", body.len())
}

/// [`BODY`] as a chunk, and the end.
fn chunks() -> String {
    format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len())
}

/// With `lines` in its head, and a body that makes sense with a length as well as in chunks.
fn with_lines(lines: &str) -> String {
    format!("{LINE}{lines}\r\n{}", chunks())
}

/// In chunks, which are given as they are.
fn in_chunks(chunks: &str) -> String {
    format!("{LINE}transfer-encoding: chunked\r\n\r\n{chunks}")
}

fn refused() -> Vec<String> {
    let length = chunks().len();
    let lines = [
        // Two lengths, or one that isn't a number by the letter.
        format!("content-length: 5\r\ncontent-length: {length}\r\n"),
        format!("content-length: {length}\r\ncontent-length: 0\r\n"),
        format!("content-length: 0\r\ncontent-length: {length}\r\n"),
        format!("content-length: {length}, {length}\r\n"),
        format!("content-length: +{length}\r\n"),
        format!("content-length: 0x{length:x}\r\n"),
        format!("content-length: {length}_0\r\n"),
        format!("content-length: {length}.0\r\n"),
        format!("content-length: 1 {length}\r\n"),
        format!("content-length: \"{length}\"\r\n"),
        "content-length: \r\n".to_owned(),
        "content-length: -1\r\n".to_owned(),
        "content-length: 18446744073709551642\r\n".to_owned(),
        // A coding that one of two might not see.
        "transfer-encoding: xchunked\r\n".to_owned(),
        "transfer-encoding: chunked, identity\r\n".to_owned(),
        "transfer-encoding: identity, chunked\r\n".to_owned(),
        "transfer-encoding: chunked, chunked\r\n".to_owned(),
        "transfer-encoding: chunked;q=1\r\n".to_owned(),
        "transfer-encoding: \"chunked\"\r\n".to_owned(),
        "transfer-encoding: chunked\x0b\r\n".to_owned(),
        "transfer-encoding: \x0bchunked\r\n".to_owned(),
        "transfer-encoding: chunked\0\r\n".to_owned(),
        "transfer-encoding: chunke\u{212a}\r\n".to_owned(),
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n".to_owned(),
        "transfer-encoding: x\r\ntransfer-encoding: chunked\r\n".to_owned(),
        "transfer-encoding:\r\n".to_owned(),
        // Lines that one of two might put together otherwise.
        "transfer-encoding : chunked\r\n".to_owned(),
        "transfer-encoding\t: chunked\r\n".to_owned(),
        "transfer-encoding:\r\n chunked\r\n".to_owned(),
        "x: y\r\n transfer-encoding: chunked\r\n".to_owned(),
        " transfer-encoding: chunked\r\n".to_owned(),
        "transfer-encoding\0: chunked\r\n".to_owned(),
        "transfer\u{2d}encoding\x01: chunked\r\n".to_owned(),
        "x: y\rtransfer-encoding: chunked\r\n".to_owned(),
        "x: y\0\r\ntransfer-encoding: chunked\r\n".to_owned(),
        ": y\r\ntransfer-encoding: chunked\r\n".to_owned(),
        "transfer-encoding chunked\r\n".to_owned(),
        "host: b\r\ntransfer-encoding: chunked\r\n".to_owned(),
        "content-type: text/plain\r\ntransfer-encoding: chunked\r\n".to_owned(),
    ];
    let size = format!("{:x}", BODY.len());
    let bodies = [
        // Sizes.
        format!("0x{size}\r\n{BODY}\r\n0\r\n\r\n"),
        format!("+{size}\r\n{BODY}\r\n0\r\n\r\n"),
        format!("-{size}\r\n{BODY}\r\n0\r\n\r\n"),
        format!("{size}g\r\n{BODY}\r\n0\r\n\r\n"),
        format!("1_a\r\n{BODY}\r\n0\r\n\r\n"),
        format!("10000000000000000{size}\r\n{BODY}\r\n0\r\n\r\n"),
        format!(" \r\n{BODY}\r\n0\r\n\r\n"),
        format!("\r\n{BODY}\r\n0\r\n\r\n"),
        format!(";x\r\n{BODY}\r\n0\r\n\r\n"),
        format!("{size} {size}\r\n{BODY}\r\n0\r\n\r\n"),
        // Ends of lines: half of one, or none.
        format!("{size}\n{BODY}\r\n0\r\n\r\n"),
        format!("{size}\r{BODY}\r\n0\r\n\r\n"),
        format!("{size};x\ny\r\n{BODY}\r\n0\r\n\r\n"),
        format!("{size};x\n{BODY}\r\n0\r\n\r\n"),
        format!("{size}\r\n{BODY}\n0\r\n\r\n"),
        format!("{size}\r\n{BODY}0\r\n\r\n"),
        format!("{size}\r\n{BODY}xx0\r\n\r\n"),
        format!("{size}\r\n{BODY}\r\n0\n\n"),
        // Trailers.
        format!("{size}\r\n{BODY}\r\n0\r\nno colon\r\n\r\n"),
        format!("{size}\r\n{BODY}\r\n0\r\nx : y\r\n\r\n"),
        format!("{size}\r\n{BODY}\r\n0\r\nx: y\r\n z\r\n\r\n"),
        format!("{size}\r\n{BODY}\r\n0\r\nx: \0\r\n\r\n"),
    ];
    let first_lines = [
        "POST /increment HTTP/1.0\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        "POST  /increment HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST\t/increment HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /increment  HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /increment HTTP/1.1 \r\nhost: a\r\n\r\n",
        "POST /incre\0ment HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /increment HTTP/1.2\r\nhost: a\r\n\r\n",
        "POST /increment HTTP/2.0\r\nhost: a\r\n\r\n",
        "POST /increment http/1.1\r\nhost: a\r\n\r\n",
        "POST /increment\r\n\r\n",
        "GET http://a b/counters HTTP/1.1\r\nhost: a\r\n\r\n",
        "PO(ST /increment HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /increment HTTP/1.1\r\n\r\n",
        "POST /increment HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "POST /increment HTTP/1.1\r\nhost: a/b\r\n\r\n",
    ];
    let lines = lines.iter().map(|lines| with_lines(lines));
    let bodies = bodies.iter().map(|chunks| in_chunks(chunks));
    lines.chain(bodies).chain(first_lines.map(|line| format!("{line}{}", chunks()))).collect()
}

/// The statuses of the answers to each; those of 202 count the victim once.
fn understood() -> Vec<(String, Vec<u16>)> {
    let size = format!("{:x}", BODY.len());
    let length = BODY.len();
    let inner = increment("smuggled");
    let inner_length = inner.len();
    let once = |request: String| (request, vec![202]);
    vec![
        once(with_lines("transfer-encoding: chunked\r\n")),
        once(with_lines("transfer-encoding:chunked\r\n")),
        once(with_lines("transfer-encoding: \t chunked \t\r\n")),
        once(with_lines("Transfer-Encoding: CHUNKED\r\nconnection: transfer-encoding\r\n")),
        // A line may end in LF alone where no chunk begins (RFC 9112, section 2.2).
        once(with_lines("x: y\ntransfer-encoding: chunked\r\n")),
        once(format!("{LINE}content-length: {length}\r\ncontent-length: {length}\r\n\r\n{BODY}")),
        once(format!("{LINE}content-length: 000{length}\r\n\r\n{BODY}")),
        once(format!("{LINE}content-length: {length}\r\nconnection: content-length, x\r\n\r\n{BODY}")),
        once(format!("\r\n\r\n{LINE}content-length: {length}\r\n\r\n{BODY}")),
        // Names another host than Host does: neither chooses anything here.
        once(
            format!("{LINE}content-length: {length}\r\n\r\n{BODY}")
                .replace("POST /increment", "POST http://b.example:1/increment"),
        ),
        once(in_chunks(&format!("000{}\r\n{BODY}\r\n000\r\n\r\n", size.to_uppercase()))),
        once(in_chunks(&format!("{size};x=\"\t{inner_length}\"\r\n{BODY}\r\n0;y\r\n\r\n"))),
        // Bodies that look like requests, and that nobody wants.
        (
            format!("GET /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: {inner_length}\r\n\r\n{inner}"),
            vec![200],
        ),
        (
            format!("PUT /increment HTTP/1.1\r\nhost: a\r\ncontent-length: {inner_length}\r\n\r\n{inner}"),
            vec![405],
        ),
        (
            format!("POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: {inner_length}\r\n\r\n{inner}"),
            vec![404],
        ),
        (format!("{LINE}content-length: {inner_length}\r\n\r\n{inner}"), vec![400]),
    ]
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_and_ends_the_connection() {
    let siege = Siege::begin("smuggling", Home::new(None));
    let refused = refused();
    for request in &refused {
        let mut attacker = Attacker::connect(siege.server.address());
        attacker.send(format!("{request}{}", increment("smuggled")));
        assert_eq!(attacker.answers(), [400], "{request:?}");
    }
    // This is HTTP/2, which isn't even answered.
    let mut attacker = Attacker::connect(siege.server.address());
    attacker.send(format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{}", increment("smuggled")));
    assert_eq!(attacker.answers(), [0_u16; 0]);
    let understood = understood();
    let mut victims = 0;
    for (request, statuses) in &understood {
        let mut attacker = Attacker::connect(siege.server.address());
        attacker.send(format!("{request}{}", increment("after")));
        attacker.close_write();
        assert_eq!(attacker.answers(), [&statuses[..], &[202]].concat(), "{request:?}");
        victims += statuses.iter().filter(|status| **status == 202).count() as i64;
    }
    // With trailers, a request is its connection's last: nobody agrees on where those end.
    let trailers = ["content-length: 999\r\nhost: b\r\n\r\n", "\n", "x: y\n\r\n", "x: y\r\n\n"];
    for trailers in trailers {
        let mut attacker = Attacker::connect(siege.server.address());
        let request = in_chunks(&chunks().replace("0\r\n\r\n", &format!("0\r\n{trailers}")));
        let inner = increment("smuggled");
        attacker.send(format!("{request}{LINE}content-length: {}\r\n\r\n{inner}", inner.len()));
        assert_eq!(attacker.answers(), [202], "{trailers:?}");
        victims += 1;
    }
    // Trailers that could pass for a header section with both are not even read.
    let mut attacker = Attacker::connect(siege.server.address());
    let both = "0\r\ncontent-length: 999\r\ntransfer-encoding: x\r\n\r\n";
    attacker.send(in_chunks(&chunks().replace("0\r\n\r\n", both)));
    assert_eq!(attacker.answers(), [400]);
    // Chunks that nobody wants are not read to their end, so the connection ends instead.
    let mut attacker = Attacker::connect(siege.server.address());
    let inner = increment("smuggled");
    let chunk = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    let head = "GET /healthz HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    attacker.send(format!("{head}{chunk}{inner}"));
    assert_eq!(attacker.answers(), [200]);
    siege.honest_get_on();
    assert_eq!(siege.server.total("smuggled"), None);
    let connections = (refused.len() + understood.len() + trailers.len() + 1) as u64;
    let others = [("victim", victims), ("after", understood.len() as i64)];
    siege.end(connections * (CONNECTION + READ), &others);
}

/// Both at once (RFC 9112, section 6.3): refused, and nothing after it is taken for a request.
#[test]
fn a_length_beside_chunks() {
    let siege = Siege::begin("a length beside chunks", Home::new(None));
    for length in [0, 5, chunks().len(), 10_000] {
        for lines in [
            format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"),
            format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
            format!("x: y\ncontent-length: {length}\ntransfer-encoding: chunked\r\n"),
        ] {
            let mut attacker = Attacker::connect(siege.server.address());
            attacker.send(format!("{}{}", with_lines(&lines), increment("smuggled")));
            assert_eq!(attacker.answers(), [400], "{lines:?}");
        }
    }
    siege.honest_get_on();
    assert_eq!(siege.server.total("smuggled"), None);
    assert_eq!(siege.server.total("victim"), None);
    siege.end(12 * (CONNECTION + READ), &[]);
}
