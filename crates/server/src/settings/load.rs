//! From flags, environment and file to [`Settings`], or to a list of what is wrong.

use std::ffi::{OsStr, OsString};
use std::fmt;

use toml::de::{DeTable, DeValue};

use super::table::{Default, MIN_SEGMENTS, Setting, TABLE, variables};
use super::values::show_size;
use super::{CONFIG_VARIABLE, Settings};

const PREFIX: &str = "INCREMENTER_";
const DATABASE_URL: &str = "DATABASE_URL";

/// Where values may come from; the first wins over the next.
#[derive(Default)]
pub(crate) struct Sources {
    /// The flags that were given, by number of their setting in the table.
    pub(crate) flags: Vec<(usize, String)>,
    /// All variables of the environment, others' too.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// The file, if one was named.
    pub(crate) file: Option<ConfigFile>,
}

/// A file of settings, read but not parsed.
pub(crate) struct ConfigFile {
    /// Its path, for messages.
    pub(crate) path: String,
    /// What it holds.
    pub(crate) text: String,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Flag(String),
    Variable(String),
    File { path: String, line: usize, name: &'static str },
    Default,
    Derived(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::Variable(name) => f.write_str(name),
            Self::File { path, line, name } => write!(f, "{path} line {line}, {name}"),
            Self::Default => f.write_str("default"),
            Self::Derived(says) => write!(f, "default: {says}"),
        }
    }
}

/// The outcome of loading.
pub(crate) struct Loaded {
    /// The settings in effect.
    pub(crate) settings: Settings,
    /// Where each came from, in the order of the table.
    pub(crate) origins: Vec<Origin>,
}

type Given = Vec<Option<(Origin, String)>>;

impl Sources {
    /// The settings that these sources come to, or every mistake in them: one sentence each,
    /// which says where it is and what to do.
    pub(crate) fn load(self) -> Result<Loaded, Vec<String>> {
        let mut problems = Vec::new();
        let mut given: Given = vec![None; TABLE.len()];
        if let Some(file) = &self.file {
            read_file(file, &mut given, &mut problems);
        }
        read_environment(&self.environment, &mut given, &mut problems);
        for (number, text) in self.flags {
            given[number] = Some((Origin::Flag(TABLE[number].flag()), text));
        }
        fall_back_to_database_url(&self.environment, &mut given);

        let mut settings = Settings::unset();
        let mut origins = Vec::with_capacity(TABLE.len());
        for (setting, given) in TABLE.iter().zip(given) {
            let (origin, text) = match (given, &setting.default) {
                (Some(given), _) => given,
                (None, Default::Fixed(text)) => (Origin::Default, (*text).to_owned()),
                (None, Default::Derived { says, .. }) => {
                    origins.push(Origin::Derived(says));
                    continue;
                }
            };
            if let Err(problem) = (setting.set)(&mut settings, &text) {
                problems.push(format!("{origin}: {problem}"));
            }
            origins.push(origin);
        }
        for (setting, origin) in TABLE.iter().zip(&origins) {
            if let (Default::Derived { derive, .. }, Origin::Derived(_)) = (&setting.default, origin) {
                derive(&mut settings);
            }
        }
        if problems.is_empty() {
            problems.extend(contradictions(&settings, &origins));
        }
        if problems.is_empty() {
            Ok(Loaded { settings, origins })
        } else {
            Err(problems.iter().map(|problem| on_one_line(problem)).collect())
        }
    }
}

/// What was given may hold anything; a message is one line all the same.
fn on_one_line(problem: &str) -> String {
    let mut line = String::with_capacity(problem.len());
    for c in problem.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// Values that are in bounds by themselves, and don't go together.
fn contradictions(settings: &Settings, origins: &[Origin]) -> Option<String> {
    let journal = &settings.journal;
    if journal.segment_bytes <= journal.max_bytes / MIN_SEGMENTS {
        return None;
    }
    let number = TABLE.iter().position(|setting| setting.name == "journal.segment_bytes")?;
    Some(format!(
        "{}: a segment of {} is more than a quarter of journal.max_bytes, which is {}; \
        give {} or less, or leave it out",
        origins[number],
        show_size(journal.segment_bytes),
        show_size(journal.max_bytes),
        show_size(journal.max_bytes / MIN_SEGMENTS)
    ))
}

fn read_environment(environment: &[(OsString, OsString)], given: &mut Given, problems: &mut Vec<String>) {
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        if name == CONFIG_VARIABLE || is_service_link(name) {
            continue;
        }
        let Some(number) = TABLE.iter().position(|setting| setting.variable() == name) else {
            let known: Vec<String> = variables().collect();
            problems.push(format!(
                "{name}: there is no such variable; {}",
                correction(name, known.iter().map(String::as_str), "unset it")
            ));
            continue;
        };
        match value.to_str() {
            Some("") => problems.push(format!("{name}: it is empty; unset it, or give it a value")),
            Some(text) => given[number] = Some((Origin::Variable(name.to_owned()), text.to_owned())),
            None => problems.push(format!("{name}: its value is not UTF-8; write it in UTF-8")),
        }
    }
}

fn fall_back_to_database_url(environment: &[(OsString, OsString)], given: &mut Given) {
    let Some(number) = TABLE.iter().position(|setting| setting.name == "store") else { return };
    let url = environment.iter().find(|(name, _)| name == OsStr::new(DATABASE_URL));
    let url = url.map(|(_, url)| url.to_string_lossy().into_owned()).filter(|url| !url.is_empty());
    if given[number].is_none() {
        given[number] = url.map(|url| (Origin::Variable(DATABASE_URL.to_owned()), url));
    }
}

/// Whether Kubernetes made this variable for a service that is called `incrementer`: it gives
/// every container the address of each service so, and they are no settings.
fn is_service_link(name: &str) -> bool {
    let rest = &name[PREFIX.len()..];
    if rest == "PORT" || rest == "SERVICE_HOST" || rest == "SERVICE_PORT" {
        return true;
    }
    let port = rest.strip_prefix("PORT_").and_then(|rest| rest.chars().next());
    rest.starts_with("SERVICE_PORT_") || port.is_some_and(|c| c.is_ascii_digit())
}

fn read_file(file: &ConfigFile, given: &mut Given, problems: &mut Vec<String>) {
    let path = &file.path;
    let line_of = |at: usize| 1 + file.text[..at.min(file.text.len())].matches('\n').count();
    let document = match DeTable::parse(&file.text) {
        Ok(document) => document.into_inner(),
        // Its message alone: the error as a whole would quote the line, and with it a password.
        Err(error) => {
            let line = line_of(error.span().map_or(0, |span| span.start));
            problems.push(format!("{path} line {line}: not TOML: {}", error.message().replace('\n', ", ")));
            return;
        }
    };
    let mut unknown = |name: &str, at: usize| {
        let known = TABLE.iter().map(|setting| setting.name);
        problems.push(format!(
            "{path} line {}, {name}: there is no such setting; {}",
            line_of(at),
            correction(name, known, "take it out")
        ));
    };
    let mut values = Vec::new();
    for (key, value) in &document {
        let (section, at) = (key.get_ref().as_ref(), key.span().start);
        let is_section = TABLE.iter().any(|setting| setting.section_and_key().0 == Some(section));
        match value.get_ref() {
            DeValue::Table(table) if is_section => {
                for (key, value) in table {
                    values.push((format!("{section}.{}", key.get_ref()), key.span().start, value.get_ref()));
                }
            }
            _ if is_section => unknown(section, at),
            value => values.push((section.to_owned(), at, value)),
        }
    }
    let mut bad_kinds = Vec::new();
    for (name, at, value) in values {
        let Some(number) = TABLE.iter().position(|setting| setting.name == name) else {
            unknown(&name, at);
            continue;
        };
        let origin = Origin::File { path: path.clone(), line: line_of(at), name: TABLE[number].name };
        match text_of(value) {
            Some(text) => given[number] = Some((origin, text)),
            None => bad_kinds.push(format!(
                "{origin}: {} can't stand here; {}",
                value.type_str(),
                kind_wanted(&TABLE[number])
            )),
        }
    }
    problems.extend(bad_kinds);
}

fn text_of(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        _ => None,
    }
}

fn kind_wanted(setting: &Setting) -> &'static str {
    if setting.bare { "write a whole number" } else { "write a string in quotes" }
}

/// What to write instead of an unknown name.
fn correction<'a>(name: &str, known: impl Iterator<Item = &'a str>, otherwise: &str) -> String {
    let likeness = |candidate: &str| strsim::jaro_winkler(name, candidate);
    let best = known
        .map(|candidate| (likeness(candidate), candidate))
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .filter(|(likeness, _)| *likeness > 0.8);
    match best {
        Some((_, candidate)) => format!("did you mean {candidate}?"),
        None => format!("{otherwise}, or see incrementer serve --help for all settings"),
    }
}
