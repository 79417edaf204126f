//! One server, on a free port, with data of its own.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use store::testing::ThrowawayPostgres;
use tempfile::TempDir;

use super::once::Setting;
use super::peers;
use crate::load::MODULUS;
use crate::process::{Interrupt, Process, ask, free_address};

/// A store that has to be made, and a journal's first segment, take a moment on a busy machine.
pub(super) const START_WITHIN: Duration = Duration::from_secs(60);
/// What the server may take for its last flush.
const LAST_FLUSH: Duration = Duration::from_secs(300);
const DATABASE: &str = "incrementer";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The product's HTTP layer alone
    Noop,
    /// Reads, adds and writes back in PostgreSQL before the answer
    Sync,
    /// incrementer with ack `memory`, on PostgreSQL
    Memory,
    /// incrementer with ack `durable`, on PostgreSQL
    Durable,
    /// nginx that returns 202
    Nginx,
    /// nginx with a Lua dictionary
    NginxLua,
    /// webdis before Redis that syncs its log before every answer
    Webdis,
}

impl Kind {
    pub(crate) const ALL: [Self; 7] =
        [Self::Noop, Self::Sync, Self::Memory, Self::Durable, Self::Nginx, Self::NginxLua, Self::Webdis];

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Memory | Self::Durable)
    }

    pub(crate) fn has_postgres(self) -> bool {
        self.is_ours() || self == Self::Sync
    }

    /// Path and form of an increment, and the status of its answer.
    pub(crate) fn request(self) -> (&'static str, &'static str, u16) {
        match self {
            Self::Webdis => ("/", "webdis", 200),
            _ => ("/increment", "json", 202),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Noop => "noop",
            Self::Sync => "sync",
            Self::Memory => "memory",
            Self::Durable => "durable",
            Self::Nginx => "nginx",
            Self::NginxLua => "nginx-lua",
            Self::Webdis => "webdis",
        })
    }
}

/// A server that takes increments.
pub(crate) struct Server {
    // Dropped in this order: processes, database, directory.
    processes: Vec<Process>,
    postgres: Option<ThrowawayPostgres>,
    directory: TempDir,
    kind: Kind,
    pub(crate) address: SocketAddr,
    redis: SocketAddr,
}

impl Server {
    /// Starts it and waits until an increment (of 0) is answered as it should be.
    ///
    /// # Errors
    /// It doesn't start, or a signal came.
    pub(crate) fn start(kind: Kind, setting: &Setting, interrupt: &Interrupt) -> anyhow::Result<Self> {
        let options = &setting.options;
        let directory =
            tempfile::Builder::new().prefix("incrementer-bench-").tempdir_in(&options.directory)?;
        // With fsync, as a user's.
        let postgres = kind
            .has_postgres()
            .then(|| ThrowawayPostgres::start_with(&["--encoding=UTF8", "--locale=C"], &[]));
        interrupt.check()?;
        let (address, redis) = (free_address()?, free_address()?);
        let store = postgres.as_ref().map(|postgres| postgres.url(DATABASE)).unwrap_or_default();
        let listen = address.to_string();
        let start = |program: &Path, arguments: &[&str]| {
            Process::start(Command::new(program).args(arguments), Stdio::null()).map(|process| vec![process])
        };
        let this = std::env::current_exe()?;
        let pool = options.pool.to_string();
        let ours =
            || incrementer(kind, setting, address, &store, directory.path()).map(|server| vec![server]);
        let place = directory.path();
        let processes = match kind {
            Kind::Noop => start(&this, &["serve", "noop", "--listen", &listen]),
            Kind::Sync => {
                start(&this, &["serve", "sync", "--listen", &listen, "--store", &store, "--pool", &pool])
            }
            Kind::Memory | Kind::Durable => ours(),
            Kind::Nginx => peers::nginx(place, address, None).map(|nginx| vec![nginx]),
            Kind::NginxLua => peers::nginx(place, address, Some(options.keys)).map(|nginx| vec![nginx]),
            Kind::Webdis => peers::webdis(place, address, redis, interrupt),
        }?;
        let mut server = Self { processes, postgres, directory, kind, address, redis };
        let (path, form, status) = kind.request();
        let probe = if form == "webdis" { "INCRBY/key-1/0" } else { r#"{"key":"key-1","value":0}"# };
        let answers = || ask(address, "POST", path, probe).is_ok_and(|(found, _)| found == status);
        if let Some(first) = server.processes.first_mut() {
            first.until_ready(START_WITHIN, interrupt, answers)?;
        }
        Ok(server)
    }

    /// incrementer's process alone ends, as a user would end it. Nothing is pending then.
    ///
    /// # Errors
    /// It doesn't stop well, or a signal came.
    pub(crate) fn stop_process(&mut self, interrupt: &Interrupt) -> anyhow::Result<()> {
        self.processes.drain(..).try_for_each(|process| process.stop(LAST_FLUSH + START_WITHIN, interrupt))
    }

    /// After [`Server::stop_process`]: incrementer again, over the same data and address.
    /// Doesn't wait until it is ready.
    ///
    /// # Errors
    /// It can't be started.
    pub(crate) fn start_process(&mut self, setting: &Setting) -> anyhow::Result<&mut Process> {
        let store = self.store_url();
        self.processes = vec![incrementer(self.kind, setting, self.address, &store, self.directory.path())?];
        Ok(&mut self.processes[0])
    }

    /// The URL of its store; empty for a server without one.
    pub(crate) fn store_url(&self) -> String {
        self.postgres.as_ref().map(|postgres| postgres.url(DATABASE)).unwrap_or_default()
    }

    /// What psql says to these commands about its store, each in a transaction of its own.
    ///
    /// # Errors
    /// There is no store, or one of the commands fails.
    pub(crate) fn psql(&self, commands: &[&str]) -> anyhow::Result<String> {
        psql(self.postgres.as_ref().context("this server has no store")?, DATABASE, commands)
    }

    /// What psql says to a file of commands.
    ///
    /// # Errors
    /// There is no store, or one of the commands fails.
    pub(crate) fn psql_file(&self, file: &Path) -> anyhow::Result<String> {
        let mut psql = self.postgres.as_ref().context("this server has no store")?.psql(DATABASE);
        output_of(psql.arg("-f").arg(file))
    }

    /// A folder of this run.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The server's own processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }

    /// The first process of its PostgreSQL.
    pub(crate) fn store_pid(&self) -> Option<u32> {
        let file = self.postgres.as_ref()?.data_directory().join("postmaster.pid");
        std::fs::read_to_string(file).ok()?.lines().next()?.trim().parse().ok()
    }

    /// The version of its PostgreSQL.
    pub(crate) fn store_version(&self) -> Option<String> {
        Some(psql(self.postgres.as_ref()?, "postgres", &["SHOW server_version"]).ok()?.trim().to_owned())
    }

    /// Ends it, and asks what is stored: the sum, and the weighted one. `None` where nothing is.
    /// incrementer is stopped as a user would, so that it brings in what is pending.
    ///
    /// # Errors
    /// It doesn't stop well, or the store can't be asked; or a signal came.
    pub(crate) fn stop(mut self, interrupt: &Interrupt) -> anyhow::Result<Option<(u64, u64)>> {
        if self.kind.is_ours() {
            self.stop_process(interrupt)?;
        }
        let table = if self.kind == Kind::Sync { "sync_counters" } else { "counters" };
        let said = match (&self.postgres, self.kind) {
            (Some(postgres), _) => psql(postgres, DATABASE, &[&sums_of(table)])?,
            (None, Kind::NginxLua) => ask(self.address, "GET", "/sums", "")?.1,
            (None, Kind::Webdis) => peers::sums_in_redis(self.redis)?,
            (None, _) => return Ok(None),
        };
        let sums = said
            .trim()
            .split_once('|')
            .and_then(|(sum, weighted)| Some((sum.parse().ok()?, weighted.parse().ok()?)));
        sums.map(Some).with_context(|| format!("the sums in the store can't be understood: {}", said.trim()))
    }
}

fn sums_of(table: &str) -> String {
    format!(
        "SELECT coalesce(sum(value), 0), coalesce(sum(value::numeric * substr(key, 5)::numeric), 0) % {MODULUS} \
         FROM {table}"
    )
}

/// incrementer over the data in `place`.
fn incrementer(
    kind: Kind,
    setting: &Setting,
    address: SocketAddr,
    store: &str,
    place: &Path,
) -> anyhow::Result<Process> {
    let (ack, listen) = (kind.to_string(), address.to_string());
    let within = format!("{}s", LAST_FLUSH.as_secs());
    let mut serve = Command::new(&setting.incrementer);
    serve.args(["serve", "--ack", &ack, "--listen", &listen, "--store", store]);
    serve.args(["--shutdown-timeout", &within, "--data-dir"]).arg(place.join("data"));
    Process::start(&mut serve, Stdio::null())
}

fn psql(postgres: &ThrowawayPostgres, database: &str, commands: &[&str]) -> anyhow::Result<String> {
    let mut psql = postgres.psql(database);
    psql.args(commands.iter().flat_map(|sql| ["-c", sql]));
    output_of(&mut psql)
}

fn output_of(psql: &mut Command) -> anyhow::Result<String> {
    let output = psql.output().context("psql can't be started")?;
    ensure!(output.status.success(), "psql failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
