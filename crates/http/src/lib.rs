//! The HTTP front door of incrementer.
//!
//! [`Binding::bind`] takes an address, [`serve`] answers on it: one thread for each worker, each
//! with its own event loop and its own listening socket on the shared port, so that a connection
//! stays on one core for its life. What a request asks for goes to a [`Front`](engine::Front),
//! which is the engine, or anything else that can count.
//!
//! The routes and their answers are described by [`OPENAPI`]. Refusals are RFC 9457 problem
//! details. Nothing here waits without bound: bodies, header sections, connections and the time
//! for each have a limit in [`Options`].
//!
//! # What never reaches the service
//!
//! hyper answers some requests by itself, with a bare status and `Connection: close`:
//!
//! - 400: no HTTP/1 at all; a header line that isn't one, is folded (obs-fold), or has a space
//!   before its colon; a Content-Length that isn't digits (`+5`, `5, 5`) or comes twice with two
//!   values; a Transfer-Encoding that doesn't end in `chunked`, or comes with HTTP/1.0.
//! - 414: a request target over 65,534 bytes. 431: a header section over
//!   [`Options::header_max_bytes`], or with more than 100 fields.
//!
//! A line may end in LF alone (RFC 9112, section 2.2, allows it), except inside chunked framing.
//! A request with trailers is the last on its connection: of those hyper isn't as strict.
//! Content-Length together with Transfer-Encoding is refused with 400 by the service, which looks
//! for it in the bytes, since hyper drops the length (RFC 9112, section 6.3).

mod body;
mod connection;
mod counters;
mod form;
#[doc(hidden)]
pub mod fuzzing;
mod head;
mod held;
mod idempotency;
mod increments;
mod io;
mod json;
mod options;
mod polled;
mod prefer;
mod problem;
mod recent;
mod ring;
mod server;
mod service;
mod stats;
mod telemetry;
mod text;
mod watch;
mod worker;

pub use options::{EventLoop, Options};
pub use server::{BindError, Binding, Driver, Server, Stopped, WorkerExit, serve};
pub use stats::{Route, Stats};
pub use telemetry::{Readiness, Telemetry};

pub(crate) use service::Payload;

/// How many connections over `max_connections` each worker has open for a moment, to tell them so.
pub const MAX_REFUSING: usize = worker::MAX_REFUSING;

/// The OpenAPI 3.1 document of what is served here, as `/openapi.json` gives it.
pub const OPENAPI: &str = include_str!("openapi.json");
