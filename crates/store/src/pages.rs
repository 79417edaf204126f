//! The bounds of a page, alike for both stores.

use crate::PageQuery;

/// Keys `>=` or `>` a lower bound and `<` an upper one, bytewise.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) lower: String,
    /// Whether `lower` itself belongs to the page.
    pub(crate) inclusive: bool,
    pub(crate) upper: Option<String>,
}

impl Bounds {
    /// `None` where no key can be in the page.
    pub(crate) fn of(query: &PageQuery<'_>) -> Option<Self> {
        if query.prefix.contains('\0') {
            return None;
        }
        let upper = successor(query.prefix);
        // No key has a NUL. So a key is past "a\0…" exactly if it is past "a".
        let after = query.after.map(|after| after.split('\0').next().unwrap_or_default());
        match after {
            Some(after) if after >= query.prefix => {
                Some(Self { lower: after.to_owned(), inclusive: false, upper })
            }
            _ => Some(Self { lower: query.prefix.to_owned(), inclusive: true, upper }),
        }
    }
}

/// The smallest text that is past every text that begins with `prefix`; `None` where there is
/// none. UTF-8 sorts bytewise as its characters do, so the last character that has a next one
/// becomes that, and what stands behind it goes.
fn successor(prefix: &str) -> Option<String> {
    let stem = prefix.trim_end_matches(char::MAX);
    let last = stem.chars().next_back()?;
    let next = (last..=char::MAX).nth(1)?;
    Some(format!("{}{next}", &stem[..stem.len() - last.len_utf8()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_of_a_prefix() {
        assert_eq!(successor(""), None);
        assert_eq!(successor("\u{10ffff}\u{10ffff}"), None);
        assert_eq!(successor("ab").as_deref(), Some("ac"));
        assert_eq!(successor("a\u{10ffff}\u{10ffff}").as_deref(), Some("b"));
        // Surrogates are no characters.
        assert_eq!(successor("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(successor("\u{7f}").as_deref(), Some("\u{80}"));
    }

    #[test]
    fn a_page_begins_after_the_greater_of_prefix_and_after() {
        let bounds = |prefix, after| {
            let bounds = Bounds::of(&PageQuery { prefix, after, limit: 1 })?;
            Some((bounds.lower, bounds.inclusive, bounds.upper))
        };
        let b = Some("b".to_owned());
        assert_eq!(bounds("a", None), Some(("a".to_owned(), true, b.clone())));
        assert_eq!(bounds("a", Some("a")), Some(("a".to_owned(), false, b.clone())));
        assert_eq!(bounds("a", Some("A")), Some(("a".to_owned(), true, b.clone())));
        assert_eq!(bounds("a", Some("ab\0c")), Some(("ab".to_owned(), false, b)));
        assert_eq!(bounds("", Some("x")), Some(("x".to_owned(), false, None)));
        assert_eq!(bounds("a\0", None), None);
    }
}
