//! Every target over the corpus that is kept, and over a bounded number of changes to it. Without
//! libFuzzer nothing looks for new code; scripts/fuzz does that.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rubbish::TARGETS;

/// So many changed inputs for each target; PROPTEST_CASES says otherwise.
const CASES: u32 = 600;

/// What is put in now and then: it has a meaning to one target or another.
const TOKENS: &[&[u8]] = &[
    b"{\"key\":\"k\",\"value\":1}",
    b"\"key\"",
    b"\"value\"",
    b"\"\\u",
    b"\\ud83e",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\"",
    b"\\",
    b"-",
    b"0",
    b"1e9",
    b"null",
    b"\n",
    b" ",
    "ä".as_bytes(),
    b"key=",
    b"value=",
    b"&",
    b"=",
    b"%",
    b"%2",
    b"%ff",
    b"+",
    b"9223372036854775807",
    b"/counters",
    b"?",
    b"#",
    b"limit=",
    b"host:",
    b"prefer:",
    b"return=representation",
    b"idempotency-key:",
    b"content-type:",
    b"\x00",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"[flush]\n",
    b"interval",
    b"\"5s\"",
    b"store = ",
    b"***",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    entries.map(|entry| stem(entry.unwrap().path())).collect()
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(root().join("fuzz/corpus").join(target)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Places are in thousandths of the whole.
#[derive(Clone, Debug)]
enum Change {
    Flip(usize, u8),
    Insert(usize, Vec<u8>),
    Token(usize, usize),
    Remove(usize, usize),
    Repeat(usize, usize),
    Splice(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = || 0..1000_usize;
    prop_oneof![
        (at(), 1..=u8::MAX).prop_map(|(at, mask)| Change::Flip(at, mask)),
        (at(), proptest::collection::vec(any::<u8>(), 1..6))
            .prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), 0..TOKENS.len()).prop_map(|(at, token)| Change::Token(at, token)),
        (at(), 1..20_usize).prop_map(|(at, bytes)| Change::Remove(at, bytes)),
        (at(), 1..40_usize).prop_map(|(at, bytes)| Change::Repeat(at, bytes)),
        (any::<usize>(), at()).prop_map(|(other, at)| Change::Splice(other, at)),
    ]
}

fn changed(corpus: &[(PathBuf, Vec<u8>)], first: usize, changes: &[Change]) -> Vec<u8> {
    let mut bytes = corpus[first % corpus.len()].1.clone();
    for change in changes {
        let place = |at: usize| at * bytes.len() / 1000;
        match change {
            Change::Flip(at, mask) => {
                let at = place(*at);
                bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= mask);
            }
            Change::Insert(at, new) => drop(bytes.splice(place(*at)..place(*at), new.iter().copied())),
            Change::Token(at, token) => {
                drop(bytes.splice(place(*at)..place(*at), TOKENS[*token].iter().copied()));
            }
            Change::Remove(at, length) => {
                let at = place(*at);
                bytes.drain(at..(at + length).min(bytes.len()));
            }
            Change::Repeat(at, length) => {
                let at = place(*at);
                let part = bytes[at..(at + length).min(bytes.len())].to_vec();
                drop(bytes.splice(at..at, part));
            }
            Change::Splice(other, at) => {
                let other = &corpus[other % corpus.len()].1;
                bytes.truncate(place(*at));
                bytes.extend_from_slice(&other[at * other.len() / 1000..]);
            }
        }
    }
    bytes
}

fn hold(name: &str) {
    let corpus = corpus(name);
    assert!(corpus.len() >= 5, "{name} has a corpus of {}", corpus.len());
    for (path, bytes) in &corpus {
        println!("{}", path.display());
        rubbish::run(name, bytes);
    }
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    let inputs = (any::<usize>(), proptest::collection::vec(change(), 0..8))
        .prop_map(|(first, changes)| Input(changed(&corpus, first, &changes)));
    let outcome = TestRunner::new(config).run(&inputs, |input| {
        rubbish::run(name, &input.0);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{name}: {failure}"));
}

/// Shown so that it can be kept: `printf '…' > fuzz/corpus/TARGET/NAME`.
struct Input(Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "printf '{}'", self.0.escape_ascii().to_string().replace('%', "%%"))
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                hold(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_run_here_and_under_libfuzzer_and_has_a_corpus() {
            let known: BTreeSet<String> = TARGETS.iter().map(|target| target.0.to_owned()).collect();
            let here: BTreeSet<String> = [$(stringify!($name)),*].map(str::to_owned).into();
            assert_eq!(known, here);
            assert_eq!(known, names("fuzz/fuzz_targets"));
            assert_eq!(known, names("fuzz/corpus"));
        }
    };
}

targets! {
    body_json body_array body_lines body_form
    request_target request_head
    packed_entries journal_recovery
    settings_file settings_value
}
