//! Real input that nearly every Debian machine has.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// So many names are taken.
const SAMPLE: usize = 30_000;
/// With fewer, the input would not be what these tests are about.
const AT_LEAST: usize = 500;

/// The first names in the `Depends:` lines of the package index, or of the list of installed packages where the machine
/// has no index.
pub fn names() -> Vec<String> {
    let index = Command::new("apt-cache").arg("dumpavail").stdout(Stdio::piped()).spawn();
    let mut names = Vec::new();
    if let Ok(mut index) = index {
        names = names_in(BufReader::new(index.stdout.take().unwrap()));
        // It may still have much to say.
        let _ = index.kill();
        index.wait().unwrap();
    }
    if names.len() < AT_LEAST
        && let Ok(status) = File::open("/var/lib/dpkg/status")
    {
        names = names_in(BufReader::new(status));
    }
    assert!(
        names.len() >= AT_LEAST,
        "this machine gives only {} names in `Depends:` lines: run `apt-get update` on a Debian machine",
        names.len()
    );
    names
}

fn names_in(index: impl BufRead) -> Vec<String> {
    let mut names = Vec::new();
    for line in index.lines().map(Result::unwrap) {
        let Some(depends) = line.strip_prefix("Depends:") else { continue };
        // "name:architecture (>= version), this | that"
        let packages = depends.split([',', '|']).map(str::trim_start);
        names.extend(packages.filter_map(|package| package.split([' ', '(', ':']).next().map(str::to_owned)));
        if names.len() >= SAMPLE {
            break;
        }
    }
    names
}
