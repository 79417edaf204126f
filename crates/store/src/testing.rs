//! A throwaway PostgreSQL, and stores with short time-outs. For tests only: failures panic.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't start is to fail loudly")]

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, getuid, kill_process};

use crate::postgres::{Limits, PostgresReader, PostgresStore};
use crate::sqlite::{SqliteReader, SqliteStore};
use crate::url::Place;
use crate::{Store, StoreReader, StoreUrl};

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// The store at `url` with a time-out of `step` for each step of a call, for tests that wait for
/// it to pass.
pub fn open_with_timeout(url: &StoreUrl, step: Duration) -> Box<dyn Store> {
    let limits = Limits { connect: step, step, per_row: Duration::ZERO };
    match &url.0 {
        Place::Postgres(place) => Box::new(PostgresStore::new(place, limits).unwrap()),
        Place::Sqlite(path) => Box::new(SqliteStore::new(path, step)),
    }
}

/// As [`open_with_timeout`], for reading.
pub fn open_reader_with_timeout(url: &StoreUrl, step: Duration) -> Box<dyn StoreReader> {
    let limits = Limits { connect: step, step, per_row: Duration::ZERO };
    match &url.0 {
        Place::Postgres(place) => Box::new(PostgresReader::new(place, limits).unwrap()),
        Place::Sqlite(path) => Box::new(SqliteReader::new(path, step)),
    }
}

/// A PostgreSQL server of one's own, in a temporary directory. It ends with the value, or with
/// the process at the latest, however that ends.
pub struct ThrowawayPostgres {
    directory: PathBuf,
    port: u16,
    settings: Vec<String>,
    server: Mutex<Option<Child>>,
    /// Waits for the end of its standard input, which is the end of this process, and cleans up.
    janitor: Child,
}

impl ThrowawayPostgres {
    /// A server with the usual settings of a test: no fsync.
    pub fn start() -> Self {
        Self::start_with(&["--encoding=UTF8", "--locale=C"], &["fsync=off", "full_page_writes=off"])
    }

    /// A server made by `initdb` with these arguments and run with these settings.
    pub fn start_with(initdb: &[&str], settings: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("throwaway-postgres-").tempdir().unwrap().keep();
        let server = run_as();
        if let Some((user, group)) = server {
            chown(&directory, Some(user), Some(group)).unwrap();
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let janitor = janitor(&directory);
        let made = command("initdb")
            .arg("--pgdata")
            .arg(directory.join("data"))
            .args(["--username=postgres", "--auth=trust", "--no-sync"])
            .args(initdb)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut postgres = Self { directory, port: 0, settings, server: Mutex::new(None), janitor };
        // Between finding a free port and using it, somebody else may.
        for _ in 0..5 {
            postgres.port = free_port();
            if postgres.try_start() {
                return postgres;
            }
        }
        panic!("the server does not start: {}", postgres.log());
    }

    /// Whether there is a PostgreSQL that could be started.
    pub fn is_installed() -> bool {
        let mut initdb = Command::new(binary("initdb"));
        initdb.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        initdb.status().is_ok_and(|status| status.success())
    }

    /// The URL of a database of this server, over TCP.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The URL of a database of this server, over its Unix socket.
    pub fn socket_url(&self, database: &str) -> String {
        let directory = self.directory.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{directory}:{}/{database}", self.port)
    }

    /// The directory of the data, with the files of settings in it.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Starts the server after a stop, and waits until it takes connections.
    pub fn start_again(&self) {
        assert!(self.try_start(), "the server does not start: {}", self.log());
    }

    fn try_start(&self) -> bool {
        let mut server = self.server.lock().unwrap();
        assert!(server.is_none(), "the server runs already");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.directory.join("log")).unwrap();
        let mut command = command("postgres");
        command.arg("-D").arg(self.data_directory()).arg("-k").arg(&self.directory);
        command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let mut started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut ready = Command::new(binary("pg_isready"));
        ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        let mut runs = true;
        let ready = || {
            runs = started.try_wait().unwrap().is_none();
            !runs || ready.status().unwrap().success()
        };
        wait_until("the server takes connections", ready, || self.log());
        *server = runs.then_some(started);
        runs
    }

    /// Stops the server as a crash would, by SIGQUIT, and waits until it is gone.
    pub fn stop_immediate(&self) {
        self.signal(Signal::QUIT);
        let mut server = self.server.lock().unwrap();
        server.take().expect("the server runs").wait().unwrap();
    }

    /// Freezes the server and all its processes.
    pub fn sigstop(&self) {
        for process in self.processes() {
            // One may have ended meanwhile.
            let _ = kill_process(process, Signal::STOP);
        }
    }

    /// Ends what [`sigstop`](Self::sigstop) began.
    pub fn sigcont(&self) {
        for process in self.processes() {
            let _ = kill_process(process, Signal::CONT);
        }
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        let mut log = String::new();
        fs::File::open(self.directory.join("log")).unwrap().read_to_string(&mut log).unwrap();
        log
    }

    /// Runs SQL by `psql`, and returns its rows: columns separated by `|`, rows by line ends.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = self.psql(database);
        let done = psql.args(["-c", sql]).output().unwrap();
        assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
    }

    /// `psql` for this database, to be given its arguments.
    pub fn psql(&self, database: &str) -> Command {
        let mut psql = Command::new(binary("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database)]);
        psql
    }

    fn signal(&self, signal: Signal) {
        if let Some(server) = &*self.server.lock().unwrap() {
            kill_process(Pid::from_child(server), signal).unwrap();
        }
    }

    /// The server's processes, the first of all included.
    fn processes(&self) -> Vec<Pid> {
        let server = self.server.lock().unwrap();
        let parent = Pid::from_child(server.as_ref().expect("the server runs"));
        let mut processes = vec![parent];
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // "pid (name) state parent …", and the name may hold anything.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let fields = stat.rsplit_once(") ").map(|(_, fields)| fields.split(' ').nth(1));
            if fields.flatten().and_then(|field| field.parse().ok()) == Some(parent.as_raw_nonzero().get()) {
                processes.extend(Pid::from_raw(process));
            }
        }
        processes
    }
}

impl Drop for ThrowawayPostgres {
    fn drop(&mut self) {
        if self.server.get_mut().unwrap().is_some() {
            self.sigcont();
        }
        let server = self.server.get_mut().unwrap().take();
        // The janitor's input ends, and it does the rest.
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
        if let Some(mut server) = server {
            let _ = server.wait();
        }
    }
}

/// A shell that outlives this process by the moment that it takes to clean up.
fn janitor(directory: &Path) -> Child {
    let clean = "read -r _; if read -r pid < \"$0/data/postmaster.pid\"; then kill -CONT $pid; kill -QUIT $pid; \
                 while kill -0 $pid && ! grep -q 'State:.Z' /proc/$pid/status; do sleep 0.02; done; fi; rm -rf \"$0\"";
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(clean).arg(directory).process_group(0);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// A command of PostgreSQL that refuses to run as root.
fn command(name: &str) -> Command {
    let mut command = Command::new(binary(name));
    command.current_dir("/").process_group(0);
    if let Some((user, group)) = run_as() {
        command.uid(user).gid(group);
    }
    command
}

/// The user and group of the server's processes, where this process is root.
fn run_as() -> Option<(u32, u32)> {
    if !getuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let user = users.lines().find_map(|line| line.strip_prefix("postgres:"));
    let mut fields = user.expect("root needs a user named postgres to run the server as").split(':').skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// From `PG_BINARIES`, or the newest under `/usr/lib/postgresql`, or the search path.
fn binary(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("PG_BINARIES") {
        return Path::new(&folder).join(name);
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    newest.map_or_else(|| name.into(), |version| format!("/usr/lib/postgresql/{version}/bin/{name}").into())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Looks every few milliseconds; `otherwise` explains a failure.
fn wait_until(what: &str, mut done: impl FnMut() -> bool, otherwise: impl Fn() -> String) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "waited in vain until {what}: {}", otherwise());
        std::thread::sleep(Duration::from_millis(10));
    }
}
