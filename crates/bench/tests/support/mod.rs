//! What the tests of an experiment share: the product, places for data, and an end in the middle.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(120);

/// The product. A run of all tests has built it anew; a run of these alone builds it where there
/// is none.
pub(crate) fn incrementer() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let server = Path::new(env!("CARGO_BIN_EXE_incrementer-bench")).with_file_name("incrementer");
        if !server.is_file() {
            let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
            let folder = server.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
            let profile = if folder == "debug" { "dev" } else { &folder };
            let built = Command::new(cargo)
                .args(["build", "--quiet", "--offline", "--package", "incrementer", "--profile", profile])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status();
            assert!(built.unwrap().success());
        }
        server
    })
}

/// Where data go. PostgreSQL's user, who isn't root, must get in.
pub(crate) fn place() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    place
}

pub(crate) fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

/// Processes that descend from `root`, with their command lines.
fn descendants(root: u32) -> Vec<(u32, Vec<u8>)> {
    let children = |of: u32| {
        let tasks = fs::read_dir(format!("/proc/{of}/task")).into_iter().flatten().flatten();
        let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
        lists
            .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
            .collect::<Vec<u32>>()
    };
    let mut found = children(root);
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(children(pid));
        next += 1;
    }
    found.into_iter().map(|pid| (pid, fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default())).collect()
}

/// Starts it, interrupts it once wrk runs, and sees that all that it started is gone.
pub(crate) fn interrupted_under_load(mut command: Command) {
    let mut bench = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let by = Instant::now() + PATIENCE;
    let started = loop {
        let started = descendants(bench.id());
        if started.iter().any(|(_, line)| line.starts_with(b"wrk\0-t\0")) {
            break started;
        }
        assert!(Instant::now() < by && bench.try_wait().unwrap().is_none(), "{started:?}");
        std::thread::sleep(Duration::from_millis(10));
    };
    // The server, PostgreSQL and its own, its janitor, wrk.
    assert!(started.len() > 4, "{started:?}");
    kill_process(Pid::from_child(&bench), Signal::INT).unwrap();
    assert_eq!(bench.wait().unwrap().code(), Some(1));
    for (pid, line) in started {
        let now = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(now.is_empty() || now != line, "{pid} still runs: {}", String::from_utf8_lossy(&line));
    }
}
