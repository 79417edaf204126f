//! A durable server of its own, in a directory of its own, with wrk before it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The server's caches are warm after so long.
const WARM_UP: Duration = Duration::from_secs(2);
const START_WITHIN: Duration = Duration::from_secs(60);
/// More than `shutdown_timeout`.
const STOP_WITHIN: Duration = Duration::from_secs(20);

const SCRIPT: &str = r#"
local threads = 0
function setup(thread)
  threads = threads + 1
  thread:set("seed", os.time() + threads * 104729)
end
function init(arguments)
  math.randomseed(seed)
  keys = tonumber(arguments[1])
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end
function request()
  local body = string.format('{"key":"key-%d","value":%d}', math.random(keys), math.random(1000))
  return wrk.format(nil, nil, nil, body)
end
"#;

/// Ended when dropped, whatever happens.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) struct UnderLoad {
    // Dropped in this order: load, server, directory.
    load: Process,
    server: Process,
    _directory: TempDir,
}

impl UnderLoad {
    /// Starts both and waits until the server is warm; the load lasts `seconds` from then on.
    pub(super) fn start(
        server: &Path,
        arguments: &[String],
        seconds: u32,
        connections: u32,
        keys: u32,
    ) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir_in("/var/tmp").context("can't make a directory in /var/tmp")?;
        let address = free_address()?;
        let mut command = Command::new(server);
        command.args(["serve", "--ack", "durable", "--listen", &address.to_string(), "--data-dir"]);
        command.arg(directory.path().join("data")).args(arguments);
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut server = Process(started.with_context(|| format!("can't start {}", server.display()))?);
        until_ready(&mut server.0, address)?;
        let script = directory.path().join("increment.lua");
        std::fs::write(&script, SCRIPT)?;
        let lasts = u64::from(seconds) + WARM_UP.as_secs() + 2;
        let mut wrk = Command::new("wrk");
        wrk.args(["-t", &connections.min(16).to_string(), "-c", &connections.to_string()]);
        wrk.args(["-d", &format!("{lasts}s"), "-s"]).arg(&script);
        wrk.args([&format!("http://{address}/increment"), "--", &keys.to_string()]);
        let started = wrk.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let load = Process(started.context("can't start wrk")?);
        std::thread::sleep(WARM_UP);
        Ok(Self { load, server, _directory: directory })
    }

    /// The server's process.
    pub(super) fn pid(&self) -> u32 {
        self.server.0.id()
    }

    /// Ends both in good order.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let status = self.load.0.wait().context("wrk can't be waited for")?;
        ensure!(status.success(), "wrk failed: {status}");
        kill_process(Pid::from_child(&self.server.0), Signal::TERM).context("the server can't be stopped")?;
        let by = Instant::now() + STOP_WITHIN;
        while Instant::now() < by {
            if let Some(status) = self.server.0.try_wait()? {
                ensure!(status.success(), "the server failed: {status}");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the server didn't stop within {} s", STOP_WITHIN.as_secs())
    }
}

/// Somebody else may take it before the server does; then the server says so and ends.
fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port is free")?;
    Ok(listener.local_addr()?)
}

fn until_ready(server: &mut Child, address: SocketAddr) -> anyhow::Result<()> {
    let by = Instant::now() + START_WITHIN;
    while Instant::now() < by {
        if let Some(status) = server.try_wait()? {
            bail!("the server ended before it was ready: {status}");
        }
        if is_ready(address).unwrap_or(false) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("the server wasn't ready within {} s", START_WITHIN.as_secs())
}

fn is_ready(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(
        format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200 "))
}
