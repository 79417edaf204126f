//! Promise 1: a write or an fdatasync that failed is never tried again. A library that is loaded
//! before the C library makes one of them fail.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use tempfile::TempDir;

use crate::support::{Database, Home, Load, Server, seed};
use crate::tools::{assert_says, count, gives_up, hoarding_home, segments};

/// The errors of the operating system, as C numbers them.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// A disk of which one call will fail.
struct FailingDisk {
    dir: TempDir,
}

impl FailingDisk {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A server that uses it, and takes increments.
    fn start(&self, home: &Home) -> Server {
        let mut command = home.command(&["serve"]);
        command.env("LD_PRELOAD", &*LIBRARY).env("FAILING_DISK", self.dir.path());
        let mut server = home.launch_with(command);
        server.wait_until_ready();
        server
    }

    /// The next such call fails, and no other.
    fn fail(&self, call: &str, error: i32) {
        let new = self.dir.path().join("new");
        fs::write(&new, format!("{call} {error}\n")).unwrap();
        fs::rename(new, self.dir.path().join("trigger")).unwrap();
    }

    /// The call that failed, and each one to a segment after it.
    fn calls(&self) -> String {
        fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default()
    }
}

/// Built once for all tests of this process.
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/preload/failing_disk.c");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (library, new) = (folder.join("failing_disk.so"), tempfile::NamedTempFile::new_in(folder).unwrap());
    let mut compile = Command::new("cc");
    compile
        .args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-O1", "-pthread", "-o"])
        .arg(new.path());
    assert!(compile.arg(source).arg("-ldl").status().unwrap().success());
    // Tests of other processes may be using the one that is there.
    new.persist(&library).unwrap();
    library
});

#[test]
fn after_a_failed_sync_nobody_is_told_202_and_the_server_ends() {
    for ack in ["durable", "memory"] {
        let (home, disk) = (hoarding_home(None).set("ack", ack), FailingDisk::new());
        let server = disk.start(&home);
        count(&server, "it", 3);
        let before = fs::metadata(&segments(&home)[0]).unwrap().ino();
        disk.fail("fdatasync", EIO);
        let mut acknowledged = 3;
        let answer = server.client().increment("it", 1);
        if ack == "durable" {
            assert!(
                answer.as_ref().is_ok_and(|answer| answer.status >= 500) || answer.is_err(),
                "{answer:?}"
            );
        } else {
            acknowledged += i64::from(answer.is_ok_and(|answer| answer.status == 202));
        }
        let error = gives_up(server);
        let why = "the journal failed: could not sync 000000000001.segment: Input/output error (os error 5)";
        assert_says(&error, &[why]);
        assert_eq!(disk.calls(), "fdatasync failed\n", "nothing may be tried after it");

        // What it reads may be in memory alone, so it is written and synced anew.
        let server = home.start();
        assert_ne!(fs::metadata(&segments(&home)[0]).unwrap().ino(), before);
        let total = server.total("it").unwrap();
        assert!((acknowledged..=4).contains(&total), "{acknowledged} ≤ {total} ≤ 4");
        count(&server, "it", 1);
        server.stop();
        assert_eq!(Database::sqlite(home.sqlite()).totals()["it"], total + 1);
    }
}

#[test]
fn after_a_failed_write_nobody_is_told_202_and_the_server_ends() {
    for (error, words) in [
        (EIO, "could not write to 000000000001.segment: Input/output error (os error 5)"),
        (ENOSPC, "could not write to 000000000001.segment: No space left on device (os error 28)"),
    ] {
        let (home, disk) = (hoarding_home(None), FailingDisk::new());
        let server = disk.start(&home);
        count(&server, "it", 3);
        disk.fail("pwrite", error);
        let answer = server.client().increment("it", 1);
        assert!(answer.as_ref().is_ok_and(|answer| answer.status >= 500) || answer.is_err(), "{answer:?}");
        assert_says(&gives_up(server), &["the journal failed: ", words]);
        assert_eq!(disk.calls(), "pwrite failed\n", "nothing may be tried after it");
        let server = home.start();
        assert_eq!(server.total("it"), Some(3), "it was not written at all");
        server.stop();
    }
}

#[test]
fn a_failed_sync_under_load_loses_nothing_that_was_acknowledged() {
    let seed = seed();
    let home = Home::new(None).set("flush.interval", "30ms");
    let load = Load::start(seed, 4, 200).with_retries(seed, 2, 50);
    for call in ["fdatasync", "pwrite", "fdatasync"] {
        let disk = FailingDisk::new();
        let server = disk.start(&home);
        load.open(&server);
        load.wait_for(&server, 300);
        disk.fail(call, EIO);
        assert_says(&gives_up(server), &["the journal failed: ", "000000000001.segment"]);
        assert_eq!(disk.calls(), format!("{call} failed\n"));
    }
    let server = home.start();
    load.open(&server);
    load.wait_for(&server, 100);
    let ledger = load.stop();
    server.stop();
    ledger.check(&Database::sqlite(home.sqlite()).totals());
}
