//! A look into the store with the database's own tools.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use store::testing::ThrowawayPostgres;

/// Every key with its total.
pub type Totals = BTreeMap<String, i64>;

/// A store, seen from outside.
pub enum Database<'a> {
    Sqlite(PathBuf),
    /// A server, and the name of a database.
    Postgres(&'a ThrowawayPostgres, &'a str),
}

impl Database<'_> {
    pub fn sqlite(path: impl AsRef<Path>) -> Self {
        Database::Sqlite(path.as_ref().to_owned())
    }

    /// The table of counters.
    pub fn totals(&self) -> Totals {
        let rows = self.rows("SELECT json_array(key, value) FROM counters");
        rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect()
    }

    /// What has been set aside: key, value, reason.
    pub fn set_aside(&self) -> Vec<(String, String, String)> {
        let rows = self.rows(
            "SELECT json_array(key, CAST(value AS text), reason) FROM set_aside ORDER BY journal, seq, number",
        );
        rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect()
    }

    /// The rows of a query of one column. `json_array` is there in either store.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        match self {
            Self::Sqlite(path) => {
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.busy_timeout(Duration::from_secs(10)).unwrap();
                let mut statement = connection.prepare(sql).unwrap();
                let rows = statement.query_map([], |row| row.get(0)).unwrap();
                rows.map(Result::unwrap).collect()
            }
            Self::Postgres(server, database) => {
                let sql = sql.replace("json_array(", "json_build_array(");
                server.sql(database, &sql).lines().map(str::to_owned).collect()
            }
        }
    }

    /// Runs statements that answer nothing.
    pub fn execute(&self, sql: &str) {
        match self {
            Self::Sqlite(path) => {
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.busy_timeout(Duration::from_secs(10)).unwrap();
                connection.execute_batch(sql).unwrap();
            }
            Self::Postgres(server, database) => drop(server.sql(database, sql)),
        }
    }
}
