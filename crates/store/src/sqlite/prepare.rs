//! Makes the file and its schema.

use std::fs;

use counter::StoreId;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::faults::Fault;
use super::file::{File, directory};
use crate::migrations::{self, SQLITE};

/// Creates the file where it is missing, and migrates it. A refusal names the file.
pub(crate) fn prepare(file: &mut File) -> Result<StoreId, Fault> {
    let path = file.path().display().to_string();
    create_and_migrate(file).map_err(|fault| match fault {
        Fault::Refused(reason) if !reason.contains(&path) => Fault::Refused(format!("{path}: {reason}")),
        other => other,
    })
}

fn create_and_migrate(file: &mut File) -> Result<StoreId, Fault> {
    file.create()?;
    let id = migrate(file.connection()?)?;
    // The file's name must survive power loss before anything relies on its contents.
    let directory = directory(file.path());
    fs::File::open(directory).and_then(|opened| opened.sync_all()).map_err(|error| {
        Fault::Away(format!("the directory {} can't be synced: {error}", directory.display()))
    })?;
    Ok(id)
}

/// Brings the schema to this version, all of it or nothing, and reads the store's id. BEGIN
/// IMMEDIATE lets one process at a time do it.
fn migrate(connection: &mut Connection) -> Result<StoreId, Fault> {
    if !migrations::outstanding(SQLITE, version(connection)?)?.is_empty() {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version = version(&transaction)?;
        if version == 0 {
            transaction.execute_batch(
                "CREATE TABLE IF NOT EXISTS migrations (
                    number INTEGER NOT NULL PRIMARY KEY,
                    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
                 ) STRICT",
            )?;
        }
        for migration in migrations::outstanding(SQLITE, version)? {
            transaction.execute_batch(migration.sql)?;
            transaction.execute("INSERT INTO migrations (number) VALUES (?1)", [migration.number])?;
            tracing::info!(number = migration.number, "The database has been migrated.");
        }
        if version == 0 {
            let id = StoreId::random()
                .map_err(|error| Fault::Away(format!("no randomness for an id: {error}")))?;
            transaction.execute("INSERT INTO store (id) VALUES (?1)", [id.to_string()])?;
        }
        transaction.commit()?;
    }
    let id: Option<String> = connection.query_row("SELECT id FROM store", [], |row| row.get(0)).optional()?;
    id.and_then(|id| id.parse().ok()).ok_or_else(|| {
        Fault::Refused("the table `store` has lost the store's id: restore the file from a backup".to_owned())
    })
}

fn version(connection: &Connection) -> Result<i64, Fault> {
    let known = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'migrations'";
    if connection.query_row(known, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(0);
    }
    Ok(connection.query_row("SELECT coalesce(max(number), 0) FROM migrations", [], |row| row.get(0))?)
}
