//! Packed increments: any bytes are damage, or increments that can be packed again.

use counter::{Damaged, Decoder, Entries, Entry, Fingerprint, Key};

/// A run of increments, of a unit or of none.
#[derive(Debug, Default, PartialEq, Eq)]
struct Run {
    unit: Option<(String, Fingerprint)>,
    increments: Vec<(String, i64)>,
}

pub(crate) fn packed(bytes: &[u8]) {
    let Some(runs) = read(bytes) else { return };
    let again = pack(&runs);
    // Numbers may be written longer than they need to be, never shorter.
    assert!(again.len() <= bytes.len(), "{} bytes, packed again {}", bytes.len(), again.len());
    assert_eq!(read(&again).as_ref(), Some(&runs));
    // The end is where it is: with anything cut off or put behind it, it isn't the same any more.
    assert_ne!(
        read(&again[..again.len().saturating_sub(1)]).as_ref(),
        Some(&runs).filter(|_| !again.is_empty())
    );
    let longer = [&again[..], &[0xff]].concat();
    assert_eq!(read(&longer), None);
}

/// `None` for damage.
fn read(bytes: &[u8]) -> Option<Vec<Run>> {
    let mut runs = vec![Run::default()];
    let mut owed = 0;
    let mut decoder = Decoder::new(bytes);
    while let Some(entry) = decoder.next() {
        match entry {
            Ok(Entry::Unit(header)) => {
                assert_eq!(owed, 0, "a unit in a unit");
                assert!((1..=255).contains(&header.id.len()));
                owed = header.count;
                runs.push(Run { unit: Some((header.id.to_owned(), header.fingerprint)), increments: vec![] });
            }
            Ok(Entry::Increment { key, value }) => {
                assert_eq!(Key::check(key), Ok(()));
                if owed == 0 && runs.last()?.unit.is_some() {
                    runs.push(Run::default());
                }
                owed = owed.saturating_sub(1);
                runs.last_mut()?.increments.push((key.to_owned(), value));
            }
            Err(Damaged) => {
                assert_eq!(decoder.next(), None, "it went on after an error");
                return None;
            }
        }
        assert!(bytes.ends_with(decoder.rest()));
    }
    assert_eq!(owed, 0, "a unit is cut short");
    Some(runs)
}

fn pack(runs: &[Run]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for run in runs {
        let mut entries = Entries::new();
        for (key, value) in &run.increments {
            entries.push(key, *value).expect("a key");
        }
        match &run.unit {
            Some((id, fingerprint)) => bytes.extend(entries.to_unit(id, fingerprint)),
            None => bytes.extend_from_slice(entries.bytes()),
        }
    }
    bytes
}
