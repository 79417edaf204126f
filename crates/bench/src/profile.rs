//! Where the CPU time of the durable server goes under load: a flame graph, and a table of shares.

mod classes;
mod stacks;
mod under_load;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tempfile::NamedTempFile;

use crate::process::{Interrupt, Process};
use crate::run::{beside, machine};
use classes::{Class, class};
use stacks::{Stack, folded, parse};
use under_load::UnderLoad;

/// Samples per second and thread; no divisor of what timers like.
const SAMPLES_PER_S: u32 = 499;
/// Of each stack so many bytes are kept, enough for an HTTP worker's.
const STACK_BYTES: u32 = 16_384;

/// How much longer than asked perf may take.
const RECORDED_WITHIN: Duration = Duration::from_secs(60);

/// What is profiled.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The server's binary; by default the one beside this program
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
    /// A server that runs already, and is under load already, instead of one of its own
    #[arg(long, value_name = "PID", conflicts_with_all = ["server", "connections", "keys", "server_arguments"])]
    pid: Option<u32>,
    /// How long it is watched, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Connections of the load
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(2..=20_000))]
    connections: u32,
    /// Different keys, chosen at random
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// The folder for flame graph and table
    #[arg(long, default_value = "profile", value_name = "DIR")]
    out: PathBuf,
    /// Given to the server, such as `-- --store postgres://…`
    #[arg(last = true)]
    server_arguments: Vec<String>,
}

/// Puts a server under load (unless one is named), watches it with perf, and writes `profile.svg`
/// and `profile.md`. Returns the files.
///
/// # Errors
/// perf or wrk is missing or not allowed; the server doesn't start; the folder can't be written; or a
/// signal came.
pub fn run(options: &Options) -> anyhow::Result<Vec<PathBuf>> {
    installed("perf", "--version", "linux-perf")?;
    let interrupt = Interrupt::on_signals()?;
    let recorded = NamedTempFile::new().context("can't make a temporary file")?;
    let mut text = String::new();
    if let Some(pid) = options.pid {
        record(pid, options.seconds, recorded.path(), &interrupt)?;
    } else {
        installed("wrk", "-v", "wrk")?;
        let server = beside(options.server.as_deref(), "--server")?;
        let load = UnderLoad::start(
            &server,
            &options.server_arguments,
            options.seconds,
            options.connections,
            options.keys,
            interrupt.clone(),
        )?;
        record(load.pid(), options.seconds, recorded.path(), &interrupt)?;
        load.stop()?;
        text = options.what_ran(&server);
    }
    let stacks = parse(&script(recorded.path())?);
    ensure!(!stacks.is_empty(), "perf saw nothing: the server did not run while it was watched");
    let can_not = || format!("can't write into {}", options.out.display());
    std::fs::create_dir_all(&options.out).with_context(can_not)?;
    let (graph, table) = (options.out.join("profile.svg"), options.out.join("profile.md"));
    std::fs::write(&graph, flame_graph(&stacks)?).with_context(can_not)?;
    std::fs::write(&table, shares(&stacks) + &text).with_context(can_not)?;
    Ok(vec![graph, table])
}

impl Options {
    /// Where the server keeps its totals: that may come from the environment as well.
    fn store(&self, server: &Path) -> Option<String> {
        let mut print = Command::new(server);
        let output = print.args(["serve", "--print-config"]).args(&self.server_arguments).output().ok()?;
        store_in(&String::from_utf8_lossy(&output.stdout))
    }

    /// The server's arguments are not told: there may be a password in them.
    fn what_ran(&self, server: &Path) -> String {
        let machine = machine::describe(Path::new("/var/tmp"), server);
        let store = match self.store(server).as_deref() {
            Some(url) if url.starts_with("postgres") => "PostgreSQL",
            Some(_) => "SQLite",
            None => "an unknown store",
        };
        format!(
            "\nincrementer {}, commit {}, profile {}, ack durable, on {}; wrk with {} connections and {} keys, \
             watched for {} s; {}, {} cores, Linux {}.\n",
            machine.versions.get("incrementer").map_or("of unknown version", String::as_str),
            machine.commit,
            machine.profile,
            store,
            self.connections,
            self.keys,
            self.seconds,
            machine.cpu,
            machine.cores,
            machine.kernel
        )
    }
}

fn installed(program: &str, version: &str, package: &str) -> anyhow::Result<()> {
    let found = Command::new(program).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
    // wrk -v ends with 1; that it could be started is enough.
    found
        .map(drop)
        .with_context(|| format!("{program} can't be started; on Debian: apt-get install {package}"))
}

/// The value of `store` among the settings that a server prints.
fn store_in(settings: &str) -> Option<String> {
    let line = settings.lines().find_map(|line| line.strip_prefix("store = \""))?;
    line.split('"').next().map(str::to_owned)
}

/// By the clock of each CPU, since virtual machines often have no counters of cycles.
fn record(pid: u32, seconds: u32, into: &Path, interrupt: &Interrupt) -> anyhow::Result<()> {
    let said = NamedTempFile::new().context("can't make a temporary file")?;
    let mut perf = Command::new("perf");
    perf.args(["record", "--quiet", "--event", "cpu-clock"]);
    perf.args(["--freq", &SAMPLES_PER_S.to_string(), "--call-graph", &format!("dwarf,{STACK_BYTES}")]);
    perf.args(["--pid", &pid.to_string(), "--output"]).arg(into);
    perf.args(["--", "sleep", &seconds.to_string()]);
    let mut perf = Process::start_with(&mut perf, Stdio::null(), said.reopen()?.into())?;
    let within = Duration::from_secs(seconds.into()) + RECORDED_WITHIN;
    if !perf.wait(within, interrupt, || ())?.success() {
        let said = std::fs::read_to_string(said.path()).unwrap_or_default();
        bail!("perf record failed; it may need root, or kernel.perf_event_paranoid=1: {}", said.trim());
    }
    Ok(())
}

fn script(recorded: &Path) -> anyhow::Result<String> {
    let mut perf = Command::new("perf");
    perf.args(["script", "-F", "comm,tid,time,period,event,ip,sym,dso", "-i"]).arg(recorded);
    let output = perf.output().context("perf can't be started")?;
    ensure!(
        output.status.success(),
        "perf script failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn flame_graph(stacks: &[Stack]) -> anyhow::Result<Vec<u8>> {
    let mut options = inferno::flamegraph::Options::default();
    options.title = "CPU time of incrementer under load, by thread".to_owned();
    options.count_name = "µs".to_owned();
    let lines = folded(stacks);
    let mut graph = Vec::new();
    inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut graph)
        .context("the flame graph can't be drawn")?;
    Ok(graph)
}

/// The table: each class's share of all CPU time, and by thread.
fn shares(stacks: &[Stack]) -> String {
    let mut of_class: BTreeMap<Class, u64> = BTreeMap::new();
    let mut of_thread: BTreeMap<&str, u64> = BTreeMap::new();
    for stack in stacks {
        *of_class.entry(class(stack)).or_default() += stack.period;
        *of_thread.entry(&stack.thread).or_default() += stack.period;
    }
    let all: u64 = of_class.values().sum();
    let share = |part: u64| 100.0 * part as f64 / all.max(1) as f64;
    let mut text = "| the server's CPU time | share |\n| --- | ---: |\n".to_owned();
    for class in Class::ALL {
        let part = of_class.get(&class).copied().unwrap_or(0);
        let _ = writeln!(text, "| {} | {:.1} % |", class.name(), share(part));
    }
    text.push_str("\n| thread | share |\n| --- | ---: |\n");
    for (thread, part) in of_thread {
        let _ = writeln!(text, "| `{thread}` | {:.1} % |", share(part));
    }
    let _ = writeln!(
        text,
        "\n{} samples, {:.2} s of CPU time. A stack belongs to one class; `crates/bench/src/profile/classes.rs` \
         has the rules.",
        stacks.len(),
        all as f64 / 1e9
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use stacks::Frame;

    fn stack(thread: &str, symbol: &str, in_kernel: bool, period: u64) -> Stack {
        let frames = vec![Frame { symbol: symbol.into(), in_kernel }];
        Stack { thread: thread.into(), period, frames }
    }

    #[test]
    fn the_store_is_the_one_that_the_server_says() {
        let printed =
            "listen = \"127.0.0.1:3333\" # default\nstore = \"postgres://u:***@h/db\" # INCREMENTER_STORE\n";
        assert_eq!(store_in(printed).as_deref(), Some("postgres://u:***@h/db"));
        assert_eq!(store_in("error: unexpected argument"), None);
    }

    #[test]
    fn shares_are_of_time_and_add_up() {
        let stacks = [
            stack("http-0", "__x64_sys_sendto", true, 5_000_000),
            stack("http-1", "hyper::proto::h1::dispatch", false, 3_000_000),
            stack("engine", "__x64_sys_fdatasync", true, 2_000_000),
        ];
        let table = shares(&stacks);
        for row in [
            "| the kernel's network work | 50.0 % |",
            "| HTTP (hyper, tokio, routes) | 30.0 % |",
            "| journal (write, fdatasync, checksum) | 20.0 % |",
            "| other | 0.0 % |",
            "| `engine` | 20.0 % |",
            "3 samples, 0.01 s of CPU time.",
        ] {
            assert!(table.contains(row), "{row} is not in {table}");
        }
        let graph = String::from_utf8(flame_graph(&stacks).unwrap()).unwrap();
        assert!(graph.contains("<svg") && graph.contains("hyper::proto::h1::dispatch"));
    }
}
