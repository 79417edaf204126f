//! `sync`: the sum is computed here and written back before the answer, one transaction a request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use counter::{Decoder, Entries, Entry, Fingerprint};
use engine::{Counted, Front, Page, PageRequest, Refusal};
use futures_util::future::try_join;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Statement};

const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS sync_counters (key text COLLATE \"C\" PRIMARY KEY, value bigint NOT NULL)";

/// What a request adds to each key, with the number of the key's last increment in it.
type Sums = BTreeMap<String, (i64, u32)>;

/// Reads the value from PostgreSQL, adds, writes it back, then answers.
///
/// One transaction for each request, with its rows locked in the order of their keys, so that it
/// counts right and never deadlocks.
#[derive(Clone, Debug)]
pub(super) struct Sync {
    pool: Arc<Pool>,
    /// Of the thread that drives the connections.
    runtime: Handle,
}

/// At most so many connections as there are permits; each is made when it is first needed.
#[derive(Debug)]
struct Pool {
    config: Config,
    permits: Semaphore,
    idle: Mutex<Vec<Session>>,
}

/// A connection with what it has prepared.
#[derive(Debug)]
struct Session {
    client: Client,
    insert: Statement,
    lock: Statement,
    update: Statement,
}

impl Sync {
    /// Makes database and table where they are missing.
    ///
    /// # Errors
    /// `store` is no URL of PostgreSQL, it can't be reached, or it refuses that.
    pub(super) fn start(store: &str, connections: usize) -> anyhow::Result<Self> {
        let config: Config = store.parse().context("--store is no URL of PostgreSQL")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(prepare(&config)).context("PostgreSQL can't be made ready")?;
        let handle = runtime.handle().clone();
        let drive = move || runtime.block_on(std::future::pending::<()>());
        std::thread::Builder::new().name("store".into()).spawn(drive)?;
        let pool = Pool { config, permits: Semaphore::new(connections), idle: Mutex::default() };
        Ok(Self { pool: Arc::new(pool), runtime: handle })
    }

    /// Runs on the connections' own thread, and to its end even where nobody waits any more: no
    /// connection is left in the middle of a transaction.
    async fn on_a_session<T: Send + 'static, W>(
        &self,
        work: impl FnOnce(Session) -> W + Send + 'static,
    ) -> Result<T, Refusal>
    where
        W: Future<Output = (Session, Result<T, Refusal>)> + Send,
    {
        let pool = Arc::clone(&self.pool);
        let task = self.runtime.spawn(async move {
            // The semaphore is never closed.
            let _permit = pool.permits.acquire().await.map_err(|_| Refusal::Stopping)?;
            let idle = pool.idle().pop().filter(|session| !session.client.is_closed());
            let session = match idle {
                Some(session) => session,
                None => Session::open(&pool.config).await.map_err(|error| away(&error))?,
            };
            let (session, outcome) = work(session).await;
            pool.idle().push(session);
            outcome
        });
        task.await.map_err(|ended| Refusal::StoreAway(ended.to_string()))?
    }
}

impl Pool {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        // A list of connections is whole after every step.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    async fn open(config: &Config) -> Result<Self, tokio_postgres::Error> {
        let client = connect(config).await?;
        let insert = "INSERT INTO sync_counters VALUES ($1, 0) ON CONFLICT DO NOTHING";
        let insert = client.prepare(insert).await?;
        let lock = client.prepare("SELECT value FROM sync_counters WHERE key = $1 FOR UPDATE").await?;
        let update = client.prepare("UPDATE sync_counters SET value = $2 WHERE key = $1").await?;
        Ok(Self { client, insert, lock, update })
    }

    /// Adds all or nothing. Returns the new totals.
    async fn add(&self, sums: &Sums) -> Result<BTreeMap<String, i64>, Refusal> {
        let done = self.add_and_commit(sums).await;
        if done.is_err() {
            // Where the connection is gone, so is the transaction.
            let _ = self.client.batch_execute("ROLLBACK").await;
        }
        done
    }

    /// Two round trips for one key: what needs no answer of another is sent with it.
    async fn add_and_commit(&self, sums: &Sums) -> Result<BTreeMap<String, i64>, Refusal> {
        let begin = self.client.batch_execute("BEGIN");
        let ((), before) = try_join(begin, self.lock(sums)).await.map_err(|error| away(&error))?;
        let mut after = BTreeMap::new();
        for ((key, &(value, entry)), total) in sums.iter().zip(before) {
            let overflow = || Refusal::Overflow { entry, key: key.clone(), total, value };
            after.insert(key.clone(), total.checked_add(value).ok_or_else(overflow)?);
        }
        self.write(&after).await.map_err(|error| away(&error))?;
        Ok(after)
    }

    /// Locks each row, which is made where it is missing, and returns what stands in it.
    async fn lock(&self, sums: &Sums) -> Result<Vec<i64>, tokio_postgres::Error> {
        let mut totals = Vec::with_capacity(sums.len());
        for key in sums.keys() {
            let key: [&(dyn ToSql + std::marker::Sync); 1] = [key];
            let insert = self.client.execute(&self.insert, &key);
            let (_, row) = try_join(insert, self.client.query_one(&self.lock, &key)).await?;
            totals.push(row.get(0));
        }
        Ok(totals)
    }

    /// Writes the sums back and commits.
    async fn write(&self, sums: &BTreeMap<String, i64>) -> Result<(), tokio_postgres::Error> {
        let last = sums.len().saturating_sub(1);
        for (number, (key, sum)) in sums.iter().enumerate() {
            let values: [&(dyn ToSql + std::marker::Sync); 2] = [key, sum];
            let update = self.client.execute(&self.update, &values);
            if number < last {
                update.await?;
            } else {
                try_join(update, self.client.batch_execute("COMMIT")).await?;
            }
        }
        Ok(())
    }
}

impl Front for Sync {
    async fn count(&self, entries: &Entries, _: Option<(&str, Fingerprint)>) -> Result<Counted, Refusal> {
        let (mut sums, mut last, mut number) = (Sums::new(), String::new(), 0);
        for entry in Decoder::new(entries.bytes()).flatten() {
            if let Entry::Increment { key, value } = entry {
                let (sum, of_entry) = sums.entry(key.to_owned()).or_default();
                let overflow = Refusal::Overflow { entry: number, key: key.to_owned(), total: *sum, value };
                *sum = sum.checked_add(value).ok_or(overflow)?;
                *of_entry = number;
                key.clone_into(&mut last);
                number += 1;
            }
        }
        let add = |session: Session| async move {
            let added = session.add(&sums).await;
            (session, added)
        };
        let totals = self.on_a_session(add).await?;
        Ok(Counted { total: totals.get(&last).copied().unwrap_or_default(), ..Counted::default() })
    }

    async fn total(&self, key: &str) -> Result<Option<i64>, Refusal> {
        let key = key.to_owned();
        let read = move |session: Session| async move {
            let sql = "SELECT value FROM sync_counters WHERE key = $1";
            let row = session.client.query_opt(sql, &[&key]).await;
            (session, row.map(|row| row.map(|row| row.get(0))).map_err(|error| away(&error)))
        };
        self.on_a_session(read).await
    }

    async fn page(&self, request: PageRequest) -> Result<Page, Refusal> {
        let read = move |session: Session| async move {
            let sql = "SELECT key, value FROM sync_counters WHERE starts_with(key, $1) \
                       AND ($2::text IS NULL OR key > $2) ORDER BY key LIMIT $3";
            let one_more = i64::from(request.limit) + 1;
            let rows = session.client.query(sql, &[&request.prefix, &request.after, &one_more]).await;
            let counters = rows.map(|rows| rows.iter().map(|row| (row.get(0), row.get(1))).collect());
            let page = counters.map(|counters| page(counters, request.limit as usize));
            (session, page.map_err(|error| away(&error)))
        };
        self.on_a_session(read).await
    }
}

/// There is a next page where more was found than fits on this one.
fn page(mut counters: Vec<(String, i64)>, limit: usize) -> Page {
    let more = counters.len() > limit;
    counters.truncate(limit);
    let next = counters.last().filter(|_| more).map(|(key, _)| key.clone());
    Page { counters, next }
}

fn away(error: &tokio_postgres::Error) -> Refusal {
    Refusal::StoreAway(error.to_string())
}

async fn prepare(config: &Config) -> anyhow::Result<()> {
    let client = match connect(config).await {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_DATABASE) => {
            let name = config.get_dbname().unwrap_or_default().replace('"', "\"\"");
            let mut other = config.clone();
            let client = connect(other.dbname("postgres")).await?;
            client.batch_execute(&format!("CREATE DATABASE \"{name}\"")).await?;
            connect(config).await?
        }
        connected => connected?,
    };
    Ok(client.batch_execute(TABLE).await?)
}

async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    // Who uses the client is told of its end.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}
