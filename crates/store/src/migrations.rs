//! The numbered steps that bring a database to the schema that this binary writes.
//!
//! A step that has been released never changes; what is to change becomes the next number.

use crate::StoreError;

pub(crate) struct Migration {
    pub(crate) number: i64,
    pub(crate) sql: &'static str,
}

macro_rules! migrations {
    ($folder:literal: $($number:literal $name:literal),+) => {
        &[$(Migration {
            number: $number,
            sql: include_str!(concat!("../migrations/", $folder, "/", $name, ".sql")),
        }),+]
    };
}

pub(crate) const POSTGRES: &[Migration] =
    migrations!("postgres": 1 "0001_totals", 2 "0002_purge", 3 "0003_moved_by", 4 "0004_unknowable");
pub(crate) const SQLITE: &[Migration] =
    migrations!("sqlite": 1 "0001_totals", 2 "0002_purge", 3 "0003_moved_by", 4 "0004_unknowable");

/// The steps that a database at `version` still lacks (0: it is empty).
pub(crate) fn outstanding(
    all: &'static [Migration],
    version: i64,
) -> Result<&'static [Migration], StoreError> {
    let newest = all.last().map_or(0, |migration| migration.number);
    if version > newest {
        return Err(StoreError::Refused(format!(
            "a newer version of incrementer has changed this database (its schema is number {version}, this \
             version knows up to {newest}): run that version or a later one"
        )));
    }
    Ok(&all[all.partition_point(|migration| migration.number <= version)..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_from_one_without_gaps_alike_for_both() {
        for all in [POSTGRES, SQLITE] {
            assert!(all.iter().zip(1..).all(|(migration, number)| migration.number == number));
            assert_eq!(all.len(), POSTGRES.len());
            assert_eq!(outstanding(all, 0).unwrap().len(), all.len());
            assert!(outstanding(all, all.len() as i64).unwrap().is_empty());
            assert!(outstanding(all, all.len() as i64 + 1).is_err());
        }
    }
}
