//! Where a store is, as the settings name it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use tokio_postgres::config::{Host, SslMode};

const HOW_TO_WRITE: &str = "write postgres://user:password@host:5432/database, or sqlite:path/to/file.db";

/// Where a store is: `postgres://user:password@host:port/database?settings` (`postgresql://` too)
/// or `sqlite:` and a path.
///
/// The settings of a PostgreSQL URL are those of libpq that `tokio_postgres::Config` knows, with
/// this reading of `sslmode`:
///
/// | `sslmode` | what happens |
/// | --- | --- |
/// | `disable`, `allow` | no TLS |
/// | `prefer` (the default) | TLS where the server offers it. As it may be refused anyway, a certificate that can't be verified is used all the same, with a warning in the log |
/// | `require`, `verify-ca`, `verify-full` | TLS, and the server's certificate must be valid for its host name. This is stricter than libpq for the first two |
///
/// Certificates are verified against those that the operating system trusts (or the file that the
/// variable `SSL_CERT_FILE` names) plus those in the PEM file that `sslrootcert` names.
///
/// Neither `Display` nor `Debug` shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl(pub(crate) Place);

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Postgres(Box<PostgresPlace>),
    Sqlite(PathBuf),
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PostgresPlace {
    pub(crate) config: tokio_postgres::Config,
    pub(crate) root_certificates: Option<PathBuf>,
}

/// Why a text is not a [`StoreUrl`]; it says what to write instead, and shows no password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreUrlError(String);

impl StoreUrl {
    /// The SQLite database in the file `path`.
    #[must_use]
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self(Place::Sqlite(path.into()))
    }

    /// The file of a SQLite database, `None` for PostgreSQL.
    #[must_use]
    pub fn sqlite_path(&self) -> Option<&Path> {
        match &self.0 {
            Place::Sqlite(path) => Some(path),
            Place::Postgres(_) => None,
        }
    }
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        if let Some(rest) = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
            return Ok(Self(Place::Postgres(Box::new(postgres(rest).map_err(StoreUrlError)?))));
        }
        if let Some(rest) = text.strip_prefix("sqlite:") {
            return sqlite(rest).map(Self::sqlite).map_err(StoreUrlError);
        }
        Err(StoreUrlError(match text.split_once(':') {
            Some(("postgres" | "postgresql", _)) => {
                format!("a PostgreSQL URL begins with postgres:// (two slashes): {HOW_TO_WRITE}")
            }
            Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                format!("there is no store of the kind {scheme:?}: {HOW_TO_WRITE}")
            }
            _ => format!("this is not the URL of a store: {HOW_TO_WRITE}"),
        }))
    }
}

/// `sqlite:file`, `sqlite:/file`, `sqlite://file` and `sqlite:///file`: after two slashes stands
/// the path, as elsewhere.
fn sqlite(rest: &str) -> Result<PathBuf, String> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() {
        return Err("sqlite: needs the path of a file, such as sqlite:data/incrementer.db".to_owned());
    }
    if path == ":memory:" {
        return Err("totals have to outlive the process: name a file after sqlite:, not :memory:".to_owned());
    }
    if path.contains(['?', '\0']) {
        return Err("after sqlite: stands the path of a file and nothing else (no ?settings)".to_owned());
    }
    Ok(path.into())
}

fn postgres(rest: &str) -> Result<PostgresPlace, String> {
    let (place, settings) = rest.split_once('?').unwrap_or((rest, ""));
    // The parser of the driver takes everything up to the first @ for user and password.
    if rest.matches('@').count() > 1 || settings.contains('@') {
        return Err(
            "inside a user name, a password or a setting, write @ as %40, ? as %3F and / as %2F".to_owned()
        );
    }
    let mut root_certificates = None;
    let mut url = format!("postgres://{place}?");
    for setting in settings.split('&').filter(|setting| !setting.is_empty()) {
        let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
        let setting = match (name, value) {
            ("sslmode", "allow") => "sslmode=disable",
            ("sslmode", "verify-ca" | "verify-full") => "sslmode=require",
            ("sslrootcert", "system") => continue,
            ("sslrootcert", path) => {
                let path = percent_decode_str(path).decode_utf8();
                let path = path.map_err(|_| "sslrootcert is not the path of a file".to_owned())?;
                root_certificates = Some(PathBuf::from(path.into_owned()));
                continue;
            }
            _ => setting,
        };
        url.push_str(setting);
        url.push('&');
    }
    let config: tokio_postgres::Config = url.parse().map_err(|error| not_understood(&error))?;
    check(&config)?;
    Ok(PostgresPlace { config, root_certificates })
}

/// The driver's texts name a setting, never its value.
fn not_understood(error: &tokio_postgres::Error) -> String {
    let reason = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    format!("this PostgreSQL URL is not understood ({reason}): {HOW_TO_WRITE}")
}

fn check(config: &tokio_postgres::Config) -> Result<(), String> {
    if config.get_dbname().is_none() {
        return Err(format!("the URL names no database (it is made where it is missing): {HOW_TO_WRITE}"));
    }
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(format!("the URL names no host: {HOW_TO_WRITE}"));
    }
    let unix = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
    if config.get_ssl_mode() == SslMode::Require && unix && !config.get_hosts().is_empty() {
        return Err("a Unix socket has no TLS: leave sslmode out".to_owned());
    }
    Ok(())
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = match &self.0 {
            Place::Sqlite(path) => return write!(f, "sqlite:{}", path.display()),
            Place::Postgres(place) => &place.config,
        };
        f.write_str("postgres://")?;
        if let Some(user) = config.get_user() {
            write!(f, "{user}{}@", if config.get_password().is_some() { ":***" } else { "" })?;
        }
        let ports = config.get_ports();
        for (number, host) in config.get_hosts().iter().enumerate() {
            f.write_str(if number > 0 { "," } else { "" })?;
            match host {
                Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]")?,
                Host::Tcp(name) => f.write_str(name)?,
                Host::Unix(path) => write!(f, "{}", path.display().to_string().replace('/', "%2F"))?,
            }
            if let Some(port) = ports.get(number).or(ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        if config.get_hosts().is_empty() {
            let mut addresses = config.get_hostaddrs().iter();
            addresses.try_for_each(|address| write!(f, "{address}"))?;
        }
        write!(f, "/{}", config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let refusal = text.parse::<StoreUrl>().unwrap_err().to_string();
        assert!(!refusal.contains("secret"), "{refusal}");
        refusal
    }

    #[test]
    fn a_password_never_prints() {
        for text in [
            "postgres://user:secret@host:5433/totals",
            "postgresql://user@host:5433/totals?password=secret",
            "postgres://user:se%40secret@host:5433/totals?sslmode=verify-full&sslrootcert=%2Fca.pem",
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), "postgres://user:***@host:5433/totals");
            assert!(!format!("{url:?} {url:#?}").contains("secret"));
        }
    }

    #[test]
    fn a_bad_url_says_what_to_write_and_shows_no_password() {
        assert!(refused("postgres://user:sec@secret@host/db").contains("%40"));
        assert!(refused("postgres:/user:secret@host/db").contains("two slashes"));
        assert!(refused("postgres://user:secret@host").contains("database"));
        assert!(refused("postgres:///db").contains("host"));
        assert!(refused("postgres://user:secret@host/db?sslmode=perhaps").contains("sslmode"));
        assert!(refused("postgres://user:secret@host/db?colour=red").contains("colour"));
        assert!(refused("postgres://secret/db?sslmode").contains("not understood"));
        assert!(refused("postgres://user@%2Frun/db?sslmode=require").contains("Unix socket"));
        assert!(refused("mysql://user:secret@host/db").contains("\"mysql\""));
        assert!(refused("se cret:x").contains("sqlite:path"));
        assert!(refused("").contains("postgres://"));
        assert!(refused("sqlite:").contains("path"));
        assert!(refused("sqlite::memory:").contains("outlive"));
        assert!(refused("sqlite:a.db?mode=rwc").contains("nothing else"));
    }

    #[test]
    fn a_sqlite_path_is_taken_as_it_is() {
        for (text, path) in [
            ("sqlite:a/b c.db", "a/b c.db"),
            ("sqlite:/a.db", "/a.db"),
            ("sqlite://a.db", "a.db"),
            ("sqlite:///a.db", "/a.db"),
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url.sqlite_path(), Some(Path::new(path)));
            assert_eq!(url.to_string().parse(), Ok(url));
        }
    }

    #[test]
    fn tls_settings_are_read_strictly() {
        let mode = |text: &str| {
            let url: StoreUrl = format!("postgres://h/db{text}").parse().unwrap();
            match url.0 {
                Place::Postgres(place) => (place.config.get_ssl_mode(), place.root_certificates),
                Place::Sqlite(_) => unreachable!(),
            }
        };
        assert_eq!(mode(""), (SslMode::Prefer, None));
        assert_eq!(mode("?sslmode=allow"), (SslMode::Disable, None));
        let require = (SslMode::Require, Some(PathBuf::from("/ca.pem")));
        assert_eq!(mode("?sslmode=verify-full&sslrootcert=%2Fca.pem"), require);
    }
}
