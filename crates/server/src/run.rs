//! `incrementer serve`, from start to end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::settings::Settings;
use crate::supervisor::{Reason, Supervisor, log_panics};
use crate::{limits, wire};

/// Files that are open besides connections: journal, store, event queues, log.
const OTHER_FILES: u64 = 200;

/// How long threads have to end after the last flush.
const LAST_MOMENTS: Duration = Duration::from_secs(1);

/// Runs the server until a signal stops it.
///
/// # Errors
/// The reason why it ended without being asked to.
pub(crate) fn serve(mut settings: Settings) -> anyhow::Result<()> {
    log_panics();
    let allowed_files = limits::raise_open_files();
    let mut supervisor = Supervisor::new().context("signals can't be handled")?;
    let opened = wire::open(&settings)?;
    greet(&settings, opened.address());
    fit_connections_to_files(&mut settings, allowed_files);
    let running = opened.start(&settings, &mut supervisor)?;

    match supervisor.wait() {
        Reason::Signal(signal) => tracing::info!(
            signal,
            timeout = ?settings.shutdown_timeout,
            "stopping: answering what is in flight, flushing what is pending; another signal ends it at once"
        ),
        Reason::Ended(ended) => {
            // Other threads still run: the data directory stays ours to the last moment of the
            // process, so that no other server meets them in it.
            std::mem::forget(running);
            anyhow::bail!("{ended}")
        }
    }
    let deadline = Instant::now() + settings.shutdown_timeout;
    let data_dir = running.stop(deadline);
    // What is asked to end by now has nothing left to wait for, but a store that hangs.
    let stopped = supervisor.join(deadline.max(Instant::now() + LAST_MOMENTS));
    if !stopped.running.is_empty() {
        std::mem::forget(data_dir);
    }
    if let Some(failure) = stopped.failures.first() {
        anyhow::bail!("{failure}");
    }
    if stopped.running.is_empty() {
        tracing::info!("stopped");
    } else {
        tracing::warn!(
            unfinished = stopped.running.join(", "),
            "stopped at the end of shutdown_timeout; what is not in the store yet stays in the journal"
        );
    }
    Ok(())
}

/// A connection is an open file: takes no more of them than the process may open.
fn fit_connections_to_files(settings: &mut Settings, allowed: Option<u64>) {
    let wanted = settings.http.max_connections;
    let others = OTHER_FILES + (settings.http.workers * http_front::MAX_REFUSING) as u64;
    let possible = allowed.map_or(u64::MAX, |files| files.saturating_sub(others).max(1));
    if possible < wanted as u64 {
        settings.http.max_connections = possible as usize;
        tracing::info!(
            http.max_connections = wanted,
            open_files = allowed,
            "taking at most {possible} connections, because this process may not open more files; to raise \
            that: ulimit -Hn, or LimitNOFILE= in a systemd unit"
        );
    }
}

/// The first lines of the log: what runs, and how to try it.
fn greet(settings: &Settings, address: SocketAddr) {
    tracing::info!("listening on {address}, store {}, ack {}", settings.store, settings.ack);
    tracing::info!(
        "to count: curl -i -H 'content-type: application/json' -d '{{\"key\": \"signup\", \"value\": 1}}' \
        http://{}/increment",
        reachable(address)
    );
}

/// Where a client on this machine finds a server that listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Sources;

    #[test]
    fn connections_leave_room_for_other_files() {
        let Ok(loaded) = Sources::default().load() else { panic!("the defaults don't load") };
        for (allowed, connections) in [
            (None, 20_000),
            (Some(1 << 20), 20_000),
            (Some(20_000), 19_736),
            (Some(1_024), 760),
            (Some(9), 1),
        ] {
            let mut settings = loaded.settings.clone();
            settings.http.workers = 2;
            fit_connections_to_files(&mut settings, allowed);
            assert_eq!(settings.http.max_connections, connections, "{allowed:?}");
        }
    }

    #[test]
    fn the_example_of_the_greeting_reaches_a_server_that_listens_everywhere() {
        for (address, wanted) in
            [("0.0.0.0:3333", "127.0.0.1:3333"), ("[::]:80", "[::1]:80"), ("10.0.0.1:3333", "10.0.0.1:3333")]
        {
            assert_eq!(address.parse().map(reachable), wanted.parse(), "{address}");
        }
    }
}
