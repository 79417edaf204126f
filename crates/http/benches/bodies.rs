//! Bodies, from a client's bytes into packed form.

use std::fmt::Write as _;

use divan::{Bencher, black_box, counter::ItemsCount};
use http_front::fuzzing::{Body, body};

fn main() {
    divan::main();
}

const BULK: usize = 1_000;

fn parse(bencher: Bencher<'_, '_>, way: Body, text: &str, increments: usize) {
    assert_eq!(body(way, text.as_bytes()).map(|entries| entries.count() as usize), Ok(increments));
    bencher
        .counter(ItemsCount::new(increments))
        .bench_local(|| body(way, black_box(text.as_bytes())).map(|entries| entries.count()));
}

#[divan::bench]
fn json(bencher: Bencher<'_, '_>) {
    parse(bencher, Body::One, r#"{"key": "user:12345678:clicks", "value": 42}"#, 1);
}

/// A member that nobody asked for, and an escape in the key.
#[divan::bench]
fn json_the_long_way(bencher: Bencher<'_, '_>) {
    parse(bencher, Body::One, r#"{"at": [1, {"x": null}], "value": -42, "key": "user:\u00e4:clicks"}"#, 1);
}

#[divan::bench]
fn form(bencher: Bencher<'_, '_>) {
    parse(bencher, Body::Form, "key=user%3A12345678%3Aclicks&value=42", 1);
}

#[divan::bench]
fn array(bencher: Bencher<'_, '_>) {
    let entry = |n| format!(r#"{{"key": "user:{n:08}:clicks", "value": {n}}}"#);
    let entries: Vec<String> = (0..BULK).map(entry).collect();
    parse(bencher, Body::Array, &format!("[{}]", entries.join(", ")), BULK);
}

#[divan::bench]
fn lines(bencher: Bencher<'_, '_>) {
    let mut text = String::new();
    for n in 0..BULK {
        let _ = writeln!(text, r#"{{"key": "user:{n:08}:clicks", "value": {n}}}"#);
    }
    parse(bencher, Body::Lines, &text, BULK);
}
