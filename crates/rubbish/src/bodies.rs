//! The bodies of requests that count, against models that read them in another way.

use counter::{Decoder, Entries, Entry};
use http_front::fuzzing::{Body, Refused, body};
use percent_encoding::percent_decode;
use serde_json::Value;

use crate::json_model::{self, Shape};

/// How a model reads an increment.
type Model = Result<(String, i64), Verdict>;

/// Why it is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// 400
    Unreadable,
    /// 422
    Invalid,
}

impl Verdict {
    fn status(self) -> u16 {
        match self {
            Self::Unreadable => 400,
            Self::Invalid => 422,
        }
    }
}

/// `{"key": …, "value": …}`.
pub(crate) fn one(bytes: &[u8]) {
    let ours = body(Body::One, bytes);
    let model = str::from_utf8(bytes).map_err(|_| Verdict::Unreadable).and_then(increment);
    compare(&ours, &model.map(|increment| vec![increment]), (None, None));
    // A third opinion, where it reads as much: of two members of one name it keeps the last, and
    // it takes neither deep nesting nor lone surrogates.
    if let (Ok(entries), Ok(value)) = (&ours, serde_json::from_slice::<Value>(bytes)) {
        let key = value["key"].as_str().expect("a key");
        // To it, -0 is the floating-point zero.
        let minus_zero = || (value["value"].as_f64() == Some(0.0)).then_some(0);
        let added = value["value"].as_i64().or_else(minus_zero).expect("an integer");
        assert_eq!(unpacked(entries), [(key.to_owned(), added)]);
    }
}

/// An array of them.
pub(crate) fn array(bytes: &[u8]) {
    let ours = body(Body::Array, bytes);
    let shape = str::from_utf8(bytes).ok().and_then(json_model::read);
    match shape {
        None => compare(&ours, &Err(Verdict::Unreadable), (None, None)),
        Some(Shape::Array(values)) => {
            let models: Vec<Model> = values.into_iter().map(increment).collect();
            let first_bad = models.iter().position(Result::is_err).map(|at| at as u32);
            let model: Result<Vec<_>, _> = models.into_iter().collect();
            compare(&ours, &model, (first_bad, None));
        }
        Some(_) => compare(&ours, &Err(Verdict::Invalid), (None, None)),
    }
}

/// One of them on each line.
pub(crate) fn lines(bytes: &[u8]) {
    let ours = body(Body::Lines, bytes);
    let Ok(text) = str::from_utf8(bytes) else {
        return compare(&ours, &Err(Verdict::Unreadable), (None, None));
    };
    let mut increments = Vec::new();
    for (line, number) in text.split('\n').zip(1..) {
        if line.bytes().all(|byte| byte.is_ascii_whitespace()) {
            continue;
        }
        match increment(line) {
            Ok(increment) => increments.push(increment),
            Err(verdict) => {
                return compare(&ours, &Err(verdict), (Some(increments.len() as u32), Some(number)));
            }
        }
    }
    compare(&ours, &Ok(increments), (None, None));
}

/// `key=…&value=…`.
pub(crate) fn form(bytes: &[u8]) {
    let ours = body(Body::Form, bytes);
    let model = form_model(bytes);
    if model.is_ok() {
        // The decoder that browsers have, which repairs what it can't decode: here is nothing to repair.
        let theirs: Vec<_> = form_urlencoded::parse(bytes).collect();
        let of = |name: &str| theirs.iter().find(|member| member.0 == name).map(|member| &*member.1);
        let entries = unpacked(ours.as_ref().expect("an increment"));
        assert_eq!(of("key"), Some(&*entries[0].0));
        assert_eq!(of("value").and_then(decimal), Some(entries[0].1));
    }
    compare(&ours, &model.map(|increment| vec![increment]), (None, None));
}

fn form_model(bytes: &[u8]) -> Model {
    let (mut key, mut value) = (None, None);
    for member in bytes.split(|&byte| byte == b'&').filter(|member| !member.is_empty()) {
        let mut sides = member.splitn(2, |&byte| byte == b'=');
        let mut side = || decoded(sides.next().unwrap_or_default(), true);
        let (name, content) = (side().ok_or(Verdict::Unreadable)?, side().ok_or(Verdict::Unreadable)?);
        let place = match name.as_str() {
            "key" => &mut key,
            "value" => &mut value,
            _ => continue,
        };
        if place.replace(content).is_some() {
            return Err(Verdict::Invalid);
        }
    }
    let (Some(key), Some(value)) = (key, value) else { return Err(Verdict::Invalid) };
    let value = decimal(&value).ok_or(Verdict::Invalid)?;
    if is_key(&key) { Ok((key, value)) } else { Err(Verdict::Invalid) }
}

/// Decodes `%XX`, and `+` as a space; `None` where that would be a repair.
pub(crate) fn decoded(text: &[u8], plus_is_space: bool) -> Option<String> {
    let whole = |(at, _): (usize, _)| {
        text.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(whole) {
        return None;
    }
    let spaced = |byte: &u8| if plus_is_space && *byte == b'+' { b' ' } else { *byte };
    let spaced: Vec<u8> = text.iter().map(spaced).collect();
    percent_decode(&spaced).decode_utf8().ok().map(String::from)
}

/// Digits, after a minus or not, that fit into 64 bits.
fn decimal(text: &str) -> Option<i64> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let add = |sum: i128, digit: u8| sum.checked_mul(10)?.checked_add(i128::from(digit - b'0'));
    i64::try_from(sign * digits.bytes().try_fold(0, add)?).ok()
}

pub(crate) fn is_key(text: &str) -> bool {
    (1..=512).contains(&text.len()) && !text.contains('\0')
}

/// An object with a key and a value, each once.
fn increment(text: &str) -> Model {
    let members = match json_model::read(text).ok_or(Verdict::Unreadable)? {
        Shape::Object(members) => members,
        _ => return Err(Verdict::Invalid),
    };
    let (mut key, mut value) = (None, None);
    for (name, content) in members {
        let place = match name.as_deref() {
            Some("key") => &mut key,
            Some("value") => &mut value,
            Some(_) => continue,
            None => return Err(Verdict::Invalid),
        };
        if place.replace(content).is_some() {
            return Err(Verdict::Invalid);
        }
    }
    let key = match key.and_then(json_model::read) {
        Some(Shape::String(Some(key))) if is_key(&key) => key,
        _ => return Err(Verdict::Invalid),
    };
    match value.and_then(json_model::read) {
        Some(Shape::Number(digits)) => decimal(digits).map(|value| (key, value)).ok_or(Verdict::Invalid),
        _ => Err(Verdict::Invalid),
    }
}

fn unpacked(entries: &Entries) -> Vec<(String, i64)> {
    let increment = |entry| match entry {
        Ok(Entry::Increment { key, value }) => (String::from(key), value),
        other => panic!("{other:?} among plain increments"),
    };
    Decoder::new(entries.bytes()).map(increment).collect()
}

/// `place` is the entry and the line that a refusal is to name.
fn compare(
    ours: &Result<Entries, Refused>,
    model: &Result<Vec<(String, i64)>, Verdict>,
    place: (Option<u32>, Option<u32>),
) {
    match (ours, model) {
        (Ok(entries), Ok(increments)) => {
            assert_eq!(&unpacked(entries), increments);
            assert_eq!(entries.count() as usize, increments.len());
        }
        (Err(refused), Err(verdict)) => {
            assert_eq!(refused.status, verdict.status(), "{refused:?}");
            // Where an array isn't JSON, there is no telling what its entries are.
            let is_told = refused.status == 422 || place.1.is_some();
            assert_eq!((refused.entry, refused.line), if is_told { place } else { (None, None) });
            // Nobody is sent his own body back.
            assert!(refused.detail.len() <= 300, "{}", refused.detail);
        }
        (ours, model) => panic!("{ours:?}, and the model says {model:?}"),
    }
}
