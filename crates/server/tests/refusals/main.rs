//! What the server does where something stands in its way: each refusal with its message and
//! exit code, and that nothing acknowledged is lost by it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what a test can't get fails it")]

#[path = "../support/mod.rs"]
mod support;

mod copies;
mod damage;
mod few_files;
mod forgetful_stores;
mod full_disk;
mod limits;
mod movers;
mod other_stores;
mod start;
mod store_at_start;
mod sync_failure;
mod tools;
