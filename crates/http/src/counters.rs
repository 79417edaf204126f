//! Reading counters.

use std::borrow::Cow;

use counter::Key;
use engine::{Front, Page, PageRequest};
use form_urlencoded::Serializer;
use hyper::StatusCode;
use hyper::header::{HeaderValue, LINK};

use crate::problem::Problem;
use crate::service::Answer;
use crate::text::{self, DecodeError, Plus};

/// How many counters a page has where the client doesn't say.
const DEFAULT_LIMIT: u32 = 100;
/// How many it may have.
const MAX_LIMIT: u32 = 1000;

/// `GET /counters/{key}`, where `name` is the rest of the path as it was sent.
pub(crate) async fn one<F: Front>(front: &F, name: &str) -> Result<Answer, Box<Problem>> {
    let key = key_of(name)?;
    match front.total(&key).await? {
        Some(total) => Ok(Answer::json(StatusCode::OK, counter(&key, total))),
        None => {
            let detail = "there is no such counter; one exists from its first increment on";
            Err(Problem::new(StatusCode::NOT_FOUND, "no_such_counter", detail))
        }
    }
}

/// The key that the rest of a path names.
///
/// # Errors
/// 400 where it isn't properly encoded, 422 where it is no key.
pub(crate) fn key_of(name: &str) -> Result<Cow<'_, str>, Box<Problem>> {
    let key = text::decode(name.as_bytes(), Plus::Plus).map_err(|error| undecodable("the path", error))?;
    check(&key)?;
    Ok(key)
}

/// `GET /counters`.
pub(crate) async fn page<F: Front>(front: &F, query: &str) -> Result<Answer, Box<Problem>> {
    let request = page_request(query)?;
    let (prefix, limit) = (request.prefix.clone(), request.limit);
    let page = front.page(request).await?;
    let mut answer = Answer::json(StatusCode::OK, page_json(&page));
    if let Some(next) = &page.next {
        answer.headers.extend(next_link(&prefix, next, limit).map(|link| (LINK, link)));
    }
    Ok(answer)
}

/// `{"key":…,"value":…}`.
pub(crate) fn counter(key: &str, total: i64) -> Vec<u8> {
    let mut json = Vec::with_capacity(key.len() + 40);
    push_counter(&mut json, key, total);
    json
}

fn page_json(page: &Page) -> Vec<u8> {
    let mut json = Vec::with_capacity(page.counters.len() * 48 + 32);
    json.extend_from_slice(b"{\"counters\":[");
    for (at, (key, total)) in page.counters.iter().enumerate() {
        if at > 0 {
            json.push(b',');
        }
        push_counter(&mut json, key, *total);
    }
    json.extend_from_slice(b"],\"next\":");
    push_json(&mut json, &page.next);
    json.push(b'}');
    json
}

fn push_counter(json: &mut Vec<u8>, key: &str, total: i64) {
    json.extend_from_slice(b"{\"key\":");
    push_json(json, key);
    json.extend_from_slice(b",\"value\":");
    push_json(json, &total);
    json.push(b'}');
}

fn push_json<T: serde::Serialize + ?Sized>(json: &mut Vec<u8>, value: &T) {
    // Texts and numbers into memory: there is nothing that could fail.
    let written = serde_json::to_writer(&mut *json, value);
    debug_assert!(written.is_ok());
}

/// The `Link` to the page after `next`; `None` where it can't be written.
pub(crate) fn next_link(prefix: &str, next: &str, limit: u32) -> Option<HeaderValue> {
    let mut query = Serializer::new(String::from("</counters?"));
    query = Serializer::for_suffix(query.finish(), "</counters?".len());
    if !prefix.is_empty() {
        query.append_pair("prefix", prefix);
    }
    query.append_pair("after", next).append_pair("limit", &limit.to_string());
    HeaderValue::from_str(&(query.finish() + ">; rel=\"next\"")).ok()
}

/// Reads the query. A member that is unknown or comes twice is refused: a page that leaves out
/// what the client asked for, because of a slip of the pen, would be a wrong answer.
pub(crate) fn page_request(query: &str) -> Result<PageRequest, Box<Problem>> {
    let mut seen = [false; 3];
    let mut request = PageRequest { prefix: String::new(), after: None, limit: DEFAULT_LIMIT };
    for member in text::members(query.as_bytes()) {
        let (name, content) = member.map_err(|error| undecodable("the query", error))?;
        let place = match &*name {
            "prefix" => 0,
            "after" => 1,
            "limit" => 2,
            _ => {
                return Err(Problem::invalid(
                    "the query has an unknown member; prefix, after and limit are known",
                ));
            }
        };
        if std::mem::replace(&mut seen[place], true) {
            return Err(Problem::invalid("a member of the query is there twice; send each once"));
        }
        match place {
            2 => request.limit = limit(&content)?,
            // Empty, either means what its absence means.
            _ if content.is_empty() => {}
            0 => request.prefix = checked(&content)?,
            _ => request.after = Some(checked(&content)?),
        }
    }
    Ok(request)
}

fn limit(text: &str) -> Result<u32, Box<Problem>> {
    text.parse()
        .ok()
        .filter(|limit| (1..=MAX_LIMIT).contains(limit) && !text.starts_with('+'))
        .ok_or_else(|| Problem::invalid(format!("limit is not a number from 1 to {MAX_LIMIT}")))
}

fn checked(text: &str) -> Result<String, Box<Problem>> {
    check(text)?;
    Ok(text.to_owned())
}

fn check(key: &str) -> Result<(), Box<Problem>> {
    Key::check(key).map_err(|error| Problem::invalid(error.to_string()))
}

fn undecodable(what: &str, error: DecodeError) -> Box<Problem> {
    Problem::malformed("undecodable", format!("{what} can't be decoded: {error}"))
}
