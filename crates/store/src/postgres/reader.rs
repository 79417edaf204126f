//! The connection for what memory doesn't hold.

use counter::{JournalId, Key, Seq};
use tokio_postgres::types::ToSql;

use super::faults::Fault;
use super::limits::Limits;
use super::link::Link;
use super::session::Session;
use super::writer::{damaged, standing};
use crate::pages::Bounds;
use crate::url::PostgresPlace;
use crate::{PageQuery, Snapshot, Standing, StoreError, StoreReader};

/// One statement is one snapshot. A key is looked up by itself, in the order of the question, so
/// that no plan can turn this into a scan.
const TOTALS: &str = "
    SELECT coalesce((SELECT seq FROM journals WHERE id = $1), 0),
           ARRAY(SELECT (SELECT value FROM counters WHERE counters.key = asked.key)
                   FROM unnest($2::text[]) WITH ORDINALITY AS asked (key, number)
                  ORDER BY asked.number)";

/// A [`StoreReader`] in PostgreSQL.
pub(crate) struct PostgresReader {
    link: Link,
}

impl PostgresReader {
    pub(crate) fn new(place: &PostgresPlace, limits: Limits) -> Result<Self, StoreError> {
        Ok(Self { link: Link::new(place, limits, false)? })
    }

    fn call<T>(&mut self, work: impl AsyncFnOnce(&Session) -> Result<T, Fault>) -> Result<T, StoreError> {
        let limit = self.link.limits().step;
        Ok(self.link.call(limit, work)?)
    }
}

impl StoreReader for PostgresReader {
    fn totals(&mut self, journal: JournalId, keys: &[&str]) -> Result<Snapshot, StoreError> {
        // What can't be a key is not there; PostgreSQL would stumble over a NUL. No key is empty.
        let asked: Vec<&str> =
            keys.iter().map(|key| if Key::check(key).is_ok() { key } else { "" }).collect();
        self.call(async |session| {
            let statement = session.statement(TOTALS).await?;
            let row = session.client.query_one(&statement, &[&journal.to_string(), &asked]).await?;
            Ok(Snapshot { watermark: Seq::from_i64(row.try_get(0)?), totals: row.try_get(1)? })
        })
    }

    fn page(&mut self, query: &PageQuery<'_>) -> Result<Vec<String>, StoreError> {
        let Some(Bounds { lower, inclusive, upper }) = Bounds::of(query) else { return Ok(Vec::new()) };
        let limit = i64::from(query.limit);
        let sql = match (inclusive, &upper) {
            (true, None) => "SELECT key FROM counters WHERE key >= $1 ORDER BY key LIMIT $2",
            (false, None) => "SELECT key FROM counters WHERE key > $1 ORDER BY key LIMIT $2",
            (true, Some(_)) => "SELECT key FROM counters WHERE key >= $1 AND key < $3 ORDER BY key LIMIT $2",
            (false, Some(_)) => "SELECT key FROM counters WHERE key > $1 AND key < $3 ORDER BY key LIMIT $2",
        };
        self.call(async |session| {
            let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&lower, &limit];
            if let Some(upper) = &upper {
                parameters.push(upper);
            }
            let statement = session.statement(sql).await?;
            let rows = session.client.query(&statement, &parameters).await?;
            rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
        })
    }

    fn standing(&mut self, journal: JournalId) -> Result<Option<Standing>, StoreError> {
        self.call(async |session| standing(session, journal).await)
    }

    fn others(&mut self, journal: JournalId) -> Result<Vec<(JournalId, Seq)>, StoreError> {
        self.call(async |session| {
            let statement =
                session.statement("SELECT id, seq FROM journals WHERE id <> $1 ORDER BY id").await?;
            let rows = session.client.query(&statement, &[&journal.to_string()]).await?;
            let other = |row: &tokio_postgres::Row| {
                let id = row.try_get::<_, &str>(0)?.parse();
                let id = id.map_err(|error| damaged(&error))?;
                Ok((id, Seq::from_i64(row.try_get(1)?)))
            };
            rows.iter().map(other).collect()
        })
    }
}
