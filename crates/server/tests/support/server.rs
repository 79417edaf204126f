//! The binary, run in a directory of its own.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Answer, Client, Counter, until};

/// What outlives a server: its directory, and the settings that it is started with.
pub struct Home {
    dir: TempDir,
    settings: Vec<(String, String)>,
}

impl Home {
    /// An empty directory, an address of its own, so that no client of a server that has ended
    /// ever meets the server of another test, and the store `url`; `None` for the default store.
    pub fn new(url: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [a, b, c] = [(); 3].map(|()| fastrand::u8(1..255));
        let home = Self { dir, settings: Vec::new() }.set("listen", &format!("127.{a}.{b}.{c}:0"));
        match url {
            Some(url) => home.set("store", url),
            None => home,
        }
    }

    /// With this setting, named as in the table of settings.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The file of the default store.
    pub fn sqlite(&self) -> PathBuf {
        self.data().join("incrementer.db")
    }

    /// What all servers of this home have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// The binary with these arguments and the settings in its environment, and with nothing
    /// that the environment of the test says.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_incrementer"));
        let ours = |name: &String| name.starts_with("INCREMENTER_") || name == "DATABASE_URL";
        for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
            command.env_remove(name);
        }
        for (name, value) in &self.settings {
            command.env(format!("INCREMENTER_{}", name.replace('.', "_").to_uppercase()), value);
        }
        command.current_dir(self.dir.path()).stdin(Stdio::null()).args(arguments);
        command
    }

    /// A server that takes increments.
    pub fn start(&self) -> Server {
        let mut server = self.launch();
        server.wait_until_ready();
        server
    }

    /// A server that listens.
    pub fn launch(&self) -> Server {
        self.launch_with(self.command(&["serve"]))
    }

    /// The same by a command of the test's own.
    pub fn launch_with(&self, mut command: Command) -> Server {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let log_start = log.metadata().unwrap().len() as usize;
        let process = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let process = Mutex::new(process);
        let mut server = Server { process, address, log_path: self.log_path(), log_start };
        let line = server.line_with("listening on ");
        let (_, rest) = line.split_once("listening on ").unwrap();
        server.address = rest.split([',', ' ', '"']).next().unwrap().parse().unwrap();
        server
    }
}

/// A server that runs; it is killed with the value at the latest.
pub struct Server {
    process: Mutex<Child>,
    address: SocketAddr,
    log_path: PathBuf,
    log_start: usize,
}

impl Server {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new connection to it.
    pub fn client(&self) -> Client {
        Client::connect(self.address).unwrap()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(&self.log_path).unwrap_or_default();
        // Gone where the directory is: then another failure is being told.
        log.get(self.log_start..).unwrap_or_default().to_owned()
    }

    /// Waits for a line of its log that contains `part`.
    pub fn line_with(&mut self, part: &str) -> String {
        until(&format!("{part:?} is in the log"), || {
            // In this order: what it wrote before its end is seen.
            let ended = self.ended();
            let log = self.log();
            let whole = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let found = whole.map(str::trim_end).find(|line| line.contains(part)).map(str::to_owned);
            assert!(found.is_some() || ended.is_none(), "it ended ({ended:?}) without {part:?}:\n{log}");
            found
        })
    }

    /// Waits until `/readyz` says that it takes increments.
    pub fn wait_until_ready(&mut self) {
        until("the server is ready", || {
            self.assert_runs();
            let answer = Client::connect(self.address).ok()?.get("/readyz").ok()?;
            (answer.status == 200).then_some(())
        });
    }

    /// A GET on a connection of its own.
    pub fn get(&self, target: &str) -> Answer {
        self.client().get(target).unwrap()
    }

    /// The total of a key, as `GET /counters/{key}` tells it.
    pub fn total(&self, key: &str) -> Option<i64> {
        let answer = self.get(&format!("/counters/{}", utf8_percent_encode(key, NON_ALPHANUMERIC)));
        if answer.status == 404 {
            return None;
        }
        answer.expect(200).json()["value"].as_i64()
    }

    /// All counters, page by page.
    pub fn pages(&self, limit: usize) -> Vec<Counter> {
        let mut client = self.client();
        let mut counters = Vec::new();
        let mut after = String::new();
        loop {
            let page = client.get(&format!("/counters?limit={limit}{after}")).unwrap().expect(200).json();
            for counter in page["counters"].as_array().unwrap() {
                counters
                    .push((counter["key"].as_str().unwrap().to_owned(), counter["value"].as_i64().unwrap()));
            }
            match page["next"].as_str() {
                Some(next) => after = format!("&after={}", utf8_percent_encode(next, NON_ALPHANUMERIC)),
                None => return counters,
            }
        }
    }

    /// The value of a metric, named as on the page and with its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").expect(200).body;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
    }

    /// What `/readyz` says is degraded.
    pub fn degraded(&self) -> Vec<String> {
        let answer = self.get("/readyz").expect(200).json();
        let degraded = answer["degraded"].as_array().unwrap();
        degraded.iter().map(|what| what.as_str().unwrap().to_owned()).collect()
    }

    /// Its process, for what sends it signals of its own.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process.lock().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// How it has ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.process.lock().unwrap().try_wait().unwrap()
    }

    #[track_caller]
    pub fn assert_runs(&self) {
        assert_eq!(self.ended(), None, "it has ended by itself:\n{}", self.log());
    }

    /// `kill -9`; it must not have ended before.
    #[track_caller]
    pub fn kill(self) {
        self.assert_runs();
        let mut process = self.process.lock().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Waits for its end; the log is in the failure.
    pub fn wait(&mut self) -> ExitStatus {
        until("the server has ended", || self.ended())
    }

    /// Stops it by SIGTERM, which must end well.
    pub fn stop(self) {
        self.signal(Signal::TERM);
        self.ends_well();
    }

    /// Waits for its end, which must be a good one.
    pub fn ends_well(mut self) {
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = process.kill();
        let _ = process.wait();
        if std::thread::panicking() {
            println!("log of the server on {}:\n{}", self.address, self.log());
        }
    }
}
