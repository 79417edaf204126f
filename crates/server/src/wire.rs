//! Puts the parts together: which thread runs what, and who hears of whom.
//!
//! Nothing here waits for anything but the port: a store that is away and a long replay go on
//! behind it, on threads of their own, so that a signal is always heard.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use anyhow::Context;

use crate::settings::Settings;
use crate::supervisor::{Policy, Supervisor};

/// The running parts, as far as the one who stops them must know them.
pub(crate) struct Running {
    /// The address in use; its port is a real one even where the settings say 0.
    pub(crate) address: SocketAddr,
    stop: Sender<()>,
}

/// Opens the port and starts every part under `supervisor`.
///
/// # Errors
/// Where the port or the data directory can't be had. Everything later comes as the end of a
/// thread.
pub(crate) fn start(settings: &Settings, supervisor: &mut Supervisor) -> anyhow::Result<Running> {
    let listener = listen(settings.listen)?;
    let address = listener.local_addr()?;
    let (stop, asked) = channel::<()>();
    supervisor.spawn("http", Policy::Essential, move || {
        let _ = asked.recv();
        drop(listener);
        Ok(())
    })?;
    Ok(Running { address, stop })
}

impl Running {
    /// Asks every part to stop, in the order in which increments pass them: no new ones, answer
    /// those in flight, flush until `deadline`. Doesn't wait.
    pub(crate) fn stop(self, _deadline: Instant) {
        drop(self.stop);
    }
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .map_err(|error| {
            let advice = match error.kind() {
                ErrorKind::AddrInUse => "another server has it; stop that one, or set listen to another port",
                ErrorKind::AddrNotAvailable => {
                    "this machine has no such address; set listen to one that it has"
                }
                ErrorKind::PermissionDenied => "this user may not; set listen to a port above 1023",
                _ => "set listen to another address",
            };
            anyhow::Error::new(error).context(advice).context(format!("{address} can't be listened on"))
        })
        .context("no port to serve on")
}
