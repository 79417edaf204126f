//! CPU time and memory of processes and their children, from `/proc`.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use crate::process::{Interrupt, Interrupted};
use crate::raw::Cpu;

/// Memory is steady when so many looks find it as it was, give or take [`SLACK_BYTES`].
const STEADY_LOOKS: u32 = 5;
const LOOK_EVERY: Duration = Duration::from_millis(100);
const STEADY_WITHIN: Duration = Duration::from_secs(10);
const SLACK_BYTES: u64 = 256 << 10;

/// Numbers of processes, with all that descend from `roots` now.
pub(crate) fn tree(roots: &[u32]) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parents: Vec<(u32, u32)> =
        processes.filter_map(|pid| Some((pid, fields(pid)?.get(1)?.parse().ok()?))).collect();
    let mut found: BTreeSet<u32> = roots.iter().copied().collect();
    loop {
        let before = found.len();
        let children = parents.iter().filter(|(_, parent)| found.contains(parent)).map(|(pid, _)| *pid);
        let children: Vec<u32> = children.collect();
        found.extend(children);
        if found.len() == before {
            return found.into_iter().collect();
        }
    }
}

/// CPU time that these processes, all that descend from them, and those of their children that
/// ended and were waited for have spent so far.
pub(crate) fn cpu(roots: &[u32]) -> Cpu {
    let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
    let mut spent = Cpu::default();
    for fields in tree(roots).into_iter().filter_map(fields) {
        let seconds = |at: usize| {
            let ticks = fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok());
            ticks.unwrap_or(0.0) / ticks_per_s
        };
        spent.user_s += seconds(11) + seconds(13);
        spent.system_s += seconds(12) + seconds(14);
    }
    spent
}

/// CPU time of what this process started and waited for.
pub(crate) fn cpu_of_waited() -> Cpu {
    let Some(fields) = fields(std::process::id()) else { return Cpu::default() };
    let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
    let seconds = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    Cpu { user_s: seconds(13) / ticks_per_s, system_s: seconds(14) / ticks_per_s }
}

/// What was spent from `before` to `after`.
pub(crate) fn between(before: Cpu, after: Cpu) -> Cpu {
    let gained = |before: f64, after: f64| (after - before).max(0.0);
    Cpu { user_s: gained(before.user_s, after.user_s), system_s: gained(before.system_s, after.system_s) }
}

/// Resident memory in bytes, once it doesn't change any more, or as it is after ten seconds.
pub(crate) fn steady_memory(roots: &[u32], interrupt: &Interrupt) -> Result<u64, Interrupted> {
    let now = || memory_bytes(roots, "VmRSS");
    let by = Instant::now() + STEADY_WITHIN;
    let (mut reference, mut looks) = (now(), 0);
    while looks < STEADY_LOOKS && Instant::now() < by {
        interrupt.check()?;
        std::thread::sleep(LOOK_EVERY);
        let found = now();
        if found.abs_diff(reference) > SLACK_BYTES {
            (reference, looks) = (found, 0);
        }
        looks += 1;
    }
    Ok(now())
}

/// A line of `/proc/PID/status` in bytes, `VmHWM` or `VmRSS`, summed over the processes and all
/// that descend from them.
pub(crate) fn memory_bytes(roots: &[u32], name: &str) -> u64 {
    let of = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    tree(roots).into_iter().filter_map(of).sum::<u64>() * 1024
}

/// `/proc/PID/stat` from the state on: the name before it may hold anything.
fn fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_time_and_memory_are_found() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo; read _"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        assert!(tree(&[std::process::id()]).contains(&child.id()));
        let spent = cpu(&[child.id()]);
        assert!(spent.user_s + spent.system_s > 0.0, "{spent:?}");
        assert!(memory_bytes(&[child.id()], "VmHWM") >= memory_bytes(&[child.id()], "VmRSS"));
        assert!(memory_bytes(&[child.id()], "VmRSS") > 0);
        drop(child.stdin.take());
        child.wait().unwrap();
        let waited = cpu_of_waited();
        assert!(waited.user_s + waited.system_s > 0.0, "{waited:?}");
    }
}
