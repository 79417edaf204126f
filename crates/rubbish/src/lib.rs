//! What must hold for any bytes at all.
//!
//! Each target takes bytes from nowhere, hands them to the product, and compares what comes of it
//! with a model that reads the same bytes in another way, or with what must hold whatever they
//! are. It panics where the two differ. `fuzz/` runs the targets under libFuzzer, which looks for
//! bytes that reach new code; `tests/targets.rs` runs them over the corpus that is kept in
//! `fuzz/corpus`, and over a bounded number of changes to it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a target fails by panicking")]

mod bodies;
mod disk;
mod entries;
mod heads;
mod json_model;
mod recovery;
mod script;
mod settings_given;
mod targets;

/// The server is a binary, so there is no crate to depend on; its settings know nothing of the
/// rest of it.
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the server has other uses for them, and they are linted there"
)]
#[path = "../../server/src/settings/mod.rs"]
mod settings;

/// Takes any bytes; panics where the product does with them what it must not.
pub type Target = fn(&[u8]);

/// All of them; the names are those of the folders in `fuzz/corpus` and of the files in
/// `fuzz/fuzz_targets`.
pub const TARGETS: &[(&str, Target)] = &[
    ("body_json", bodies::one),
    ("body_array", bodies::array),
    ("body_lines", bodies::lines),
    ("body_form", bodies::form),
    ("request_target", targets::target),
    ("request_head", heads::head),
    ("packed_entries", entries::packed),
    ("journal_recovery", recovery::recovery),
    ("settings_file", settings_given::file),
    ("settings_value", settings_given::value),
];

/// Runs the target of that name.
///
/// # Panics
/// Where it finds something, or there is none of that name.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of that name");
    target(bytes);
}
