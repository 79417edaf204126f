//! Which store the totals go to, and the password that never prints.

use std::fmt;
use std::path::PathBuf;

use store::StoreUrl;

/// Stands where a password was.
const MASK: &str = "***";

/// The store that a user named. Printing it, in any way, masks the password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum StoreTarget {
    /// A PostgreSQL server, by its URL.
    Postgres(PostgresUrl),
    /// The embedded SQLite, by its file.
    Sqlite(PathBuf),
}

/// A URL with, perhaps, a password in it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PostgresUrl(String);

impl PostgresUrl {
    /// The whole URL, password included: for the one who connects, for nothing that prints.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_passwords(&self.0))
    }
}

impl fmt::Display for StoreTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(url) => write!(f, "{url:?}"),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

impl fmt::Debug for StoreTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a [`StoreTarget`]. No error repeats the text: there may be a password in it.
pub(super) fn store_target(text: &str) -> Result<StoreTarget, String> {
    if let Some(path) = text.strip_prefix("sqlite:") {
        check(text)?;
        return Ok(StoreTarget::Sqlite(PathBuf::from(path.strip_prefix("//").unwrap_or(path))));
    }
    if text.contains("://") && text.contains(char::is_whitespace) {
        return Err("there is a blank in the URL; write it as %20".into());
    }
    if secrets(text).iter().any(|&(start, end)| &text[start..end] == MASK) {
        return Err(format!(
            "the password is {MASK}, which is what --print-config writes in place of one; give the real one"
        ));
    }
    check(text)?;
    Ok(StoreTarget::Postgres(PostgresUrl(text.to_owned())))
}

/// What the store itself would refuse is refused as a setting, before anything is started.
fn check(text: &str) -> Result<(), String> {
    text.parse::<StoreUrl>().map(drop).map_err(|error| error.to_string())
}

/// `text` with every password masked: those of URLs and those of `password=…`.
pub(crate) fn without_passwords(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut done = 0;
    for (start, end) in secrets(text) {
        masked.push_str(&text[done..start]);
        masked.push_str(MASK);
        done = end;
    }
    masked.push_str(&text[done..]);
    masked
}

/// Where passwords stand in `text`, in order; none touches another.
///
/// A URL's password lies between the first colon after `://` and the last `@` before the path
/// ends; it errs on the side of hiding too much.
fn secrets(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(offset) = text[at..].find("://") {
        let authority = at + offset + 3;
        let end = text[authority..].find(char::is_whitespace).map_or(text.len(), |i| authority + i);
        let last_at = text[authority..end].rfind('@').map(|i| authority + i);
        let colon = text[authority..end].find(':').map(|i| authority + i);
        if let (Some(colon), Some(last_at)) = (colon, last_at)
            && colon < last_at
        {
            found.push((colon + 1, last_at));
        }
        at = authority;
    }
    at = 0;
    while let Some(offset) = text[at..].find("password=") {
        let start = at + offset + "password=".len();
        let end =
            text[start..].find(|c: char| c == '&' || c.is_whitespace()).map_or(text.len(), |i| start + i);
        found.push((start, end));
        at = start;
    }
    found.sort_unstable();
    // One that begins within another, or where it ends, makes that longer.
    found.dedup_by(|next, kept| {
        let meets = next.0 <= kept.1;
        kept.1 = if meets { kept.1.max(next.1) } else { kept.1 };
        meets
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_wherever_they_stand() {
        for (text, masked) in [
            ("postgres://u:pw@h:5432/db", "postgres://u:***@h:5432/db"),
            ("postgres://u:p/w@x?@h/db", "postgres://u:***@h/db"),
            ("postgres://u@h/db", "postgres://u@h/db"),
            ("postgres://h:5432/db", "postgres://h:5432/db"),
            ("postgres://h/db?user=u&password=pw&x=1", "postgres://h/db?user=u&password=***&x=1"),
            ("postgres://h/db?sslpassword=pw", "postgres://h/db?sslpassword=***"),
            ("a postgres://u:pw@h b postgres://u:pw@h c", "a postgres://u:***@h b postgres://u:***@h c"),
            ("postgres://u:a://b@h", "postgres://u:***@h"),
            // Found by fuzzing: two that touch were masked twice, and then taken for a password.
            ("postgres://://:@h/db", "postgres://:***@h/db"),
            ("postgres://u:a?password=b@c&x=1", "postgres://u:***&x=1"),
            ("host=h password=pw user=u", "host=h password=*** user=u"),
            ("sqlite:data/incrementer.db", "sqlite:data/incrementer.db"),
        ] {
            assert_eq!(without_passwords(text), masked);
        }
    }

    #[test]
    fn what_a_store_may_be() {
        let sqlite = |path: &str| Ok(StoreTarget::Sqlite(PathBuf::from(path)));
        assert_eq!(store_target("sqlite:a/b.db"), sqlite("a/b.db"));
        assert_eq!(store_target("sqlite:/a/b.db"), sqlite("/a/b.db"));
        assert_eq!(store_target("sqlite:///a/b.db"), sqlite("/a/b.db"));
        for text in ["postgres://h/db", "postgresql://u:pw@h:5432/db"] {
            let target = store_target(text).unwrap();
            assert!(matches!(&target, StoreTarget::Postgres(url) if url.reveal() == text));
            assert!(!format!("{target:?} {target}").contains("pw"));
        }
        for text in [
            "",
            "h",
            "mysql://u:pw@h",
            "sqlite:",
            "sqlite::memory:",
            "postgres://",
            "u:pw@h",
            "postgres://u:p pw@h/db",
            "postgres://u:pw@h",
            "postgres://u:pw@h/db?colour=red",
        ] {
            assert!(!store_target(text).unwrap_err().contains("pw"), "{text}");
        }
        assert!(store_target("postgres://u:***@h/db").unwrap_err().contains("--print-config"));
    }
}
