//! Settings: any file is refused with messages, or comes to settings that can be fed back.

use crate::settings::{ConfigFile, Sources, StoreTarget, TABLE, effective, without_passwords};

const PATH: &str = "it.toml";
/// What stands where a password was.
const MASK: &str = "***";

/// A file of settings.
pub(crate) fn file(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let file = |text: &str| Some(ConfigFile { path: PATH.to_owned(), text: text.to_owned() });
    let is_toml = text.parse::<toml::Table>().is_ok();
    match (Sources { file: file(text), ..Sources::default() }).load() {
        Ok(loaded) => {
            assert!(is_toml);
            let shown = effective(&loaded);
            if let StoreTarget::Postgres(url) = &loaded.settings.store {
                let is_secret = without_passwords(url.reveal()) != url.reveal();
                assert!(!is_secret || !shown.contains(url.reveal()), "a password prints");
            }
            // A masked password can't be fed back.
            if !shown.contains(MASK) {
                let again = (Sources { file: file(&shown), ..Sources::default() }).load();
                let again = again.unwrap_or_else(|problems| panic!("{problems:?} in {shown}"));
                assert_eq!(again.settings, loaded.settings, "{shown}");
            }
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            let lines = text.split('\n').count();
            for problem in &problems {
                let rest = problem.strip_prefix(PATH).and_then(|rest| rest.strip_prefix(" line "));
                let line = rest.and_then(|rest| rest.split([',', ':']).next()?.parse().ok());
                assert!(line.is_some_and(|line| (1..=lines).contains(&line)), "{problem}");
                assert!(!is_toml || !problem.contains(": not TOML: "), "{problem}");
                assert!(!problem.contains(char::is_control), "{problem:?}");
            }
        }
    }
}

/// One setting: the first byte says which, the rest is its value, as a flag would give it.
pub(crate) fn value(bytes: &[u8]) {
    let Some((&which, text)) = bytes.split_first() else { return };
    let Ok(text) = str::from_utf8(text) else { return };
    let number = usize::from(which) % TABLE.len();
    let setting = &TABLE[number];
    let load = |text: &str| Sources { flags: vec![(number, text.to_owned())], ..Sources::default() }.load();
    match load(text) {
        Ok(loaded) => {
            let shown = (setting.show)(&loaded.settings);
            if !shown.contains(MASK) {
                let again = load(&shown).unwrap_or_else(|problems| panic!("{problems:?} for {shown:?}"));
                assert_eq!(again.settings, loaded.settings, "{}: {shown:?}", setting.name);
            }
        }
        Err(problems) => {
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(!problems[0].contains(char::is_control), "{:?}", problems[0]);
        }
    }
}
