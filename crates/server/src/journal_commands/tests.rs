use counter::Entries;
use journal::{Journal, Options, RecordBuffer};

use super::*;

/// A journal with three records: the store has the first two.
fn some_journal(data_dir: &Path) {
    let disk = DataDir::own(data_dir).unwrap().journal().unwrap();
    let mut journal = Journal::open(disk, Options::new(1 << 16, 1 << 18)).unwrap().journal;
    for (key, value) in [("signup", 1), ("login", i64::MAX), ("signup", 3)] {
        let mut entries = Entries::new();
        entries.push(key, value).unwrap();
        let packed = if value == 3 {
            entries.push("login", -1).unwrap();
            entries.to_unit("id", &[0; 16])
        } else {
            entries.bytes().to_vec()
        };
        let mut buffer = RecordBuffer::default();
        buffer.extend(&packed);
        journal.make_room(buffer.len(), 0).unwrap();
        let seq = journal.append(Kind::Increments, 5, &mut buffer).unwrap();
        journal.sync().unwrap();
        if seq < Seq(2) {
            journal.trim(seq.next(), 0);
        }
    }
}

fn no_store(data_dir: &Path) -> StoreUrl {
    StoreUrl::sqlite(data_dir.join("none.db"))
}

#[test]
fn what_is_pending_is_told_by_key() {
    let dir = tempfile::tempdir().unwrap();
    some_journal(dir.path());
    let contents = read(dir.path()).unwrap();
    let text = contents.to_text().unwrap();
    assert!(text.contains("the store has seq 2 or more"), "{text}");
    assert!(text.contains("1 records, 2 increments (1 requests"), "{text}");
    assert!(text.ends_with("-1 \"login\"\n+3 \"signup\"\n"), "{text}");

    let json = contents.to_json();
    assert_eq!(json["segments"][0]["last_seq"], 3);
    assert_eq!(
        json["pending"]["sums"],
        json!([{ "key": "login", "value": -1 }, { "key": "signup", "value": 3 }])
    );
    assert_eq!(json["error"], Value::Null);
    verify(dir.path(), &no_store(dir.path())).unwrap();
}

#[test]
fn damage_is_named_and_what_comes_before_it_is_still_told() {
    let dir = tempfile::tempdir().unwrap();
    some_journal(dir.path());
    let whole = read(dir.path()).unwrap();
    let file = DataDir::journal_path(dir.path()).join(&whole.segments[0].file);
    let mut bytes = std::fs::read(&file).unwrap();
    // Inside the second record: the third shows that it was durable.
    let at = bytes.windows(5).position(|window| window == b"login").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();

    let contents = read(dir.path()).unwrap();
    assert_eq!(contents.segments[0].last, Seq(1));
    assert!(contents.to_json()["error"].as_str().unwrap().contains("record 2"));
    let error = verify(dir.path(), &no_store(dir.path())).unwrap_err().to_string();
    assert!(error.contains(&whole.segments[0].file) && error.contains("offset"), "{error}");
}

#[test]
fn a_directory_without_a_journal_is_said_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let error = verify(dir.path(), &no_store(dir.path())).unwrap_err().to_string();
    assert!(error.contains("there is no journal") && error.contains("--data-dir"), "{error}");
}
