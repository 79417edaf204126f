//! The front door with nothing behind it: what HTTP alone costs.
//!
//! `cargo run --release --example noop -- 127.0.0.1:3333 2`

use std::error::Error;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use counter::{Entries, Fingerprint};
use engine::{Counted, Front, Page, PageRequest, Refusal};
use http_front::{Binding, Options, Readiness, Telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Clone)]
struct Noop;

impl Front for Noop {
    async fn count(&self, _: &Entries, _: Option<(&str, Fingerprint)>) -> Result<Counted, Refusal> {
        Ok(Counted::default())
    }

    async fn total(&self, _: &str) -> Result<Option<i64>, Refusal> {
        Ok(Some(0))
    }

    async fn page(&self, _: PageRequest) -> Result<Page, Refusal> {
        Ok(Page::default())
    }
}

impl Telemetry for Noop {
    fn readiness(&self) -> Readiness {
        Readiness::Ready { degraded: Vec::new() }
    }

    fn metrics(&self, _: &mut String) {}
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments.next().unwrap_or("127.0.0.1:3333".into()).parse()?;
    let workers: NonZeroUsize = arguments.next().unwrap_or("2".into()).parse()?;
    let binding = Binding::bind(address, workers)?;
    let server = http_front::serve(
        binding,
        Options {
            event_loop: if std::env::args().nth(3).as_deref() == Some("epoll") {
                http_front::EventLoop::Epoll
            } else {
                http_front::EventLoop::Auto
            },
            ..Options::default()
        },
        |_| (Noop, None),
        Arc::new(Noop),
        |exit| {
            eprintln!("{exit:?}");
            std::process::exit(1);
        },
    )?;
    println!("http://{}", server.local_addr());
    loop {
        std::thread::park();
    }
}
