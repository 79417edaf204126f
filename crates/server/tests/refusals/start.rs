//! What is wrong with a directory, a file or an address is told at once, with the way out.

use std::fs;
use std::path::Path;

use crate::support::{Database, Home, SmallDisk};
use crate::tools::{ask_command, assert_refused, count, refusal};

/// A directory in which this process can't make or change anything. Root could in any other way.
enum ReadOnly {
    Disk(SmallDisk),
    Directory(tempfile::TempDir),
}

impl ReadOnly {
    /// With what `fill` puts into it before.
    fn new(fill: impl FnOnce(&Path)) -> Option<Self> {
        if rustix::process::getuid().is_root() {
            let disk = SmallDisk::new("4m")?;
            fill(disk.path());
            disk.make_read_only();
            return Some(Self::Disk(disk));
        }
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path());
        make_read_only(directory.path());
        Some(Self::Directory(directory))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Disk(disk) => disk.path(),
            Self::Directory(directory) => directory.path(),
        }
    }
}

fn make_read_only(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| make_read_only(&entry.unwrap().path()));
    }
    let mode = if path.is_dir() { 0o555 } else { 0o444 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

const WAY_OUT: &str = "Make it writable for this user, or name another one with --data-dir";

#[test]
fn a_data_directory_that_cant_be_written_is_refused() {
    let Some(parent) = ReadOnly::new(|path| fs::create_dir(path.join("data")).unwrap()) else { return };
    for name in ["data", "missing"] {
        let data_dir = parent.path().join(name);
        let home = Home::new(None).set("data_dir", data_dir.to_str().unwrap());
        assert_refused(
            &home,
            &["the data directory ", data_dir.to_str().unwrap(), " can't be used", WAY_OUT],
        );
    }
}

#[test]
fn a_journal_directory_that_cant_be_written_is_refused_and_keeps_what_it_has() {
    let home = Home::new(None).set("flush.interval", "1h").set("journal.segment_bytes", "1MiB");
    let server = home.start();
    count(&server, "it", 3);
    server.kill();
    let journal = home.data().join("journal");
    let Some(unwritable) = ReadOnly::new(|path| crate::tools::copy_dir(&journal, path)) else { return };
    let aside = home.data().join("aside");
    fs::rename(&journal, &aside).unwrap();
    std::os::unix::fs::symlink(unwritable.path(), &journal).unwrap();
    assert_refused(&home, &["of the journal: ", "could not "]);
    // Reading it needs no more than to read.
    let inspected = ask_command(&home, &["journal", "inspect"]).unwrap();
    assert!(inspected.contains("+3 \"it\""), "{inspected}");

    fs::remove_file(&journal).unwrap();
    fs::rename(aside, &journal).unwrap();
    let server = home.start();
    assert_eq!(server.total("it"), Some(3));
    server.stop();
}

#[test]
fn a_file_in_the_way_is_refused() {
    let home = Home::new(None);
    fs::write(home.data(), "").unwrap();
    assert_refused(&home, &["the data directory ", " can't be used", WAY_OUT]);

    let home = Home::new(None);
    fs::create_dir(home.data()).unwrap();
    fs::write(home.data().join("journal"), "").unwrap();
    assert_refused(&home, &["/data/journal can't be used", WAY_OUT]);
}

#[test]
fn a_second_server_on_a_data_directory_is_told_who_has_it() {
    let home = Home::new(None).set("flush.interval", "1h");
    let server = home.start();
    count(&server, "it", 2);
    let owner = format!("is in use by another server (process {})", server.pid().as_raw_nonzero());
    assert_refused(&home, &[&owner, "Stop that one", "--data-dir"]);
    // It did the first one no harm.
    count(&server, "it", 1);
    server.stop();
    assert_eq!(Database::sqlite(home.sqlite()).totals()["it"], 3);
}

#[test]
fn a_port_in_use_is_refused_though_workers_share_theirs() {
    let first = Home::new(None);
    let server = first.start();
    let address = server.address().to_string();
    let second = Home::new(None).set("listen", &address);
    assert_refused(&second, &[&address, "choose another address with `listen`"]);
    server.stop();
}

#[test]
fn a_sqlite_file_that_cant_be_used_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let home_at = |path: &str| Home::new(Some(&format!("sqlite:{path}")));

    fs::write(path("text"), "This is no database, and it is long enough to be seen as none.".repeat(20))
        .unwrap();
    assert_refused(&home_at(&path("text")), &[&path("text"), "not a database", "name another file"]);
    let text = fs::read_to_string(path("text")).unwrap();
    assert!(text.starts_with("This is no database"), "it was left as it is");

    fs::create_dir(path("directory")).unwrap();
    assert_refused(&home_at(&path("directory")), &[&path("directory"), "is a directory"]);
    assert_refused(&home_at(&path("missing/it.db")), &[&path("missing/it.db")]);

    rusqlite::Connection::open(path("foreign")).unwrap().execute_batch("CREATE TABLE counters (x)").unwrap();
    let refused = refusal(&home_at(&path("foreign")));
    assert!(
        refused.contains("counters") && refused.contains("SQLite") || refused.contains("schema"),
        "{refused}"
    );

    let Some(unwritable) = ReadOnly::new(|folder| {
        let made = Home::new(Some(&format!("sqlite:{}", folder.join("made.db").display())));
        made.start().stop();
    }) else {
        return;
    };
    for name in ["made.db", "new.db"] {
        let path = unwritable.path().join(name).to_str().unwrap().to_owned();
        assert_refused(&home_at(&path), &[&path, "needs to write"]);
    }
}
