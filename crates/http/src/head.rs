//! What a request's header section says, read in one pass, and what makes it no proper request.

use hyper::header::{HeaderMap, HeaderValue};
use hyper::{StatusCode, Version};

use crate::idempotency;
use crate::prefer;
use crate::problem::Problem;

/// The fields that some route looks at.
#[derive(Debug, Default)]
pub(crate) struct Head<'h> {
    content_type: Option<&'h HeaderValue>,
    idempotency: Option<&'h HeaderValue>,
    idempotency_twice: bool,
    encoded: bool,
    chunked: bool,
    prefers: bool,
    http_11: bool,
    expects: bool,
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Lines,
    Form,
}

impl<'h> Head<'h> {
    /// Reads the fields.
    ///
    /// # Errors
    /// 400, and the connection is closed: no Host or several (RFC 9112, section 3.2), several
    /// Content-Types, or a transfer coding besides `chunked`, which hyper would let through
    /// (`gzip, chunked`).
    pub(crate) fn read(version: Version, headers: &'h HeaderMap) -> Result<Self, Box<Problem>> {
        let mut head = Self { http_11: version == Version::HTTP_11, ..Self::default() };
        let mut hosts = 0;
        let mut types = 0;
        let mut codings = 0;
        for (name, value) in headers {
            match name.as_str() {
                "host" => {
                    hosts += 1;
                    if !is_host(value.as_bytes()) {
                        return Err(improper("the Host header is no host name with an optional port"));
                    }
                }
                "content-type" => {
                    types += 1;
                    head.content_type = Some(value);
                }
                "content-encoding" => head.encoded |= !value.as_bytes().eq_ignore_ascii_case(b"identity"),
                "transfer-encoding" => {
                    codings += 1;
                    head.chunked = true;
                    if codings > 1 || !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
                        return Err(improper("the only transfer coding understood is one `chunked`"));
                    }
                }
                "prefer" => head.prefers = true,
                "expect" => head.expects = true,
                "idempotency-key" => {
                    head.idempotency_twice |= head.idempotency.replace(value).is_some();
                }
                _ => {}
            }
        }
        if types > 1 {
            return Err(improper("there is more than one Content-Type header; send one"));
        }
        match hosts {
            1 => Ok(head),
            0 if version == Version::HTTP_10 => Ok(head),
            0 => Err(improper("HTTP/1.1 requires a Host header; send one")),
            _ => Err(improper("there is more than one Host header; send one")),
        }
    }

    /// Whether the body comes in chunks.
    #[inline]
    pub(crate) fn is_chunked(&self) -> bool {
        self.chunked
    }

    /// Whether the answer will be written alone, as HTTP/1.1: "100 Continue" may come together with
    /// the one that follows.
    #[inline]
    pub(crate) fn is_answered_plainly(&self) -> bool {
        self.http_11 && !self.expects
    }

    /// How the body is written.
    ///
    /// # Errors
    /// 415, where it isn't one of `allowed` in UTF-8, or is compressed.
    pub(crate) fn format(&self, allowed: &'static Allowed) -> Result<Format, Box<Problem>> {
        if self.encoded {
            let detail = "the body has a Content-Encoding, and none is understood; send it uncompressed";
            return Err(unsupported(detail, allowed));
        }
        let Some(value) = self.content_type else {
            return Err(unsupported(
                "the Content-Type is missing; send one of those in Accept-Post",
                allowed,
            ));
        };
        media_type(value.as_bytes()).filter(|format| allowed.formats.contains(format)).ok_or_else(|| {
            unsupported(
                "the Content-Type is not understood here; send one of those in Accept-Post, in UTF-8",
                allowed,
            )
        })
    }

    /// The idempotency key.
    ///
    /// # Errors
    /// 400, where there are several, or it isn't one.
    pub(crate) fn idempotency_key(&self) -> Result<Option<Box<str>>, Box<Problem>> {
        let Some(value) = self.idempotency else { return Ok(None) };
        if self.idempotency_twice {
            let detail = "there is more than one Idempotency-Key header; send one";
            return Err(Problem::malformed("idempotency_key", detail));
        }
        idempotency::parse(value.as_bytes()).map(Some).ok_or_else(|| {
            let detail = "an Idempotency-Key is a quoted string of 1 to 255 visible ASCII characters";
            Problem::malformed("idempotency_key", detail)
        })
    }

    /// Whether `Prefer: return=representation` was sent.
    pub(crate) fn wants_representation(&self, headers: &HeaderMap) -> bool {
        self.prefers
            && prefer::wants_representation(headers.get_all("prefer").iter().map(HeaderValue::as_bytes))
    }
}

/// The formats of a route, and how it lists them.
#[derive(Debug)]
pub(crate) struct Allowed {
    pub(crate) formats: &'static [Format],
    pub(crate) accept_post: &'static str,
}

fn unsupported(detail: &'static str, allowed: &'static Allowed) -> Box<Problem> {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", detail)
        .with_header(ACCEPT_POST, HeaderValue::from_static(allowed.accept_post))
}

const ACCEPT_POST: hyper::header::HeaderName = hyper::header::HeaderName::from_static("accept-post");

pub(crate) fn improper(detail: &'static str) -> Box<Problem> {
    Problem::malformed("improper", detail).and_close()
}

/// Reads a Content-Type. Its only parameter that counts is a charset, which must be UTF-8.
fn media_type(value: &[u8]) -> Option<Format> {
    if value == b"application/json" {
        return Some(Format::Json);
    }
    let mut parts = value.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next()?;
    let format = [
        ("application/json", Format::Json),
        ("application/x-www-form-urlencoded", Format::Form),
        ("application/x-ndjson", Format::Lines),
        ("application/jsonl", Format::Lines),
    ]
    .into_iter()
    .find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()))?
    .1;
    let other_charset = parts.any(|parameter| {
        let mut sides = parameter.splitn(2, |&byte| byte == b'=');
        let is_charset = sides.next().is_some_and(|name| name.eq_ignore_ascii_case(b"charset"));
        let value = sides.next().unwrap_or_default();
        let value = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
        is_charset && ![&b"utf-8"[..], b"utf8"].iter().any(|utf8| value.eq_ignore_ascii_case(utf8))
    });
    (!other_charset).then_some(format)
}

/// Whether a text has the form of RFC 9110's Host: `uri-host [ ":" port ]`. An empty one is
/// allowed; whether the name means this server is nobody's business here.
fn is_host(text: &[u8]) -> bool {
    let (is_name, port) = if let [b'[', literal @ ..] = text {
        let Some(end) = literal.iter().position(|&byte| byte == b']') else { return false };
        let (address, port) = literal.split_at(end);
        (address.iter().all(|byte| is_name_byte(byte) || *byte == b':'), &port[1..])
    } else {
        let end = text.iter().position(|byte| !is_name_byte(byte)).unwrap_or(text.len());
        (true, &text[end..])
    };
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_name && is_port
}

#[inline]
fn is_name_byte(byte: &u8) -> bool {
    NAME_BYTES[usize::from(*byte)]
}

/// Letters, digits, and what RFC 3986 allows in a registered name besides.
const NAME_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~%!$&'()*+,;=";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types() {
        for (value, format) in [
            ("application/json", Some(Format::Json)),
            ("Application/JSON ; Charset=\"UTF-8\"", Some(Format::Json)),
            ("application/json;charset=utf-8;v=1", Some(Format::Json)),
            ("application/json; charset=latin1", None),
            ("application/json; charset", None),
            ("application/x-www-form-urlencoded", Some(Format::Form)),
            ("application/x-ndjson", Some(Format::Lines)),
            ("application/jsonl", Some(Format::Lines)),
            ("application/jsonx", None),
            ("text/plain", None),
            ("", None),
        ] {
            assert_eq!(media_type(value.as_bytes()), format, "{value}");
        }
    }

    #[test]
    fn hosts() {
        for host in ["", "a", "a.example:80", "a:", "127.0.0.1:3333", "[::1]", "[::1]:80", "%41", "_x"] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in ["a b", "a/b", "a:b", "[::1", "[::1]x", "::1", "a@b", "a:80:90", "\u{e4}", "a?b", "a,b:c"]
        {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}
