//! The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header), and the digest that
//! tells a retry from another request under the same key.

use counter::{Entries, Fingerprint};
use twox_hash::XxHash3_128;

use crate::stats::Route;

/// The longest idempotency key, in bytes.
const MAX_ID_BYTES: usize = 255;

/// Reads the header's value: a structured-field string (RFC 8941), `"abc"`, or as many clients
/// send it, `abc`, which means the same. It must have 1 to 255 visible ASCII characters; a quoted
/// one can hold `\"` and `\\`. Parameters after it are not taken. `None` for anything else.
pub(crate) fn parse(value: &[u8]) -> Option<Box<str>> {
    let id = match value.trim_ascii() {
        [b'"', quoted @ .., b'"'] => unquote(quoted)?,
        bare if bare.contains(&b'"') => return None,
        bare => bare.to_vec(),
    };
    let fits = (1..=MAX_ID_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    fits.then(|| String::from_utf8(id).ok()).flatten().map(String::into_boxed_str)
}

fn unquote(quoted: &[u8]) -> Option<Vec<u8>> {
    let mut id = Vec::with_capacity(quoted.len());
    let mut rest = quoted.iter();
    while let Some(&byte) = rest.next() {
        id.push(match byte {
            b'\\' => *rest.next().filter(|&&escaped| escaped == b'"' || escaped == b'\\')?,
            b'"' => return None,
            _ => byte,
        });
    }
    Some(id)
}

/// The digest of what a request asks for: XXH3-128 over the packed increments, seeded with the
/// route. Two spellings of the same increments (other whitespace, a form instead of JSON, NDJSON
/// instead of an array) have the same digest. Journal and store keep it, so it must never change.
///
/// It is no cryptographic digest: who forges a collision fools nobody but himself.
pub(crate) fn fingerprint(route: Route, entries: &Entries) -> Fingerprint {
    let seed = match route {
        Route::Increments => 2,
        _ => 1,
    };
    XxHash3_128::oneshot_with_seed(seed, entries.bytes()).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_an_idempotency_key() {
        let longest = "k".repeat(255);
        for (value, id) in [
            ("\"8e03978e-40d5-43dd-bc93-6894a57f9324\"", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (" a ", "a"),
            ("\"a\"", "a"),
            (";", ";"),
            (longest.as_str(), longest.as_str()),
        ] {
            assert_eq!(parse(value.as_bytes()).as_deref(), Some(id), "{value}");
        }
    }

    #[test]
    fn what_is_not() {
        let too_long = "k".repeat(256);
        for value in [
            "",
            " ",
            "\"\"",
            "\"",
            "\"a",
            "a\"",
            "a\"b",
            "a b",
            "\"a b\"",
            "\"a\";p=1",
            r#""a\b""#,
            "ä",
            &too_long,
        ] {
            assert_eq!(parse(value.as_bytes()), None, "{value}");
        }
        assert_eq!(parse(b"\"a\\\""), None);
        assert_eq!(parse(b"a\x7f"), None);
    }

    #[test]
    fn the_digest_stays_what_it_is() {
        let mut entries = Entries::new();
        entries.push("signup", 3).unwrap();
        let single = fingerprint(Route::Increment, &entries);
        assert_eq!(u128::from_be_bytes(single), 0x31641526f8c9e5cf9eb7477cab0c6a3a);
        assert_ne!(single, fingerprint(Route::Increments, &entries));
        entries.push("signup", 3).unwrap();
        assert_ne!(single, fingerprint(Route::Increment, &entries));
    }

    proptest! {
        #[test]
        fn every_quoted_key_comes_back(id in "[!-~]{1,255}") {
            let quoted = format!("\"{}\"", id.replace('\\', "\\\\").replace('"', "\\\""));
            prop_assert_eq!(parse(quoted.as_bytes()), Some(id.into_boxed_str()));
        }
    }
}
