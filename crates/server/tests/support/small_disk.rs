//! A disk that is soon full.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A file system of its own in memory. Only root may make one.
pub struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// `None` where this process may not mount; it says so, because a test is skipped then.
    pub fn new(size: &str) -> Option<Self> {
        if !rustix::process::getuid().is_root() {
            println!("SKIPPED: only root can mount the small disk that this test needs");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let disk = Self { dir };
        let options = format!("size={size},mode=755");
        if !disk.mount(&["-t", "tmpfs", "-o", &options, "tmpfs"]) {
            println!("SKIPPED: this machine doesn't let root mount the small disk that this test needs");
            return None;
        }
        Some(disk)
    }

    fn mount(&self, arguments: &[&str]) -> bool {
        Command::new("mount").args(arguments).arg(self.path()).status().unwrap().success()
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// From now on nothing can be written to it.
    pub fn make_read_only(&self) {
        assert!(self.mount(&["-o", "remount,ro"]));
    }

    /// How many bytes of room are left.
    pub fn room(&self) -> u64 {
        let stats = rustix::fs::statvfs(self.path()).unwrap();
        stats.f_bavail * stats.f_frsize
    }

    /// Takes all room that is left; it is free again when the file of this path is removed.
    pub fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut filler = File::create(&path).unwrap();
        for size in [64 << 10, 4 << 10, 1] {
            let bytes = vec![0; size];
            while filler.write_all(&bytes).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that a failed test left may be using it still.
        let _ = Command::new("umount").arg("-l").arg(self.path()).stderr(Stdio::null()).status();
    }
}
