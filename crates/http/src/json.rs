//! Increments as JSON, straight into packed form.

use std::borrow::Cow;
use std::fmt;

use counter::Entries;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::problem::Problem;

/// Parses `{"key": …, "value": …}`. Unknown members are ignored; one of the two that comes twice
/// is refused.
///
/// # Errors
/// 400 where it isn't JSON, 422 where it is another JSON than that.
pub(crate) fn one(text: &[u8], entries: &mut Entries) -> Result<(), Box<Problem>> {
    let text = utf8(text)?;
    entry(text, entries).map_err(|error| fault(text, &error, "the body"))
}

/// Parses an array of them.
///
/// # Errors
/// As [`one`]; the entry's index goes with a 422.
pub(crate) fn array(text: &[u8], entries: &mut Entries) -> Result<(), Box<Problem>> {
    let text = utf8(text)?;
    let mut inside = false;
    spelling(text, |by_text| {
        entries.clear();
        let mut deserializer = serde_json::Deserializer::from_str(text);
        deserializer.deserialize_seq(ArrayVisitor { entries, by_text, inside: &mut inside })?;
        deserializer.end()
    })
    .map_err(|error| {
        let problem = fault(text, &error, "the body");
        let understood = problem.status == hyper::StatusCode::UNPROCESSABLE_ENTITY;
        problem.at((inside && understood).then(|| entries.count()), None)
    })
}

/// Parses one of them on each line; lines of white space alone are skipped.
///
/// # Errors
/// As [`one`], with the entry's index and its line.
pub(crate) fn lines(text: &[u8], entries: &mut Entries) -> Result<(), Box<Problem>> {
    for (line, number) in utf8(text)?.split('\n').zip(1..) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let index = entries.count();
        entry(line, entries)
            .map_err(|error| fault(line, &error, "the line").at(Some(index), Some(number)))?;
    }
    Ok(())
}

fn entry(text: &str, entries: &mut Entries) -> serde_json::Result<()> {
    spelling(text, |by_text| {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        Entry { entries, by_text }.deserialize(&mut deserializer)?;
        deserializer.end()
    })
}

/// Has `parse` read values as serde_json understands numbers. To it `-0` is a floating-point zero,
/// no other than `-0.0`; so where that may be what is wrong, they are read by their text.
#[inline]
fn spelling(text: &str, mut parse: impl FnMut(bool) -> serde_json::Result<()>) -> serde_json::Result<()> {
    parse(false).or_else(|error| if text.contains("-0") { parse(true) } else { Err(error) })
}

fn utf8(text: &[u8]) -> Result<&str, Box<Problem>> {
    str::from_utf8(text).map_err(|error| {
        let place = error.valid_up_to();
        Problem::malformed("not_json", format!("the body is not JSON: no UTF-8 at byte {place}"))
    })
}

/// Tells what isn't JSON (400) from JSON that isn't an increment (422).
fn fault(text: &str, error: &serde_json::Error, what: &str) -> Box<Problem> {
    match serde_json::from_str::<IgnoredAny>(text) {
        Err(error) => Problem::malformed("not_json", format!("{what} is not JSON: {error}")),
        Ok(_) => {
            let says = without_place(error);
            let end = says.floor_char_boundary(200);
            let dots = if end < says.len() { "…" } else { "" };
            Problem::invalid(format!("{}{dots}", &says[..end]))
        }
    }
}

fn without_place(error: &serde_json::Error) -> String {
    let mut says = error.to_string();
    says.truncate(says.rfind(" at line ").unwrap_or(says.len()));
    says
}

struct ArrayVisitor<'e> {
    entries: &'e mut Entries,
    by_text: bool,
    inside: &'e mut bool,
}

impl<'de> Visitor<'de> for ArrayVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects with \"key\" and \"value\"")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        *self.inside = true;
        while array.next_element_seed(Entry { entries: self.entries, by_text: self.by_text })?.is_some() {}
        Ok(())
    }
}

/// An object, appended to the entries.
struct Entry<'e> {
    entries: &'e mut Entries,
    by_text: bool,
}

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = ();

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"key\" and \"value\"")
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let mut key = None;
        let mut value = None;
        while let Some(member) = object.next_key_seed(MemberName)? {
            let twice = match member {
                Member::Key => key.replace(object.next_value_seed(KeyText)?).is_some(),
                Member::Value if self.by_text => value.replace(integer(object.next_value()?)?).is_some(),
                Member::Value => value.replace(object.next_value_seed(Integer)?).is_some(),
                Member::Other => {
                    object.next_value::<IgnoredAny>()?;
                    false
                }
            };
            if twice {
                return Err(de::Error::custom("\"key\" or \"value\" is there twice; send each once"));
            }
        }
        let key: Cow<'_, str> = key.ok_or_else(|| de::Error::custom(MISSING_KEY))?;
        let value = value.ok_or_else(|| de::Error::custom(MISSING_VALUE))?;
        self.entries.push(&key, value).map_err(de::Error::custom)
    }
}

pub(crate) const MISSING_KEY: &str = "\"key\" is missing; send the counter's name in it";
pub(crate) const MISSING_VALUE: &str = "\"value\" is missing; send the integer to add in it";
/// What an [`Integer`] is.
pub(crate) const INTEGER: &str =
    "an integer from -9223372036854775808 to 9223372036854775807 without fraction, exponent or quotes";

enum Member {
    Key,
    Value,
    Other,
}

/// The name of a member.
struct MemberName;

impl<'de> DeserializeSeed<'de> for MemberName {
    type Value = Member;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Member, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for MemberName {
    type Value = Member;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    #[inline]
    fn visit_str<E>(self, name: &str) -> Result<Member, E> {
        Ok(match name {
            "key" => Member::Key,
            "value" => Member::Value,
            _ => Member::Other,
        })
    }
}

/// A counter's name, borrowed from the body unless it has escapes in it.
struct KeyText;

impl<'de> DeserializeSeed<'de> for KeyText {
    type Value = Cow<'de, str>;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeyText {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string as \"key\"")
    }

    #[inline]
    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// An [`Integer`] by its text.
fn integer<E: de::Error>(value: &RawValue) -> Result<i64, E> {
    if value.get() == "-0" {
        return Ok(0);
    }
    let mut deserializer = serde_json::Deserializer::from_str(value.get());
    Integer.deserialize(&mut deserializer).map_err(|error| E::custom(without_place(&error)))
}

/// A JSON integer in 64 bits, but for `-0`.
struct Integer;

impl<'de> DeserializeSeed<'de> for Integer {
    type Value = i64;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<i64, D::Error> {
        deserializer.deserialize_i64(self)
    }
}

impl Visitor<'_> for Integer {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "as \"value\" {INTEGER}")
    }

    #[inline]
    fn visit_i64<E>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    #[inline]
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<i64, E> {
        i64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
    }
}

#[cfg(test)]
mod tests;
