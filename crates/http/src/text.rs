//! Percent-encoding, queries and forms, strictly: what isn't encoded properly is refused rather
//! than repaired, because a repaired key would be another counter.

use std::borrow::Cow;

/// A text that can't be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("a % is not followed by two hexadecimal digits; write a literal % as %25")]
    Percent,
    #[error("it is not UTF-8 once it is decoded")]
    Utf8,
}

/// What a `+` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plus {
    /// Itself, as in a path.
    Plus,
    /// A space, as in a query or a form.
    Space,
}

/// Decodes `%XX` (and `+`, where it is a space).
pub(crate) fn decode(text: &[u8], plus: Plus) -> Result<Cow<'_, str>, DecodeError> {
    let special = |&byte: &u8| byte == b'%' || (byte == b'+' && plus == Plus::Space);
    let Some(first) = text.iter().position(special) else {
        return str::from_utf8(text).map(Cow::Borrowed).map_err(|_| DecodeError::Utf8);
    };
    let mut decoded = Vec::with_capacity(text.len());
    decoded.extend_from_slice(&text[..first]);
    let mut rest = text[first..].iter();
    while let Some(&byte) = rest.next() {
        decoded.push(match byte {
            b'%' => match (rest.next().and_then(hex), rest.next().and_then(hex)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(DecodeError::Percent),
            },
            b'+' if plus == Plus::Space => b' ',
            _ => byte,
        });
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| DecodeError::Utf8)
}

fn hex(digit: &u8) -> Option<u8> {
    char::from(*digit).to_digit(16).map(|digit| digit as u8)
}

/// The members of a query or a form, decoded, in order. A member without `=` has an empty value.
pub(crate) fn members(
    text: &[u8],
) -> impl Iterator<Item = Result<(Cow<'_, str>, Cow<'_, str>), DecodeError>> {
    text.split(|&byte| byte == b'&').filter(|member| !member.is_empty()).map(|member| {
        let (name, value) = match member.iter().position(|&byte| byte == b'=') {
            Some(at) => (&member[..at], &member[at + 1..]),
            None => (member, &[][..]),
        };
        Ok((decode(name, Plus::Space)?, decode(value, Plus::Space)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_encoded_properly_is_refused() {
        for text in ["%", "%2", "%zz", "a%2", "%+1", "100%"] {
            assert_eq!(decode(text.as_bytes(), Plus::Plus), Err(DecodeError::Percent), "{text}");
        }
        for text in [&b"%ff"[..], b"%c3", b"\xff", b"%ed%a0%80"] {
            assert_eq!(decode(text, Plus::Plus), Err(DecodeError::Utf8), "{text:?}");
        }
        assert_eq!(decode(b"a+%2B%c3%a4", Plus::Space).unwrap(), "a +ä");
        assert_eq!(decode(b"a+%2B/..", Plus::Plus).unwrap(), "a++/..");
    }

    proptest! {
        #[test]
        fn members_come_back_as_they_were_encoded(
            pairs in proptest::collection::vec((".{1,10}", ".{0,10}"), 0..5),
        ) {
            let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
            let decoded: Result<Vec<_>, _> = members(text.as_bytes())
                .map(|member| member.map(|(name, value)| (name.into_owned(), value.into_owned())))
                .collect();
            prop_assert_eq!(decoded, Ok(pairs));
        }

        #[test]
        fn rubbish_never_panics(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            members(&text).for_each(drop);
        }
    }
}
