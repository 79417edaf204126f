//! What an error of SQLite means for the caller.

use rusqlite::{Error, ErrorCode};

use crate::StoreError;

/// Why a call to SQLite failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It may pass.
    Away(String),
    /// It won't pass by itself.
    Refused(String),
    /// It belongs to the row that was to be written.
    Row(String),
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Away(text) => Self::Unavailable(text),
            Fault::Refused(text) | Fault::Row(text) => Self::Refused(text),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(text) => Self::Away(text),
            StoreError::Refused(text) => Self::Refused(text),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        let Some(code) = error.sqlite_error_code() else {
            // A value of another type than the schema has, or a table that isn't ours.
            return Self::Refused(format!(
                "the schema is not as incrementer makes it: {text}; give incrementer a file of its own"
            ));
        };
        match code {
            ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch => Self::Row(text),
            ErrorCode::NotADatabase => {
                Self::Refused(format!("SQLite says: {text}; name another file in the store's URL"))
            }
            ErrorCode::DatabaseCorrupt => Self::Refused(format!(
                "SQLite says: {text}; restore the file from a backup, or bring over what is readable by `.recover` of \
                 the sqlite3 command"
            )),
            ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::AuthorizationForStatementDenied => Self::Refused(format!(
                "SQLite says: {text}; the user of this process needs to write to the file and to its directory"
            )),
            // No such table, no such column.
            ErrorCode::Unknown | ErrorCode::SchemaChanged => Self::Refused(format!(
                "the schema is not as incrementer makes it: {text}; give incrementer a file of its own, or run \
                 `incrementer migrate` where its tables are missing"
            )),
            // Locked by another process; a full disk; an I/O error; no memory.
            _ => Self::Away(format!("SQLite says: {text}")),
        }
    }
}

/// An error of a statement that was prepared and then failed while it wrote a row: what it says
/// of names can only come from a trigger's work on that row.
pub(crate) fn while_writing(error: Error) -> Fault {
    match error.sqlite_error_code() {
        Some(ErrorCode::Unknown) => Fault::Row(error.to_string()),
        _ => error.into(),
    }
}

/// Whether another connection was in the way.
pub(crate) fn is_busy(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
