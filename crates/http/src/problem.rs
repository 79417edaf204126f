//! Refusals as RFC 9457 problem details.

use std::borrow::Cow;

use engine::Refusal;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use serde::Serialize;

/// The media type of a [`Problem`].
pub(crate) const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What a client that was too slow to ask gets.
pub(crate) const HEAD_LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/problem+json\r\ncontent-length: 175\r\n\r\n{\"type\":\"about:blank\",\"title\":\"Request Timeout\",\"status\":408,\"code\":\"too_slow\",\"detail\":\"the header section took too long; send it faster, or ask again over a new connection\"}";

/// What a client gets when as many connections as may be are open.
pub(crate) const CROWDED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-type: application/problem+json\r\ncontent-length: 180\r\n\r\n{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"code\":\"connection_limit\",\"detail\":\"as many connections as may be are open; reuse connections, or try again later\"}";

/// Why a request is refused, and what to do about it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    #[serde(serialize_with = "as_number")]
    pub(crate) status: StatusCode,
    /// For programs: tells apart what has the same status.
    code: &'static str,
    pub(crate) detail: Cow<'static, str>,
    /// Which entry of a bulk request, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) entry: Option<u32>,
    /// Which line of an NDJSON body, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<u32>,
    #[serde(skip)]
    pub(crate) header: Option<(HeaderName, HeaderValue)>,
    /// Whether the connection can't be used any more.
    #[serde(skip)]
    pub(crate) close: bool,
}

fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Box<Self> {
        Box::new(Self {
            // By RFC 9457 this type says that the status tells all; then the title is its phrase.
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status,
            code,
            detail: detail.into(),
            entry: None,
            line: None,
            header: None,
            close: false,
        })
    }

    /// 400: it can't be parsed.
    pub(crate) fn malformed(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Box<Self> {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 422: it is understood, and not allowed.
    pub(crate) fn invalid(detail: impl Into<Cow<'static, str>>) -> Box<Self> {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
    }

    pub(crate) fn at(mut self: Box<Self>, entry: Option<u32>, line: Option<u32>) -> Box<Self> {
        self.entry = entry;
        self.line = line;
        self
    }

    pub(crate) fn with_header(mut self: Box<Self>, name: HeaderName, value: HeaderValue) -> Box<Self> {
        self.header = Some((name, value));
        self
    }

    /// When to try again, in seconds.
    pub(crate) fn retry_after(self: Box<Self>, seconds: &'static str) -> Box<Self> {
        self.with_header(hyper::header::RETRY_AFTER, HeaderValue::from_static(seconds))
    }

    pub(crate) fn and_close(mut self: Box<Self>) -> Box<Self> {
        self.close = true;
        self
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        // Nothing in it can fail to become JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// 503 with Retry-After.
fn away(code: &'static str, seconds: &'static str, detail: String) -> Box<Problem> {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(seconds)
}

impl From<Refusal> for Box<Problem> {
    fn from(refusal: Refusal) -> Self {
        let says = refusal.to_string();
        match refusal {
            Refusal::Overflow { entry, .. } => {
                let detail =
                    format!("{says}; nothing was counted: send a value that keeps the total in range");
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "overflow", detail).at(Some(entry), None)
            }
            Refusal::TooManyCounters { .. } => {
                let detail = format!("{says}; use keys that exist, or raise `max_counters`");
                away("too_many_counters", "60", detail)
            }
            Refusal::JournalFull { .. } => {
                let detail = format!("{says}; try again when the store has caught up");
                away("journal_full", "5", detail)
            }
            Refusal::DiskFull { .. } => {
                away("disk_full", "10", format!("{says}; make room on the server's disk, then try again"))
            }
            Refusal::Busy => {
                let detail = format!("{says}; try again a little later, or send increments in bulk");
                Problem::new(StatusCode::TOO_MANY_REQUESTS, "busy", detail).retry_after("1")
            }
            Refusal::TooLarge { .. } => {
                let detail = format!("{says}; split it");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
            }
            Refusal::IdempotencyMismatch => {
                let detail = format!("{says}; choose a new key for a new request");
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_mismatch", detail)
            }
            Refusal::Starting(_) => away("starting", "1", format!("{says}; try again soon")),
            Refusal::Stopping => {
                away("stopping", "1", format!("{says}; try again soon, over a new connection")).and_close()
            }
            Refusal::StoreAway(_) => away("store_away", "1", format!("{says}; try again when it is back")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canned_answers_announce_their_length() {
        for answer in [HEAD_LATE, CROWDED] {
            let text = str::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
            let problem: serde_json::Value = serde_json::from_str(body).unwrap();
            assert!(head.starts_with(&format!(
                "HTTP/1.1 {} {}",
                problem["status"],
                problem["title"].as_str().unwrap()
            )));
        }
    }
}
