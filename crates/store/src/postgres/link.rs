//! Keeps one session, connects again when it is gone, and bounds every call.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::faults::Fault;
use super::limits::Limits;
use super::session::{Session, too_late};
use super::tls;
use crate::StoreError;
use crate::url::PostgresPlace;

/// One session and the event loop that drives it, on the caller's thread.
pub(crate) struct Link {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    place: PostgresPlace,
    limits: Limits,
    tls: Option<MakeRustlsConnect>,
    session: Option<Session>,
    warned_of_fsync: bool,
}

impl Link {
    /// `writes`: whether only a server that takes writes will do, where the URL names several.
    pub(crate) fn new(place: &PostgresPlace, limits: Limits, writes: bool) -> Result<Self, StoreError> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .thread_name("store-resolver")
            .max_blocking_threads(4)
            .build()
            .map_err(|error| StoreError::Unavailable(format!("no event loop for a connection: {error}")))?;
        let mut place = place.clone();
        complete(&mut place.config, limits, writes);
        Ok(Self { runtime: Some(runtime), place, limits, tls: None, session: None, warned_of_fsync: false })
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Does `work`, connecting before where there is no session, in at most `limit` (and the
    /// connect limit). After [`Fault::Away`] the session is gone, and with it whatever the
    /// server had not committed.
    pub(crate) fn call<T>(
        &mut self,
        limit: Duration,
        work: impl AsyncFnOnce(&Session) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.call_in_steps(async |session| {
            tokio::time::timeout(limit, work(session)).await.unwrap_or_else(|_| Err(too_late(limit)))
        })
    }

    /// As [`call`](Self::call), for work that bounds each of its steps itself.
    pub(crate) fn call_in_steps<T>(
        &mut self,
        work: impl AsyncFnOnce(&Session) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.connect()?;
        let (Some(runtime), Some(session)) = (&self.runtime, &self.session) else {
            return Err(Fault::Away("there is no session".to_owned()));
        };
        let result = runtime.block_on(work(session));
        if let Err(Fault::Away(_)) = result {
            self.disconnect(Duration::ZERO);
        }
        result
    }

    /// Does `work` in a session of its own with another database of the same server.
    pub(crate) fn call_elsewhere<T>(
        &mut self,
        database: &str,
        work: impl AsyncFnOnce(&Session) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let tls = self.tls()?;
        let mut config = self.place.config.clone();
        config.dbname(database);
        let limits = self.limits;
        let Some(runtime) = &self.runtime else { return Err(too_late(Duration::ZERO)) };
        runtime.block_on(async {
            let connect = tokio::time::timeout(limits.connect, Session::connect(&config, tls, limits));
            let session = connect.await.unwrap_or_else(|_| Err(too_late(limits.connect)))?;
            let result = session.step(limits.step, work(&session)).await;
            session.close(GOOD_BYE).await;
            result
        })
    }

    /// Gives the session up in the middle of whatever it does.
    pub(crate) fn hang_up(&mut self) {
        self.disconnect(Duration::ZERO);
    }

    /// The name of the database in the URL.
    pub(crate) fn database(&self) -> &str {
        self.place.config.get_dbname().unwrap_or_default()
    }

    /// Sees to it that there is a session. One that broke while nobody used it is noticed here,
    /// so that not every restart of the server costs a call.
    fn connect(&mut self) -> Result<(), Fault> {
        if let (Some(runtime), Some(session)) = (&self.runtime, &self.session) {
            runtime.block_on(async {
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
            });
            if !session.is_closed() {
                return Ok(());
            }
            self.disconnect(Duration::ZERO);
        }
        let tls = self.tls()?;
        let limits = self.limits;
        let Some(runtime) = &self.runtime else { return Err(too_late(Duration::ZERO)) };
        let opened = runtime.block_on(async {
            let open = Session::open(&self.place.config, tls, limits);
            tokio::time::timeout(limits.connect, open).await
        });
        let (session, facts) = opened.unwrap_or_else(|_| Err(too_late(limits.connect)))?;
        self.session = Some(session);
        if !facts.fsync && !self.warned_of_fsync {
            self.warned_of_fsync = true;
            tracing::warn!(
                "PostgreSQL runs with fsync=off: a power failure there can lose or damage totals."
            );
        }
        Ok(())
    }

    fn tls(&mut self) -> Result<Option<MakeRustlsConnect>, Fault> {
        let config = &self.place.config;
        let unix_only = config.get_hostaddrs().is_empty()
            && config.get_hosts().iter().all(|host| matches!(host, tokio_postgres::config::Host::Unix(_)));
        if self.tls.is_none() && config.get_ssl_mode() != SslMode::Disable && !unix_only {
            self.tls = Some(tls::connector(&self.place)?);
        }
        Ok(self.tls.clone())
    }

    fn disconnect(&mut self, patience: Duration) {
        if let (Some(session), Some(runtime)) = (self.session.take(), &self.runtime) {
            runtime.block_on(session.close(patience));
        }
    }
}

/// How long a farewell may take.
const GOOD_BYE: Duration = Duration::from_millis(200);

impl Drop for Link {
    fn drop(&mut self) {
        // Blocking inside another event loop would panic; the server will notice by itself.
        if tokio::runtime::Handle::try_current().is_err() {
            self.disconnect(GOOD_BYE);
        }
        if let Some(runtime) = self.runtime.take() {
            // A name look-up may still hang in a thread of its own; it is not waited for.
            runtime.shutdown_background();
        }
    }
}

/// What the URL leaves open.
fn complete(config: &mut Config, limits: Limits, writes: bool) {
    if config.get_application_name().is_none() {
        config.application_name("incrementer");
    }
    let hosts = config.get_hosts().len().max(config.get_hostaddrs().len()).max(1) as u32;
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(limits.connect / hosts);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(Duration::from_secs(20));
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_idle(Duration::from_secs(10));
        config.keepalives_interval(Duration::from_secs(5));
        config.keepalives_retries(3);
    }
    if writes && hosts > 1 && config.get_target_session_attrs() == TargetSessionAttrs::Any {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
}
