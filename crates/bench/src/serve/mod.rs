//! The baselines, on the product's own HTTP layer, so that only the counting differs.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use engine::Front;
use http_front::{Binding, Driver, EventLoop, Readiness, Telemetry};

mod noop;
mod sync;

/// Which of them, and where.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Which of them.
    #[arg(value_enum)]
    baseline: Baseline,
    /// The address; port 0 lets the system choose, and the first line printed tells the choice.
    #[arg(long, default_value = "127.0.0.1:3333")]
    listen: SocketAddr,
    /// How many threads serve HTTP; one for each core if not given.
    #[arg(long)]
    workers: Option<NonZeroUsize>,
    /// The PostgreSQL that `sync` counts in; database and table are made where they are missing.
    #[arg(long, value_name = "postgres://…", required_if_eq("baseline", "sync"))]
    store: Option<String>,
    /// How many connections `sync` has to it at most.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pool: u16,
    /// As incrementer's `http.event_loop`: auto, io_uring or epoll.
    #[arg(long, default_value_t)]
    event_loop: EventLoop,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Baseline {
    /// Reads and parses the body as incrementer does, counts nothing, answers 202.
    Noop,
    /// Reads the value from PostgreSQL, adds, writes it back in the same transaction, answers 202.
    Sync,
}

/// Serves until the process is stopped.
///
/// # Errors
/// The address can't be listened on, a thread can't be started, or the store of `sync` can't be
/// reached or made ready.
pub fn run(options: &Options) -> anyhow::Result<Vec<PathBuf>> {
    let one_each = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let binding = Binding::bind(options.listen, options.workers.unwrap_or_else(one_each))?;
    let http = http_front::Options { event_loop: options.event_loop, ..http_front::Options::default() };
    match options.baseline {
        Baseline::Noop => serve(binding, http, |_| (noop::Noop, None)),
        Baseline::Sync => {
            let store = options.store.as_deref().context("sync needs --store")?;
            let sync = sync::Sync::start(store, options.pool.into())?;
            serve(binding, http, move |_| (sync.clone(), None))
        }
    }
}

fn serve<F: Front>(
    binding: Binding,
    http: http_front::Options,
    make: impl Fn(usize) -> (F, Option<Driver>) + Send + Sync + 'static,
) -> anyhow::Result<Vec<PathBuf>> {
    let on_exit = |exit| {
        eprintln!("{exit:?}");
        std::process::exit(1);
    };
    let server = http_front::serve(binding, http, make, Arc::new(AlwaysReady), on_exit)?;
    println!("listening on {}", server.local_addr());
    loop {
        std::thread::park();
    }
}

struct AlwaysReady;

impl Telemetry for AlwaysReady {
    fn readiness(&self) -> Readiness {
        Readiness::Ready { degraded: Vec::new() }
    }

    fn metrics(&self, _: &mut String) {}
}
