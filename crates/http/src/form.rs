//! An increment as a form.

use counter::Entries;

use crate::json::{INTEGER, MISSING_KEY, MISSING_VALUE};
use crate::problem::Problem;
use crate::text;

/// Parses `key=…&value=…`. Unknown members are ignored; one of the two that comes twice is
/// refused.
///
/// # Errors
/// 400 where it isn't properly encoded, 422 where it isn't an increment.
pub(crate) fn one(form: &[u8], entries: &mut Entries) -> Result<(), Box<Problem>> {
    let mut key = None;
    let mut value = None;
    for member in text::members(form) {
        let (name, content) = member.map_err(|error| {
            Problem::malformed("not_a_form", format!("the form can't be decoded: {error}"))
        })?;
        let twice = match &*name {
            "key" => key.replace(content).is_some(),
            "value" => value.replace(content).is_some(),
            _ => false,
        };
        if twice {
            return Err(Problem::invalid("\"key\" or \"value\" is there twice; send each once"));
        }
    }
    let key = key.ok_or_else(|| Problem::invalid(MISSING_KEY))?;
    let value = value.ok_or_else(|| Problem::invalid(MISSING_VALUE))?;
    let value = integer(&value).ok_or_else(|| Problem::invalid(format!("\"value\" is not {INTEGER}")))?;
    entries.push(&key, value).map_err(|error| Problem::invalid(error.to_string()))
}

/// Digits after an optional minus; unlike Rust's, no plus.
fn integer(text: &str) -> Option<i64> {
    (!text.starts_with('+')).then(|| text.parse().ok()).flatten()
}
