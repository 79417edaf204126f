//! What an error of the driver or the server means for the caller.

use std::error::Error as _;
use std::fmt::Write as _;

use tokio_postgres::Error;
use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::StoreError;

/// Why a call to PostgreSQL failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It may pass. The session is given up.
    Away(String),
    /// It won't pass by itself.
    Refused(String),
    /// The database of the URL doesn't exist.
    NoDatabase(String),
    /// It belongs to the rows that were to be written, not to the server or the session.
    Rows(String),
    /// Its code is used for both: a policy or a trigger that refuses one row, and a table that is
    /// not as it should be. [`set_aside`](super::set_aside) finds out.
    Unclear {
        /// The server's own words.
        said: String,
        /// What to tell where it is not the rows.
        otherwise: String,
    },
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Away(text) => Self::Unavailable(text),
            Fault::NoDatabase(text) => {
                Self::Refused(format!("{text}; `incrementer migrate` makes the database where it is missing"))
            }
            Fault::Refused(text) | Fault::Rows(text) | Fault::Unclear { otherwise: text, .. } => {
                Self::Refused(text)
            }
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
        match error.as_db_error() {
            Some(answer) => from_answer(answer),
            None => from_driver(&error),
        }
    }
}

fn from_answer(answer: &DbError) -> Fault {
    let code = answer.code();
    let text = in_words(answer);
    if *code == SqlState::INVALID_CATALOG_NAME {
        return Fault::NoDatabase(format!("PostgreSQL says: {text}"));
    }
    if [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT].contains(code) {
        return Fault::Away(format!(
            "PostgreSQL says: {text}; a pooler between it and incrementer has to keep a session for each connection"
        ));
    }
    let away = |text: String| Fault::Away(format!("PostgreSQL says: {text}"));
    // What a trigger of yours raises is believed: one that calls a row a deadlock has it tried again.
    match code.code().get(..2).unwrap_or_default() {
        // The connection; read-only servers and the state of a transaction; rollbacks and deadlocks;
        // resources; shutdown and start; the server's system calls; snapshots; its inner errors.
        "08" | "25" | "40" | "53" | "57" | "58" | "72" | "XX" => away(text),
        "55" if [SqlState::LOCK_NOT_AVAILABLE, SqlState::OBJECT_IN_USE].contains(code) => away(text),
        // A database that lets nobody in at the moment. It ends the session, as no row can.
        "0A" | "55" if matches!(answer.parsed_severity(), Some(Severity::Fatal | Severity::Panic)) => {
            away(text)
        }
        // What a table that was changed makes of a prepared statement. The text is translated, the
        // name of the function in the server is not.
        "0A" if answer.routine() == Some("RevalidateCachedQuery") => away(text),
        // Names, passwords, settings.
        "28" | "3D" | "F0" => Fault::Refused(format!("PostgreSQL doesn't let us in: {text}")),
        class => from_writing(class, code, text),
    }
}

/// What comes up where rows are written: values, constraints, limits, policies, and whatever
/// triggers raise, in classes of their own too.
fn from_writing(class: &str, code: &SqlState, text: String) -> Fault {
    let otherwise = match class {
        "42" if *code == SqlState::INSUFFICIENT_PRIVILEGE => format!(
            "PostgreSQL doesn't permit it: {text}; grant the user what it lacks (owning the database is enough), or \
             see to the policies of the table"
        ),
        "42" | "3F" => format!(
            "the schema is not as incrementer makes it: {text}; give incrementer a database of its own, or run \
             `incrementer migrate` where its tables are missing"
        ),
        // A column that was added, which no row of ours fills; or a trigger that empties one of ours.
        "23" if *code == SqlState::NOT_NULL_VIOLATION => format!(
            "the schema is not as incrementer makes it: {text}; give the column a default, or drop it"
        ),
        // What the server can't do; roles; transactions in triggers; functions in other languages
        // and how they are called; limits; objects not ready; foreign tables.
        "0A" | "0L" | "0P" | "2D" | "38" | "39" | "54" | "55" | "HV" => format!(
            "PostgreSQL can't write to the table: {text}; see to its triggers, and to whatever was changed about it"
        ),
        _ => return Fault::Rows(text),
    };
    Fault::Unclear { said: text, otherwise }
}

/// The server's own words.
fn in_words(answer: &DbError) -> String {
    let mut text = format!("{} (SQLSTATE {})", answer.message(), answer.code().code());
    for more in [answer.detail(), answer.hint()].into_iter().flatten() {
        let _ = write!(text, "; {more}");
    }
    text
}

fn from_driver(error: &Error) -> Fault {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(reason) = cause {
        let _ = write!(text, ": {reason}");
        if let Some(rustls::Error::InvalidCertificate(_)) = reason.downcast_ref() {
            return Fault::Refused(format!(
                "{text}; name the authority that signed the server's certificate with sslrootcert=/path/of/ca.pem in \
                 the store's URL, or choose sslmode=prefer, which doesn't insist"
            ));
        }
        // An I/O error hides its cause from `source`, and shows it by `get_ref`.
        cause = match reason.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => reason.source(),
        };
    }
    // The driver doesn't say of which kind its error is, other than in its text.
    if text.starts_with("authentication error") || text.starts_with("invalid configuration") {
        return Fault::Refused(format!("PostgreSQL doesn't let us in: {text}"));
    }
    if text.contains("does not support TLS") {
        return Fault::Refused(format!("{text}, which sslmode asks for"));
    }
    Fault::Away(text)
}
