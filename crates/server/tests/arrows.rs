//! The rules of the house that no compiler knows: which crate may depend on which, and how long a
//! file may be. ARCHITECTURE.md draws the same arrows.

#![allow(clippy::unwrap_used, reason = "what a test can't get fails it")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which crates of the workspace a crate may depend on. The server knows them all.
const ARROWS: &[(&str, &[&str])] = &[
    ("http-front", &["engine", "counter"]),
    ("flusher", &["engine", "store", "counter"]),
    ("engine", &["journal", "counter"]),
    ("journal", &["counter"]),
    ("store", &["counter"]),
    ("counter", &[]),
];
/// These stand above the house, or beside it: they may depend on whatever they need.
const UNBOUND: &[&str] = &["incrementer", "rubbish", "simulation", "incrementer-bench", "bench"];

/// The crates of others that speak HTTP, and the one of ours that may use them.
const HTTP: (&str, &[&str]) =
    ("http-front", &["axum", "h2", "http", "http-body-util", "httparse", "hyper", "hyper-util", "ntex"]);
/// The same for SQL.
const SQL: (&str, &[&str]) =
    ("store", &["diesel", "libsqlite3-sys", "postgres", "rusqlite", "sqlx", "tokio-postgres"]);

/// The habit is about 400 lines; what passes this bound has two jobs for certain.
const MAX_LINES: usize = 500;

struct Package {
    name: String,
    /// Names of what it is built with; what only its tests need is left out.
    dependencies: BTreeSet<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn packages() -> Vec<Package> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let package = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap();
        let built_with = all.iter().filter(|dependency| dependency["kind"] != "dev");
        let dependencies = built_with.map(|dependency| text(&dependency["name"])).collect();
        Package { name: text(&package["name"]), dependencies }
    };
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

#[test]
fn arrows_between_the_crates_point_downward() {
    let packages = packages();
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in packages.iter().filter(|package| !UNBOUND.contains(&package.name.as_str())) {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.name) else {
            wrong.push(format!("{} is not in the drawing: add it to ARROWS", package.name));
            continue;
        };
        let ours = package.dependencies.iter().filter(|name| ours.contains(name.as_str()));
        wrong.extend(
            ours.filter(|name| !allowed.contains(&name.as_str()))
                .map(|name| format!("{} must not depend on {name}", package.name)),
        );
    }
    assert_eq!(wrong, [""; 0]);
    let missing: Vec<_> = ARROWS.iter().filter(|(name, _)| !ours.contains(name)).collect();
    assert!(missing.is_empty(), "drawn, and not there: {missing:?}");
}

#[test]
fn http_and_sql_each_have_one_home() {
    let mut wrong = Vec::new();
    for package in packages() {
        if UNBOUND.contains(&package.name.as_str()) && package.name != "incrementer" {
            continue;
        }
        for (home, libraries) in [HTTP, SQL] {
            let strangers = libraries.iter().filter(|library| package.dependencies.contains(**library));
            if package.name != home {
                wrong.extend(strangers.map(|library| format!("{} must not know {library}", package.name)));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn no_source_file_has_two_jobs() {
    let mut long = Vec::new();
    for folder in std::fs::read_dir(root().join("crates")).unwrap() {
        each_source(&folder.unwrap().path().join("src"), &mut |path| {
            let lines = std::fs::read_to_string(path).unwrap().lines().count();
            if lines > MAX_LINES {
                long.push(format!(
                    "{} has {lines} lines; more than {MAX_LINES} are two jobs",
                    path.display()
                ));
            }
        });
    }
    assert_eq!(long, [""; 0]);
}

fn each_source(folder: &Path, see: &mut dyn FnMut(&Path)) {
    // A crate in the making may have no sources yet.
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            each_source(&path, see);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            see(&path);
        }
    }
}
