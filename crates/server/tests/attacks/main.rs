//! HTTP attacks on the real server. In each of them the server stays up, its memory stays under a
//! bound that follows from its limits, honest clients beside the attack get their 202, and in the
//! end the table holds exactly what they were promised.
//!
//! Nothing here measures time: progress is counted in answers. `INCREMENTER_ATTACK=full` makes the
//! attacks as large as they are in docs/reliability.md; the figures are printed
//! (`cargo nextest run -p incrementer --test attacks --no-capture`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what a test can't get fails it")]

#[path = "../support/mod.rs"]
mod support;

mod attacker;
mod crowd;
mod flood;
mod oversized;
mod siege;
mod slow;
mod smuggling;

/// `usual` for every day, `full` where the environment asks for it.
fn size(usual: usize, full: usize) -> usize {
    let asked = std::env::var("INCREMENTER_ATTACK").is_ok_and(|size| size == "full");
    if asked { full } else { usual }
}
