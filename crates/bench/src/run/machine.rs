//! Where an experiment is made, and with what.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::peers::program;
use crate::raw::Machine;

/// What can't be found out stays empty.
pub(crate) fn describe(directory: &Path, incrementer: &Path) -> Machine {
    let mut machine = Machine {
        cpu: field("/proc/cpuinfo", "model name", ':'),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: kilobytes(&field("/proc/meminfo", "MemTotal", ':')) * 1024,
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        system: field("/etc/os-release", "PRETTY_NAME", '=').trim_matches('"').to_owned(),
        disk: disk(directory),
        load_average: load_average().unwrap_or_default(),
        commit: commit().unwrap_or_default(),
        profile: profile(incrementer).unwrap_or_default(),
        ..Machine::default()
    };
    let commands = [
        ("incrementer", incrementer.to_path_buf(), "--version"),
        ("rustc", program("rustc"), "--version"),
        ("wrk", program("wrk"), "-v"),
        ("oha", program("oha"), "--version"),
        ("nginx", program("nginx"), "-v"),
        ("redis", program("redis-server"), "--version"),
    ];
    for (name, package) in [("webdis", "webdis"), ("nginx's Lua module", "libnginx-mod-http-lua")] {
        if let Some(version) = debian_version(package) {
            machine.versions.insert(name.to_owned(), version);
        }
    }
    for (name, program, argument) in commands {
        if let Some(version) = version(&program, argument) {
            machine.versions.insert(name.to_owned(), version);
        }
    }
    machine
}

fn field(path: &str, name: &str, separator: char) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(separator));
    let mut values = lines.filter(|(of, _)| of.trim() == name).map(|(_, value)| value.trim().to_owned());
    values.next().unwrap_or_default()
}

fn kilobytes(text: &str) -> u64 {
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

fn disk(directory: &Path) -> String {
    let mut df = Command::new("df");
    let said = df.args(["--output=fstype,source"]).arg(directory).output().map(|output| output.stdout);
    let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
    said.lines().nth(1).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" on ")
}

/// The first word that begins with a digit, with a `v=` or a `/` before it or not.
fn version(program: &Path, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let words = said.split(|letter: char| letter.is_whitespace() || letter == '=' || letter == '/');
    words
        .map(|word| word.trim_end_matches(','))
        .find(|word| word.starts_with(char::is_numeric))
        .map(str::to_owned)
}

/// Of what doesn't tell its version itself.
fn debian_version(package: &str) -> Option<String> {
    let output = Command::new("dpkg-query").args(["-W", "-f=${Version}", package]).output().ok()?;
    let said = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(said.trim().to_owned()).filter(|version| !version.is_empty())
}

/// Of the folder that the command is given in.
fn commit() -> Option<String> {
    let git = Command::new("git").args(["describe", "--always", "--dirty", "--exclude=*"]).output().ok()?;
    let said = String::from_utf8(git.stdout).ok().filter(|_| git.status.success())?;
    Some(said.trim().to_owned())
}

/// Cargo's folder for a profile has its name.
fn profile(incrementer: &Path) -> Option<String> {
    Some(incrementer.parent()?.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_machine_has_cores_and_memory() {
        let machine =
            super::describe(std::path::Path::new("/var/tmp"), std::path::Path::new("target/debug/x"));
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 20, "{machine:?}");
        assert!(!machine.kernel.is_empty() && machine.disk.contains(" on "), "{machine:?}");
        assert_eq!(machine.profile, "debug");
    }
}
