//! What reads a client's bytes, without a socket before it: for the targets in `crates/rubbish`.
//! No part of the interface.
#![allow(missing_docs, reason = "each function is named after what it stands for")]

use counter::Entries;
use engine::PageRequest;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Uri, Version};

use crate::head::{Allowed, Format, Head};
use crate::problem::Problem;
use crate::service::COUNTER;
use crate::{counters, form, increments, json};

/// A refusal, as the client would see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    pub entry: Option<u32>,
    pub line: Option<u32>,
    pub detail: String,
}

impl From<Box<Problem>> for Refused {
    fn from(problem: Box<Problem>) -> Self {
        let Problem { status, entry, line, detail, .. } = *problem;
        Self { status: status.as_u16(), entry, line, detail: detail.into_owned() }
    }
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    One,
    Array,
    Lines,
    Form,
}

pub fn body(body: Body, bytes: &[u8]) -> Result<Entries, Refused> {
    let mut entries = Entries::new();
    match body {
        Body::One => json::one(bytes, &mut entries),
        Body::Array => json::array(bytes, &mut entries),
        Body::Lines => json::lines(bytes, &mut entries),
        Body::Form => form::one(bytes, &mut entries),
    }?;
    Ok(entries)
}

/// Whom a request target names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Counter(Result<String, Refused>),
    Page(Result<PageRequest, Refused>),
    Other,
}

/// `None` where hyper would answer by itself.
pub fn target(bytes: &[u8]) -> Option<Target> {
    let uri = Uri::try_from(bytes).ok()?;
    let path = uri.path();
    Some(if let Some(name) = path.strip_prefix(COUNTER) {
        Target::Counter(counters::key_of(name).map(String::from).map_err(Refused::from))
    } else if path == "/counters" {
        Target::Page(page(uri.query().unwrap_or_default()))
    } else {
        Target::Other
    })
}

pub fn page(query: &str) -> Result<PageRequest, Refused> {
    Ok(counters::page_request(query)?)
}

pub fn next_link(prefix: &str, next: &str, limit: u32) -> Option<String> {
    counters::next_link(prefix, next, limit)?.to_str().map(str::to_owned).ok()
}

/// What a header section says to each route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub one: Result<Body, Refused>,
    pub many: Result<Body, Refused>,
    pub idempotency_key: Result<Option<Box<str>>, Refused>,
    pub wants_representation: bool,
}

/// `None` where a line is none that hyper would take.
pub fn head(is_http10: bool, lines: &[(&[u8], &[u8])]) -> Option<Result<Read, Refused>> {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    let version = if is_http10 { Version::HTTP_10 } else { Version::HTTP_11 };
    Some(Head::read(version, &headers).map_err(Refused::from).map(|head| {
        let format = |allowed: &'static Allowed, json| match head.format(allowed)? {
            Format::Json => Ok(json),
            Format::Lines => Ok(Body::Lines),
            Format::Form => Ok(Body::Form),
        };
        Read {
            one: format(&increments::ONE, Body::One),
            many: format(&increments::MANY, Body::Array),
            idempotency_key: head.idempotency_key().map_err(Refused::from),
            wants_representation: head.wants_representation(&headers),
        }
    }))
}
