//! The `Prefer` header (RFC 7240).

/// Whether the first `return` preference in a header's values, in order, asks for the
/// representation. Of a preference that is named twice the first counts (section 2); parameters
/// and other preferences are skipped, and a value that can't be read is ignored from there on.
pub(crate) fn wants_representation<'v>(values: impl IntoIterator<Item = &'v [u8]>) -> bool {
    values.into_iter().find_map(first_return).is_some_and(|value| value)
}

/// The first `return` preference of one header line; whether it is `representation`.
fn first_return(line: &[u8]) -> Option<bool> {
    let mut rest = line;
    loop {
        let (name, value) = preference(&mut rest)?;
        if name.eq_ignore_ascii_case(b"return") {
            return Some(value.eq_ignore_ascii_case(b"representation"));
        }
    }
}

/// Takes one preference with its parameters and the comma after it; `None` where there is none,
/// or nothing readable.
fn preference<'v>(rest: &mut &'v [u8]) -> Option<(&'v [u8], &'v [u8])> {
    // Empty elements of a list are allowed (RFC 9110, section 5.6.1.2).
    while let [b',' | b' ' | b'\t', tail @ ..] = *rest {
        *rest = tail;
    }
    let found = word(rest)?;
    loop {
        match skip_space(rest) {
            [] => return Some(found),
            [b',', ..] => return Some(found),
            [b';', tail @ ..] => {
                *rest = tail;
                // `;` alone is allowed: a parameter may be missing.
                if !matches!(skip_space(rest), [] | [b';' | b',', ..]) {
                    word(rest)?;
                }
            }
            _ => return None,
        }
    }
}

/// `token [ = word ]`: the token and the word, empty where there is none.
fn word<'v>(rest: &mut &'v [u8]) -> Option<(&'v [u8], &'v [u8])> {
    let name = token(rest);
    if name.is_empty() {
        return None;
    }
    let [b'=', tail @ ..] = skip_space(rest) else {
        return Some((name, b""));
    };
    *rest = tail;
    let value = match skip_space(rest) {
        [b'"', tail @ ..] => {
            let end = quoted_end(tail)?;
            *rest = &tail[end + 1..];
            &tail[..end]
        }
        _ => token(rest),
    };
    Some((name, value))
}

fn skip_space<'v>(rest: &mut &'v [u8]) -> &'v [u8] {
    *rest = rest.trim_ascii_start();
    rest
}

fn token<'v>(rest: &mut &'v [u8]) -> &'v [u8] {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let end = rest.iter().position(|byte| !is_token(byte)).unwrap_or(rest.len());
    let (token, tail) = rest.split_at(end);
    *rest = tail;
    token
}

/// Where a quoted string that began just before `text` ends: the place of its closing quote.
fn quoted_end(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wants(lines: &[&str]) -> bool {
        wants_representation(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn what_asks_for_the_representation() {
        for line in [
            "return=representation",
            "Return = Representation",
            "return=\"representation\"",
            "respond-async, return=representation",
            "return=representation; x=1; y",
            "return=representation;, wait=10",
            ",, wait=100 , handling=lenient,return=representation",
            "foo; bar=\"a,return=minimal,b\\\"\", return=representation",
            "foo=\"\\\\\",return=representation",
            "return=representation, return=minimal",
        ] {
            assert!(wants(&[line]), "{line}");
        }
        assert!(wants(&["wait=1", "return=representation"]));
    }

    #[test]
    fn what_does_not() {
        for line in [
            "",
            "return",
            "return=",
            "return=minimal",
            "return=minimal, return=representation",
            "returns=representation",
            "x-return=representation",
            "foo=\"return=representation\"",
            "foo; return=representation",
            "foo=\"open, return=representation",
            "=return=representation",
            "representation",
        ] {
            assert!(!wants(&[line]), "{line}");
        }
        assert!(!wants(&["return=minimal", "return=representation"]));
        assert!(!wants(&[]));
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(line in proptest::collection::vec(any::<u8>(), 0..40)) {
            wants_representation([line.as_slice()]);
        }

        #[test]
        fn nor_does_what_nearly_is_one(line in "[ ,;=\"\\\\a]{0,30}") {
            wants_representation([line.as_bytes()]);
        }
    }
}
