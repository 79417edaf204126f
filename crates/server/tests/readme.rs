//! The papers say what is so: every command of the README is run and answers as printed there, and
//! what README and ARCHITECTURE list is compared with where it comes from.

#![allow(clippy::unwrap_used, reason = "what a test can't get fails it")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rusqlite::types::Value as Cell;
use serde_json::Value;
use store::testing::ThrowawayPostgres;
use support::{Answer, Client, Home, Server, within};

/// Commands of the README that are not run, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("cargo build --release", "the binary under test is built already"),
    ("sudo install target/release/incrementer /usr/local/bin/", "it changes the machine"),
    (
        "sudo install -D -m 600 incrementer.sample.toml /etc/incrementer/incrementer.toml",
        "it changes the machine",
    ),
    ("sudo install -m 644 packaging/incrementer.service /etc/systemd/system/", "it changes the machine"),
    ("sudo systemctl daemon-reload", "it changes the machine"),
    ("sudo systemctl enable --now incrementer", "it changes the machine"),
    ("scripts/test", "it is what runs this test"),
    (
        "scripts/real-input",
        "it builds a release and counts for minutes; exactly_once_real_input.rs takes a sample",
    ),
    ("scripts/kills 10", "it is a test of its own, crates/server/tests/kills"),
];

/// How the README starts a server: replaced by the binary under test, on an address of its own.
const SERVE: &str = "cargo run --release -- ";
const ADDRESS: &str = "127.0.0.1:3333";
const POSTGRES: &str = "postgres://postgres:postgres@localhost:5432/incrementer";

#[test]
fn every_command_answers_as_printed() {
    Reader::new(true).read();
}

/// The same on a machine that lacks them, by stand-ins.
#[test]
fn every_command_answers_as_printed_without_curl_and_sqlite3() {
    Reader::new(false).read();
}

/// Follows the README from the top, in one directory.
struct Reader {
    /// Dropped first: it shows its log, which lies in the home.
    server: Option<Server>,
    home: Home,
    postgres: ThrowawayPostgres,
    with_tools: bool,
}

impl Reader {
    fn new(with_tools: bool) -> Self {
        // A few seconds would be long for a test.
        let home = Home::new(None).set("flush.interval", "50ms");
        Self { server: None, home, postgres: ThrowawayPostgres::start(), with_tools }
    }

    fn read(mut self) {
        let blocks = blocks(&paper("README.md"));
        let mut run = BTreeSet::new();
        for (at, block) in blocks.iter().enumerate().filter(|(_, block)| block.language == "sh") {
            let expected = blocks.get(at + 1).filter(|next| next.language == "text").map(|next| &next.text);
            let commands = commands(&block.text);
            let last = commands.len() - 1;
            for (number, command) in commands.into_iter().enumerate() {
                self.command(&command, expected.filter(|_| number == last));
                run.insert(command);
            }
        }
        let gone: Vec<_> = NOT_RUN.iter().filter(|(command, _)| !run.contains(*command)).collect();
        assert!(gone.is_empty(), "these are no longer in the README: {gone:?}");
        if let Some(server) = self.server {
            server.stop();
        }
    }

    fn command(&mut self, command: &str, expected: Option<&String>) {
        if NOT_RUN.iter().any(|(known, _)| *known == command) {
            assert_eq!(expected, None, "{command} is not run, so nothing can be printed for it");
            return;
        }
        let ours = self.with_own_places(command);
        let words = words(&ours);
        if let Some(arguments) = ours.strip_prefix(SERVE) {
            if let Some(server) = self.server.take() {
                server.stop();
            }
            let arguments: Vec<&str> = arguments.split_whitespace().collect();
            let mut server = self.home.launch_with(self.home.command(&arguments));
            server.wait_until_ready();
            self.server = Some(server);
            return;
        }
        let mut answer = String::new();
        let matches = within(support::PATIENCE / 4, || {
            answer = tidy(&self.answer(&ours, &words));
            // A flush may be on its way to the table; other commands are not to be repeated.
            let may_wait = ["sqlite3", "psql"].contains(&words[0].as_str());
            (!may_wait || expected.is_none_or(|expected| answer == tidy(expected))).then_some(())
        });
        if let Some(expected) = expected {
            assert!(matches.is_some() && answer == tidy(expected), "{command}\nanswers:\n{answer}");
        }
    }

    fn with_own_places(&self, command: &str) -> String {
        let server = self.server.as_ref().map_or(ADDRESS.to_owned(), |server| server.address().to_string());
        command.replace(ADDRESS, &server).replace(POSTGRES, &self.postgres.url("incrementer"))
    }

    /// What it prints; it must end well.
    fn answer(&self, command: &str, words: &[String]) -> String {
        let arguments: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        let directory = self.home.data().parent().unwrap().to_owned();
        let mut process = match words[0].as_str() {
            "incrementer" => self.home.command(&arguments),
            "psql" => {
                let mut psql = Command::new(self.postgres.psql("incrementer").get_program());
                psql.args(&arguments).env("PSQLRC", "/dev/null");
                psql
            }
            "curl" | "sqlite3" if self.with_tools && is_installed(&words[0]) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", command]).env("NO_PROXY", "*").env("HOME", &directory);
                shell
            }
            "curl" => return stand_in_for_curl(self.server.as_ref().unwrap(), &arguments),
            "sqlite3" => return stand_in_for_sqlite3(&directory, &arguments),
            _ => panic!("no test runs `{command}`; teach this one, or name it with a reason in NOT_RUN"),
        };
        let Output { status, stdout, stderr } = process.current_dir(directory).output().unwrap();
        assert!(status.success(), "{command}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }
}

/// As much of curl as the README uses.
fn stand_in_for_curl(server: &Server, arguments: &[&str]) -> String {
    let (mut lines, mut body, mut target, mut shows_head) = (Vec::new(), None, "", false);
    let mut arguments = arguments.iter();
    while let Some(&argument) = arguments.next() {
        match argument {
            "-i" => shows_head = true,
            "-H" => lines.push(*arguments.next().unwrap()),
            "-d" => body = Some(*arguments.next().unwrap()),
            url => target = url.strip_prefix(&format!("http://{}", server.address())).unwrap(),
        }
    }
    let form = "content-type: application/x-www-form-urlencoded";
    if body.is_some() && !lines.iter().any(|line| line.starts_with("content-type")) {
        lines.push(form);
    }
    let method = if body.is_some() { "POST" } else { "GET" };
    let mut client = Client::connect(server.address()).unwrap();
    let Answer { status, headers, body } =
        client.ask(&format!("{method} {target}"), &lines, body.unwrap_or_default()).unwrap();
    if !shows_head {
        return body;
    }
    let phrases = [(200, "OK"), (202, "Accepted"), (422, "Unprocessable Entity")];
    let (_, phrase) = phrases.iter().find(|(known, _)| *known == status).unwrap();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    format!("HTTP/1.1 {status} {phrase}\n{headers}\n{body}")
}

/// `sqlite3 FILE SQL`.
fn stand_in_for_sqlite3(directory: &Path, arguments: &[&str]) -> String {
    let connection = rusqlite::Connection::open(directory.join(arguments[0])).unwrap();
    let mut statement = connection.prepare(arguments[1]).unwrap();
    let columns = statement.column_count();
    let line = |row: &rusqlite::Row<'_>| {
        let cells = (0..columns).map(|at| match row.get(at).unwrap() {
            Cell::Text(text) => text,
            Cell::Integer(number) => number.to_string(),
            other => panic!("{other:?}"),
        });
        Ok(cells.collect::<Vec<_>>().join("|"))
    };
    let lines = statement.query_map([], line).unwrap().map(Result::unwrap);
    lines.collect::<Vec<_>>().join("\n")
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

/// Without what differs from run to run, or can't be seen.
fn tidy(text: &str) -> String {
    let lines = text.lines().map(str::trim_end).filter(|line| !line.starts_with("date:"));
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

#[test]
fn files_that_commands_name_are_there() {
    for (command, _) in NOT_RUN {
        let ours = words(command).into_iter().filter(|word| {
            ["incrementer.sample.toml", "packaging/", "scripts/"].iter().any(|part| word.starts_with(part))
        });
        ours.for_each(|name| assert!(root().join(&name).is_file(), "{command}: there is no {name}"));
    }
}

#[test]
fn the_table_of_settings_is_that_of_the_code() {
    let home = Home::new(None);
    let output = |arguments: &[&str]| {
        let output = home.command(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let help = output(&["serve", "--help"]);
    let help = help.split_once("\nSettings:").unwrap().1.split_whitespace().collect::<Vec<_>>().join(" ");
    let config: toml::Table = output(&["serve", "--print-config"]).parse().unwrap();
    let mut names = BTreeSet::new();
    for (name, value) in &config {
        match value {
            toml::Value::Table(section) => names.extend(section.keys().map(|key| format!("{name}.{key}"))),
            _ => drop(names.insert(name.clone())),
        }
    }
    let expected: BTreeMap<String, Vec<String>> = names
        .into_iter()
        .map(|name| {
            let flag = format!("--{} <", name.replace(['.', '_'], "-"));
            let (_, rest) = help.split_once(&flag).unwrap();
            let (doc, rest) = rest.split_once("> ").unwrap().1.split_once(" [default: ").unwrap();
            let default = rest.split_once("] [env: ").unwrap().0;
            (format!("`{name}`"), vec![default.to_owned(), doc.to_owned()])
        })
        .collect();
    let rows = table(&section(&paper("README.md"), "## Settings"));
    let told: BTreeMap<String, Vec<String>> = rows
        .into_iter()
        .map(|row| (row[0].clone(), vec![row[1].trim_matches('`').to_owned(), row[2].clone()]))
        .collect();
    assert_eq!(told, expected);
}

#[test]
fn the_table_of_metrics_is_what_metrics_answers() {
    let server = Home::new(None).start();
    let page = server.get("/metrics").expect(200).body;
    let introduced = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let introduced: BTreeSet<String> = introduced.map(str::to_owned).collect();
    let rows = table(&section(&paper("README.md"), "### Metrics"));
    let told: BTreeSet<String> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(told, introduced);
    server.stop();
}

#[test]
fn the_interface_is_that_of_the_openapi_document() {
    let document = fs::read_to_string(root().join("crates/http/src/openapi.json")).unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let readme = paper("README.md");

    let paths: BTreeSet<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
    let rows = table(&section(&readme, "## Interface"));
    let told = rows.iter().flat_map(|row| quoted(&row[0])).filter_map(|request| {
        let target = request.strip_prefix("GET ").or_else(|| request.strip_prefix("POST "))?;
        Some(target.split('?').next()?.to_owned())
    });
    assert_eq!(told.collect::<BTreeSet<_>>(), paths);

    let codes = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"].as_array();
    let codes: BTreeSet<String> =
        codes.unwrap().iter().map(|code| code.as_str().unwrap().to_owned()).collect();
    let rows = table(&section(&readme, "### Errors"));
    let told: BTreeSet<String> = rows.iter().flat_map(|row| quoted(&row[1])).collect();
    assert_eq!(told, codes);
}

#[test]
fn the_tables_in_the_database_are_those_that_are_made() {
    let home = Home::new(None);
    home.start().stop();
    let database = support::Database::sqlite(home.sqlite());
    let made = database.rows(
        "SELECT json_array(tables.name, columns.name) FROM sqlite_schema AS tables, \
         pragma_table_info(tables.name) AS columns WHERE tables.type = 'table'",
    );
    let made: BTreeSet<(String, String)> =
        made.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
    let rows = table(&section(&paper("README.md"), "## In the database"));
    let told: BTreeSet<(String, String)> = rows
        .iter()
        .flat_map(|row| quoted(&row[1]).into_iter().map(|column| (quoted(&row[0])[0].clone(), column)))
        .collect();
    assert_eq!(told, made);
}

#[test]
fn the_list_of_dependencies_is_that_of_cargo() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(name).collect();
    let asked_for: BTreeSet<String> = packages
        .iter()
        .flat_map(|package| package["dependencies"].as_array().unwrap().iter().map(name))
        .filter(|name| !ours.contains(name))
        .collect();
    let rows = table(&section(&paper("ARCHITECTURE.md"), "## Dependencies"));
    let told: BTreeSet<String> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(told, asked_for, "ARCHITECTURE.md gives each dependency a row with its reason");
}

#[test]
fn the_journals_format_is_that_of_the_code() {
    let docs: String = ["format.rs", "begun.rs", "../../counter/src/entries.rs"]
        .iter()
        .map(|file| fs::read_to_string(root().join("crates/journal/src").join(file)).unwrap())
        .flat_map(|source| {
            let docs = source.lines().filter_map(|line| line.strip_prefix("//!")).map(str::to_owned);
            docs.collect::<Vec<_>>()
        })
        .map(|line| line.strip_prefix(' ').unwrap_or_default().to_owned() + "\n")
        .collect();
    let blocks = blocks(&section(&paper("ARCHITECTURE.md"), "## The journal's format"));
    assert_eq!(blocks.len(), 5);
    for block in blocks {
        assert!(docs.contains(&block.text), "the code's documentation lacks:\n{}", block.text);
    }
}

#[test]
fn the_tests_that_hold_the_promises_are_there() {
    let promises = section(&paper("ARCHITECTURE.md"), "## Promises and the tests that hold them");
    let mut names = 0;
    for row in table(&promises) {
        let mut source = String::new();
        for token in quoted(&row[1]) {
            if token.ends_with(".rs") {
                source = fs::read_to_string(root().join(&token)).unwrap_or_else(|_| panic!("no {token}"));
            } else {
                assert!(source.contains(&format!("fn {token}(")), "{}: no test {token}", row[0]);
                names += 1;
            }
        }
    }
    assert!(names > 40, "only {names} tests were read");
}

#[test]
fn links_and_paths_lead_somewhere() {
    for name in papers() {
        let text = paper(&name);
        let folder = root().join(&name).parent().unwrap().to_owned();
        for target in links(&without_blocks(&text)) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() { root().join(&name) } else { folder.join(file) };
            assert!(path.exists(), "{name}: there is no {target}");
            if !anchor.is_empty() {
                let anchors = anchors(&fs::read_to_string(path).unwrap());
                assert!(anchors.contains(anchor), "{name}: there is no {target} among {anchors:?}");
            }
        }
        let text = without_blocks(&text);
        // What is for later isn't there yet.
        let later = ["crates/simulation", "crates/bench"];
        for path in quoted(&text).into_iter().filter(|token| token.starts_with("crates/")) {
            assert!(
                root().join(&path).exists() || later.contains(&path.as_str()),
                "{name}: there is no {path}"
            );
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn paper(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// Their names, from the root.
fn papers() -> Vec<String> {
    let mut papers = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(str::to_owned).to_vec();
    for entry in fs::read_dir(root().join("docs")).into_iter().flatten() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            papers.push(format!("docs/{name}"));
        }
    }
    papers
}

/// A fenced block.
struct Block {
    language: String,
    text: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        match (line.strip_prefix("```"), open) {
            (Some(language), false) => {
                blocks.push(Block { language: language.to_owned(), text: String::new() });
                open = true;
            }
            (Some(_), true) => open = false,
            (None, true) => blocks.last_mut().unwrap().text.extend([line, "\n"]),
            (None, false) => {}
        }
    }
    assert!(!open, "a block is not closed");
    blocks
}

fn without_blocks(text: &str) -> String {
    let outside = text.split("```").step_by(2);
    outside.collect()
}

/// What stands under a heading, up to the next one that is as high.
fn section(text: &str, heading: &str) -> String {
    let level = heading.split(' ').next().unwrap().len();
    let is_end = |line: &&str| {
        let marks = line.bytes().take_while(|byte| *byte == b'#').count();
        !(1..=level).contains(&marks) || line.as_bytes().get(marks) != Some(&b' ')
    };
    let mut lines = text.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "there is no {heading}");
    lines.take_while(is_end).flat_map(|line| [line, "\n"]).collect()
}

/// The rows of the first table in a text, without its head.
fn table(text: &str) -> Vec<Vec<String>> {
    let lines =
        text.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let rows = lines.skip(2).map(|line| {
        let inner = line.trim_matches('|');
        inner.split(" | ").map(|cell| cell.trim().to_owned()).collect()
    });
    rows.collect()
}

/// What stands in backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.map(str::to_owned).collect()
}

/// The headings' anchors, as forges make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// The commands of a shell block, one on each line but where a quote goes on.
fn commands(block: &str) -> Vec<String> {
    let mut commands = vec![String::new()];
    for line in block.lines() {
        let command = commands.last_mut().unwrap();
        command.push_str(line);
        if command.matches('\'').count().is_multiple_of(2) {
            commands.push(String::new());
        } else {
            command.push('\n');
        }
    }
    commands.retain(|command| !command.is_empty());
    commands
}

/// A command's words, as a shell would see them; single quotes are all that the README uses.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (at, part) in command.split('\'').enumerate() {
        if at % 2 == 1 {
            words.last_mut().unwrap().push_str(part);
            continue;
        }
        for (at, piece) in part.split(' ').enumerate() {
            if at > 0 {
                words.push(String::new());
            }
            words.last_mut().unwrap().push_str(piece);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}
