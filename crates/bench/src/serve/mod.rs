//! The baselines, on the product's own HTTP layer, so that only the counting differs.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use engine::Front;
use http_front::{Binding, Driver, EventLoop, Readiness, Telemetry};

mod noop;

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
    /// As incrementer's `http.event_loop`: auto, io_uring or epoll.
    #[arg(long, default_value_t)]
    event_loop: EventLoop,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Baseline {
    /// Reads and parses the body as incrementer does, counts nothing, answers 202.
    Noop,
}

/// Serves until the process is stopped.
///
/// # Errors
/// The address can't be listened on, or a thread can't be started.
pub fn run(options: &Options) -> anyhow::Result<Vec<PathBuf>> {
    let one_each = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let binding = Binding::bind(options.listen, options.workers.unwrap_or_else(one_each))?;
    let http = http_front::Options { event_loop: options.event_loop, ..http_front::Options::default() };
    match options.baseline {
        Baseline::Noop => serve(binding, http, |_| (noop::Noop, None)),
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
