//! Makes the database and its schema.

use counter::StoreId;
use tokio_postgres::error::SqlState;

use super::faults::Fault;
use super::link::Link;
use super::session::Session;
use crate::StoreError;
use crate::migrations::{self, POSTGRES};

/// Held while migrating, so that of several servers that start at once one does it and the
/// others find it done. The number spells "incremen".
const MIGRATION_LOCK: i64 = 0x696e_6372_656d_656e;

/// Connects, creating the database where it is missing, and migrates it.
pub(crate) fn prepare(link: &mut Link) -> Result<StoreId, StoreError> {
    let limit = link.limits().step;
    match link.call(limit, migrate) {
        Err(Fault::NoDatabase(reason)) => make_database(link, reason)?,
        result => return Ok(result?),
    }
    Ok(link.call(limit, migrate)?)
}

fn make_database(link: &mut Link, reason: String) -> Result<(), Fault> {
    let name = link.database().to_owned();
    let mut made = Err(Fault::NoDatabase(reason));
    for maintenance in ["postgres", "template1"] {
        made = link.call_elsewhere(maintenance, async |session| create_database(session, &name).await);
        if !matches!(made, Err(Fault::NoDatabase(_))) {
            break;
        }
    }
    made
}

/// From `template0`, because another template may have another encoding, and contents.
async fn create_database(session: &Session, name: &str) -> Result<(), Fault> {
    let quoted = name.replace('"', "\"\"");
    let create = format!("CREATE DATABASE \"{quoted}\" TEMPLATE template0 ENCODING 'UTF8'");
    let mut made = session.client.batch_execute(&create).await;
    if made.as_ref().is_err_and(|error| error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE)) {
        // The server's locale insists on its own encoding; the locale C goes with every one.
        made = session.client.batch_execute(&format!("{create} LC_COLLATE 'C' LC_CTYPE 'C'")).await;
    }
    let Err(error) = made else {
        tracing::info!(database = name, "The database was missing and has been made.");
        return Ok(());
    };
    match error.code() {
        // Another server that starts was quicker; the second is how it shows at the same moment.
        Some(code) if [SqlState::DUPLICATE_DATABASE, SqlState::UNIQUE_VIOLATION].contains(code) => Ok(()),
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => Err(Fault::Refused(format!(
            "the database {name:?} doesn't exist, and the user may not make it: have it made by CREATE DATABASE \
             \"{quoted}\" TEMPLATE template0 ENCODING 'UTF8' OWNER …"
        ))),
        _ => Err(error.into()),
    }
}

/// Brings the schema to this version, all of it or nothing, and reads the store's id.
async fn migrate(session: &Session) -> Result<StoreId, Fault> {
    if migrations::outstanding(POSTGRES, version(session).await?)?.is_empty() {
        return store_id(session).await;
    }
    session.client.batch_execute("BEGIN").await?;
    match migrate_locked(session).await {
        Ok(()) => session.client.batch_execute("COMMIT").await?,
        Err(fault) => {
            let _ = session.client.batch_execute("ROLLBACK").await;
            return Err(fault);
        }
    }
    store_id(session).await
}

async fn migrate_locked(session: &Session) -> Result<(), Fault> {
    let client = &session.client;
    client.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await?;
    // Only this, and not another look into the catalogue, makes the server notice a table that
    // somebody made while we waited for the lock.
    let table = "CREATE TABLE IF NOT EXISTS migrations (number bigint PRIMARY KEY, \
                 applied_at timestamptz NOT NULL DEFAULT now())";
    client.batch_execute(table).await?;
    let version = newest(session).await?;
    for migration in migrations::outstanding(POSTGRES, version)? {
        client.batch_execute(migration.sql).await?;
        client.execute("INSERT INTO migrations (number) VALUES ($1)", &[&migration.number]).await?;
        tracing::info!(number = migration.number, "The database has been migrated.");
    }
    if version == 0 {
        let id =
            StoreId::random().map_err(|error| Fault::Away(format!("no randomness for an id: {error}")))?;
        client.execute("INSERT INTO store (id) VALUES ($1)", &[&id.to_string()]).await?;
    }
    Ok(())
}

async fn version(session: &Session) -> Result<i64, Fault> {
    let known = session.client.query_one("SELECT to_regclass('migrations') IS NOT NULL", &[]).await?;
    if !known.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    newest(session).await
}

async fn newest(session: &Session) -> Result<i64, Fault> {
    let newest = "SELECT coalesce(max(number), 0)::bigint FROM migrations";
    Ok(session.client.query_one(newest, &[]).await?.try_get(0)?)
}

async fn store_id(session: &Session) -> Result<StoreId, Fault> {
    let row = session.client.query_opt("SELECT id FROM store", &[]).await?;
    let id = row.map(|row| row.try_get::<_, String>(0)).transpose()?;
    id.and_then(|id| id.parse().ok()).ok_or_else(|| {
        Fault::Refused(
            "the table `store` has lost the store's id: restore the database from a backup".to_owned(),
        )
    })
}
