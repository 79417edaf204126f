//! HTTP/1 on the wire: where a message ends, what is refused, and what happens to the connection.

mod support;

use engine::Refusal;
use support::{chunked, post, post_with, start};

const JSON: &str = "application/json";
const BODY: &str = r#"{"key":"k","value":1}"#;

#[test]
fn pipelined_requests_are_answered_in_order_and_together() {
    let running = start();
    let mut client = running.client();
    let mut requests = Vec::new();
    for value in 1..=16 {
        let body = format!(r#"{{"key":"k","value":{value}}}"#);
        requests.extend(post_with(
            "/increment",
            "content-type: application/json\r\nprefer: return=representation\r\n",
            body,
        ));
    }
    client.send(&requests);
    for value in 1..=16 {
        assert_eq!(client.receive(false).json()["value"], value * (value + 1) / 2);
    }

    // Sixteen in one write come back in one: they all lie in the first read.
    client.send(post("/increment", JSON, BODY).repeat(16));
    let together = client.one_read();
    assert_eq!(together.windows(12).filter(|bytes| bytes == b"HTTP/1.1 202").count(), 16);

    // Many more than fit into any buffer, all sent before the first answer is read.
    let many = 5_000;
    client.send(post("/increment", JSON, BODY).repeat(many));
    for _ in 0..many {
        client.receive(false).accepted();
    }
    running.stop();
}

#[test]
fn an_answer_waits_for_no_later_request() {
    let running = start();
    let mut client = running.client();
    let request = post("/increment", JSON, BODY);
    // Half of the next request is there already.
    client.send([&request[..], &request[..20]].concat());
    client.receive(false).accepted();
    client.send(&request[20..]);
    client.receive(false).accepted();

    // The next request is complete, and the engine takes its time with it.
    let gate = running.front.hold();
    client.send(request.repeat(2));
    gate.add_permits(1);
    client.receive(false).accepted();
    gate.add_permits(1);
    client.receive(false).accepted();
    running.stop();
}

#[test]
fn a_body_may_arrive_in_any_pieces() {
    let running = start();
    let mut client = running.client();
    let with_length = post("/increment", JSON, BODY);
    let with_chunks = chunked("", "7;ext=\"1\"\r\n{\"key\":\r\n00E\r\n\"k\",\"value\":1}\r\n0\r\n\r\n");
    let mut total = 0;
    for request in [with_length, with_chunks.into_bytes()] {
        for at in 1..request.len() {
            client.send(&request[..at]);
            client.send(&request[at..]);
            client.receive(false).accepted();
            total += 1;
        }
        for byte in &request {
            client.send([*byte]);
        }
        client.receive(false).accepted();
        total += 1;
    }
    assert_eq!(running.front.total("k"), Some(total));
    running.stop();
}

#[test]
fn damaged_chunks_are_refused_and_end_the_connection() {
    let running = start();
    for body in ["zz\r\n", "5\r\n{\"keyX\r\n", "-1\r\n", "fffffffffffffffff\r\n", "1\n{\r\n", "0x15\r\n"] {
        let mut client = running.client();
        let reply = client.ask(chunked("", body));
        assert_eq!(reply.problem(400), "body_broken", "{body}");
        assert!(reply.closes() && client.is_closed());
    }
    // Broken off: there is nobody left to write more, but somebody to read.
    let mut client = running.client();
    client.send(chunked("", "5\r\n{\"k"));
    client.close_write();
    client.receive(false).problem(400);
    assert!(client.is_closed());
    running.stop();
}

/// hyper looks for CR LF CR LF at the end of trailers, and then reads lines that may end in LF alone:
/// what lies between the two ends was dropped, and what came after it taken for a request.
#[test]
fn a_request_with_trailers_is_the_last_of_its_connection() {
    let running = start();
    let hidden = String::from_utf8(post("/increment", JSON, r#"{"key":"hidden","value":1}"#)).unwrap();
    let around = format!("POST /increments HTTP/1.1\r\nhost: a\r\ncontent-length: 500\r\n\r\n{hidden}");
    for (at, trailers) in
        ["x: y\r\n\r\n", "\n", "x: y\n\r\n", "x: y\r\n\n", "x: y\n\n"].into_iter().enumerate()
    {
        let mut client = running.client();
        let reply = client.ask(chunked("", &format!("15\r\n{BODY}\r\n0\r\n{trailers}{around}")));
        reply.accepted();
        assert!(reply.closes() && client.is_closed(), "{trailers:?}");
        assert_eq!(running.front.total("k"), Some(at as i64 + 1));
    }
    assert_eq!(running.front.total("hidden"), None);
    running.stop();
}

#[test]
fn a_client_that_waits_for_100_continue() {
    let running = start();
    let mut client = running.client();
    let length = BODY.len();
    let head = |length: usize, media_type: &str| {
        format!(
            "POST /increment HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    client.send(head(length, JSON));
    assert_eq!(client.receive(false).status, 100);
    client.ask(BODY).accepted();

    // A refusal comes in place of the invitation, and the body is never read.
    let reply = client.ask(head(2 << 20, JSON));
    reply.problem(413);
    assert!(reply.closes() && client.is_closed());
    let mut client = running.client();
    let reply = client.ask(head(length, "text/plain"));
    reply.problem(415);
    assert!(reply.closes() && client.is_closed());
    running.stop();
}

#[test]
fn what_is_no_proper_request() {
    let running = start();
    let line = "POST /increment HTTP/1.1\r\n";
    let json = "content-type: application/json\r\n";
    for head in [
        // Host: none, two, not a host.
        format!("{line}{json}content-length: 21\r\n\r\n"),
        format!("{line}host: a\r\nhost: a\r\n{json}content-length: 21\r\n\r\n"),
        format!("{line}host: a b\r\n{json}content-length: 21\r\n\r\n"),
        format!("{line}host: a/b\r\n{json}content-length: 21\r\n\r\n"),
        format!("{line}host: a\r\n{json}content-type: text/plain\r\ncontent-length: 21\r\n\r\n"),
        // Lengths.
        format!("{line}host: a\r\n{json}content-length: +21\r\n\r\n"),
        format!("{line}host: a\r\n{json}content-length: -1\r\n\r\n"),
        format!("{line}host: a\r\n{json}content-length: 0x15\r\n\r\n"),
        format!("{line}host: a\r\n{json}content-length: 21, 21\r\n\r\n"),
        format!("{line}host: a\r\n{json}content-length: \r\n\r\n"),
        format!("{line}host: a\r\n{json}content-length: 99999999999999999999\r\n\r\n"),
        format!("{line}host: a\r\n{json}content-length: 21\r\ncontent-length: 22\r\n\r\n"),
        // Codings.
        format!("{line}host: a\r\n{json}transfer-encoding: gzip\r\n\r\n"),
        format!("{line}host: a\r\n{json}transfer-encoding: chunked, gzip\r\n\r\n"),
        format!("{line}host: a\r\n{json}transfer-encoding: gzip, chunked\r\n\r\n15\r\n"),
        format!(
            "{line}host: a\r\n{json}transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n15\r\n"
        ),
        format!(
            "{line}host: a\r\n{json}transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n15\r\n"
        ),
        format!("{line}host: a\r\n{json}transfer-encoding: xchunked\r\n\r\n15\r\n"),
        format!("{line}host: a\r\n{json}transfer-encoding: \r\n\r\n15\r\n"),
        format!("POST /increment HTTP/1.0\r\n{json}transfer-encoding: chunked\r\n\r\n15\r\n"),
        // Lines.
        format!("{line}host: a\r\n{json}content-length : 21\r\n\r\n"),
        format!("{line}host: a\r\n{json} folded: x\r\ncontent-length: 21\r\n\r\n"),
        format!("{line} host: a\r\n{json}content-length: 21\r\n\r\n"),
        format!("{line}host: a\r\n{json}no colon\r\ncontent-length: 21\r\n\r\n"),
        format!("{line}host: a\r\n{json}x: \0\r\ncontent-length: 21\r\n\r\n"),
        format!("{line}host: a\r\n{json}x: a\rb\r\ncontent-length: 21\r\n\r\n"),
        format!("POST  /increment HTTP/1.1\r\nhost: a\r\n{json}content-length: 21\r\n\r\n"),
        format!("POST /incre ment HTTP/1.1\r\nhost: a\r\n{json}content-length: 21\r\n\r\n"),
        format!("POST /increment HTTP/1.2\r\nhost: a\r\n{json}content-length: 21\r\n\r\n"),
        format!("POST /increment HTTP/9.9\r\nhost: a\r\n{json}content-length: 21\r\n\r\n"),
        "POST /increment\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\r\n\r\n".to_owned(),
    ] {
        let mut client = running.client();
        // What follows would be a request of its own to whoever saw the end elsewhere.
        client.send(format!(
            "{head}{BODY}\r\n0\r\n\r\n{}",
            String::from_utf8(post("/increment", JSON, BODY)).unwrap()
        ));
        let reply = client.receive(false);
        assert_eq!(reply.status, 400, "{head}");
        assert!(reply.closes(), "{head}");
        assert!(client.is_closed(), "{head}");
    }
    assert!(running.front.totals().is_empty());
    running.stop();
}

const HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";

/// Two servers that disagree on which of them counts are what request smuggling is made of.
#[test]
fn a_length_beside_chunks_is_refused() {
    let running = start();
    let body = format!("15\r\n{BODY}\r\n0\r\n\r\n");
    for lines in ["content-length: 3\r\n", "Content-LENGTH: 200\r\n"] {
        let after = chunked("", &body).replace("chunked\r\n\r\n", &format!("chunked\r\n{lines}\r\n"));
        for request in [chunked(lines, &body), after] {
            // Alone, behind another request, and with the head in two pieces.
            for (first, rest) in [
                (String::new(), request.clone()),
                (HEALTHZ.to_owned(), request.clone()),
                (HEALTHZ.to_owned() + &request[..60], request[60..].to_owned()),
            ] {
                let mut client = running.client();
                if !first.is_empty() {
                    client.send(&first);
                    assert_eq!(client.receive(false).status, 200);
                }
                client.send([rest.as_bytes(), &post("/increment", JSON, BODY)].concat());
                let reply = client.receive(false);
                assert_eq!(reply.problem(400), "improper");
                assert!(reply.closes(), "{first:?}, then {rest:?}");
                assert!(client.is_closed());
            }
        }
    }
    assert_eq!(running.front.total("k"), None);
    // Behind a body whose last part comes together with it.
    let mut client = running.client();
    let earlier = post("/increment", JSON, BODY);
    client.send(&earlier[..earlier.len() - 5]);
    client.send([&earlier[earlier.len() - 5..], chunked("content-length: 3\r\n", &body).as_bytes()].concat());
    client.receive(false).accepted();
    assert_eq!(client.receive(false).problem(400), "improper");
    // Each in a request of its own, behind each other, is fine.
    let mut client = running.client();
    client.send([post("/increment", JSON, BODY), chunked("", &body).into_bytes()].concat());
    client.receive(false).accepted();
    client.receive(false).accepted();
    running.stop();
}

#[test]
fn what_is_proper_though_unusual() {
    let running = start();
    let mut client = running.client();
    for request in [
        // A line may end in LF alone, and empty lines before a request are passed over.
        format!(
            "\r\n\nPOST /increment HTTP/1.1\nhost: a\ncontent-type: application/json\ncontent-length: 21\n\n{BODY}"
        ),
        format!(
            "POST http://b.example/increment HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 21\r\n\r\n{BODY}"
        ),
        format!(
            "POST /increment HTTP/1.1\r\nHOST:a:80\r\nContent-Type:application/json\r\ncontent-length: 21\r\ncontent-length: 21\r\n\r\n{BODY}"
        ),
        chunked("host: [::1]:80\r\n", &format!("15\r\n{BODY}\r\n0\r\n\r\n")).replace("host: a\r\n", ""),
        chunked("", &format!("15\r\n{BODY}\r\n0\r\n\r\n")).replace("chunked", "CHUNKED"),
        chunked(
            "connection: upgrade, te\r\nupgrade: h2c\r\nte: trailers\r\n",
            &format!("15\r\n{BODY}\r\n0\r\n\r\n"),
        ),
    ] {
        let reply = client.ask(&request);
        reply.accepted();
        assert!(!reply.closes(), "{request}");
    }
    running.stop();
}

#[test]
fn who_keeps_the_connection() {
    let running = start();
    let request = |version: &str, lines: &str| {
        format!(
            "POST /increment HTTP/{version}\r\n{lines}content-type: application/json\r\ncontent-length: 21\r\n\r\n{BODY}"
        )
    };
    for (request, kept) in [
        (request("1.1", "host: a\r\n"), true),
        (request("1.1", "host: a\r\nconnection: close\r\n"), false),
        (request("1.1", "host: a\r\nconnection: x, Close\r\n"), false),
        (request("1.0", ""), false),
        (request("1.0", "host: a\r\n"), false),
        (request("1.0", "connection: keep-alive\r\n"), true),
    ] {
        let mut client = running.client();
        let reply = client.ask(&request);
        reply.accepted();
        if kept {
            client.ask(&request).accepted();
        } else {
            assert!(client.is_closed(), "{request}");
        }
    }
    // A client that has no more to say may close its half and still read.
    let mut client = running.client();
    client.send(request("1.1", "host: a\r\n"));
    client.close_write();
    client.receive(false).accepted();
    assert!(client.is_closed());
    running.stop();
}

#[test]
fn a_body_nobody_wants_does_not_pass_for_a_request() {
    let running = start();
    // It came along: passed over, the connection goes on.
    let mut client = running.client();
    let reply = client.ask(post("/nowhere", JSON, BODY));
    reply.problem(404);
    assert!(!reply.closes());
    client.ask(format!("GET /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 21\r\n\r\n{BODY}"));
    client.ask(post("/increment", JSON, BODY)).accepted();
    // It is still on its way: the connection can't go on.
    for request in [
        "POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n".to_owned(),
        "PUT /increment HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nabc".to_owned(),
        "GET /healthz HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\n".to_owned(),
    ] {
        let mut client = running.client();
        let reply = client.ask(&request);
        assert!(reply.closes(), "{request}");
        client.send(post("/increment", JSON, BODY));
        assert!(client.is_closed());
    }
    assert_eq!(running.front.total("k"), Some(1));
    running.stop();
}

#[test]
fn a_refusal_of_the_engine_keeps_the_connection() {
    let running = start();
    let mut client = running.client();
    running.front.refuse(Some(Refusal::Busy));
    assert!(!client.ask(post("/increment", JSON, BODY)).closes());
    running.front.refuse(Some(Refusal::Stopping));
    assert!(client.ask(post("/increment", JSON, BODY)).closes());
    assert!(client.is_closed());
    running.stop();
}
