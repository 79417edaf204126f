//! One session with the server, with the settings that the promises need.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::faults::Fault;
use super::limits::Limits;

/// The oldest release that has what the statements use.
const OLDEST: i32 = 120_000;

/// What every session sets. The server's time-outs keep an instance that froze in the middle of
/// something from holding up the others; ours (see [`Limits`]) pass later.
///
/// `statement_timeout` (and PostgreSQL 17's `transaction_timeout`) is lifted because a large batch
/// would run into it again and again, and each call has a time-out on this side. Plans: every
/// statement finds its rows by their key, so that it is planned once, and never scans a table that
/// was small when it was planned.
const SETTINGS: &str = "
    SET default_transaction_isolation = 'read committed';
    SET statement_timeout = 0;
    SET lock_timeout = '10s';
    SET idle_in_transaction_session_timeout = '15s';
    SET tcp_user_timeout = '20s';
    SET tcp_keepalives_idle = '10s';
    SET tcp_keepalives_interval = '5s';
    SET tcp_keepalives_count = 3;
    SET client_min_messages = warning;
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off;
    SET jit = off;
    SELECT set_config('synchronous_commit', 'on', false)
     WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write');
";

const FACTS: &str = "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), \
     current_setting('fsync') = 'on', current_database()::text";

/// An open session.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) limits: Limits,
    driver: JoinHandle<()>,
    statements: RefCell<HashMap<&'static str, Statement>>,
}

/// What a new session tells of its server.
pub(crate) struct Facts {
    /// Whether the server survives power loss.
    pub(crate) fsync: bool,
}

impl Session {
    /// Connects and sets what [`SETTINGS`] says. To be bounded by the caller.
    pub(crate) async fn open(
        config: &Config,
        tls: Option<MakeRustlsConnect>,
        limits: Limits,
    ) -> Result<(Self, Facts), Fault> {
        let session = Self::connect(config, tls, limits).await?;
        let facts = session.set_up().await?;
        Ok((session, facts))
    }

    /// Connects, and no more.
    pub(crate) async fn connect(
        config: &Config,
        tls: Option<MakeRustlsConnect>,
        limits: Limits,
    ) -> Result<Self, Fault> {
        let (client, driver) = match tls {
            Some(tls) if config.get_ssl_mode() != SslMode::Disable => drive(config, tls).await?,
            _ => drive(config, NoTls).await?,
        };
        Ok(Self { client, limits, driver, statements: RefCell::default() })
    }

    async fn set_up(&self) -> Result<Facts, Fault> {
        let (set, facts) =
            tokio::join!(biased; self.client.batch_execute(SETTINGS), self.client.query_one(FACTS, &[]));
        set?;
        let facts = facts?;
        let version: i32 = facts.try_get(0)?;
        if version < OLDEST {
            let (version, oldest) = (version / 10_000, OLDEST / 10_000);
            return Err(Fault::Refused(format!(
                "the server is PostgreSQL {version}; {oldest} or newer is needed"
            )));
        }
        if version >= 170_000 {
            // As for a statement.
            self.client.batch_execute("SET transaction_timeout = 0").await?;
        }
        if version >= 140_000 {
            // Notices a client that hung up while a statement runs. Not on every platform.
            let _ = self.client.batch_execute("SET client_connection_check_interval = '5s'").await;
        }
        let (encoding, database): (&str, &str) = (facts.try_get(1)?, facts.try_get(3)?);
        if encoding != "UTF8" {
            return Err(Fault::Refused(format!(
                "the database {database:?} has the encoding {encoding}, which can't hold every key: name another in \
                 the store's URL (it is made where it is missing), or make one by CREATE DATABASE … TEMPLATE \
                 template0 ENCODING 'UTF8'"
            )));
        }
        Ok(Facts { fsync: facts.try_get(2)? })
    }

    /// The statement `sql`, prepared on first use: a round trip more.
    pub(crate) async fn statement(&self, sql: &'static str) -> Result<Statement, Fault> {
        if let Some(known) = self.statements.borrow().get(sql) {
            return Ok(known.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.borrow_mut().insert(sql, statement.clone());
        Ok(statement)
    }

    /// One step of a call that has many: bounded by itself.
    pub(crate) async fn step<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(too_late(limit)))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Says good-bye to the server, and waits a moment until that is on its way.
    pub(crate) async fn close(self, patience: Duration) {
        let Self { client, mut driver, .. } = self;
        drop(client);
        if tokio::time::timeout(patience, &mut driver).await.is_err() {
            driver.abort();
            let _ = driver.await;
        }
    }
}

pub(crate) fn too_late(limit: Duration) -> Fault {
    Fault::Away(format!("PostgreSQL has not answered within {limit:?}"))
}

async fn drive<T>(config: &Config, tls: T) -> Result<(Client, JoinHandle<()>), Fault>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    // The call that is under way gets the error as well, so it is no news here.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok((client, driver))
}
