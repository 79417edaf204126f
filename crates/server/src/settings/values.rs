//! The kinds of values: how they are written, read and printed.
//!
//! A parser's error says what is wrong and what to write instead; the caller puts in front of it
//! where the value came from.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

const SIZE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIME_UNITS_MS: [(&str, u64); 4] = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

/// When a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// Once its increment is on disk.
    Durable,
    /// At once; it is on disk soon after.
    Memory,
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Durable => "durable",
            Self::Memory => "memory",
        })
    }
}

/// Reads an [`Ack`].
pub(super) fn ack(text: &str) -> Result<Ack, String> {
    match text {
        "durable" => Ok(Ack::Durable),
        "memory" => Ok(Ack::Memory),
        _ => Err(format!("{text:?} is neither durable nor memory")),
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// A sentence and its fields, for people.
    #[default]
    Text,
    /// One JSON object on each line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Reads a [`LogFormat`].
pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is neither text nor json")),
    }
}

/// A level, or directives such as `info,engine=debug`. It is known to parse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogLevel(String);

impl LogLevel {
    /// The filter that it stands for.
    pub(crate) fn filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads a [`LogLevel`].
pub(super) fn log_level(text: &str) -> Result<LogLevel, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let advice = "write off, error, warn, info, debug or trace, or directives such as info,engine=debug";
    // The filter takes any other bare word for the name of a module whose every event is wanted:
    // a mistyped level would silence all the rest.
    let stray = text.split(',').find(|part| !part.contains(['=', '[']) && !LEVELS.contains(part));
    if let Some(word) = stray {
        return Err(format!("{word:?} is no level; {advice}"));
    }
    if !text.is_ascii() {
        // The filter's parser panics on some of it, and nothing here is called otherwise.
        return Err(format!("{text:?} is no filter (not ASCII); {advice}"));
    }
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(LogLevel(text.to_owned())),
        Err(error) => Err(format!("{text:?} is no filter ({error}); {advice}")),
    }
}

/// Reads a whole number within `range`.
pub(super) fn count(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!(
            "{text:?} is not allowed; give a whole number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// Reads a number of bytes within `range`: plain, or with B, KiB, MiB, GiB or TiB.
pub(super) fn size(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let advice = "write a whole number of bytes, or one with KiB, MiB, GiB or TiB, such as 64KiB";
    let (digits, unit) = number_and_unit(text);
    let factor = match SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => 1,
        None => return Err(format!("{text:?} is no size; {advice}")),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    match bytes {
        Some(bytes) if range.contains(&bytes) => Ok(bytes),
        None if digits.is_empty() => Err(format!("{text:?} is no size; {advice}")),
        _ => Err(format!(
            "{text:?} is not allowed; give a size from {} to {}",
            show_size(*range.start()),
            show_size(*range.end())
        )),
    }
}

/// Writes a number of bytes so that [`size`] reads it back.
pub(super) fn show_size(bytes: u64) -> String {
    let fits = SIZE_UNITS.iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    let (unit, factor) = fits.unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / factor)
}

/// Reads a time span within `range`, written with ms, s, m or h.
pub(super) fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let advice = "write a whole number with a unit, such as 250ms, 5s, 1m or 2h";
    let (digits, unit) = number_and_unit(text);
    let factor_ms = match TIME_UNITS_MS.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) if !digits.is_empty() => *factor,
        _ if unit.is_empty() && !digits.is_empty() => return Err(format!("{text:?} has no unit; {advice}")),
        _ => return Err(format!("{text:?} is no time span; {advice}")),
    };
    let ms = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor_ms));
    match ms.map(Duration::from_millis) {
        Some(span) if range.contains(&span) => Ok(span),
        _ => Err(format!(
            "{text:?} is not allowed; give a time span from {} to {}",
            show_duration(*range.start()),
            show_duration(*range.end())
        )),
    }
}

/// Writes a time span so that [`duration`] reads it back. Spans are whole milliseconds.
pub(super) fn show_duration(span: Duration) -> String {
    let ms = span.as_millis();
    match ms {
        0 => "0s".to_owned(),
        _ if !ms.is_multiple_of(1_000) => format!("{ms}ms"),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ => format!("{}s", ms / 1_000),
    }
}

fn number_and_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (digits, unit.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        let any = 0..=u64::MAX;
        for (text, bytes) in [("0", 0), ("1000", 1000), ("1000B", 1000), ("64KiB", 65536), ("1 MiB", 1 << 20)]
        {
            assert_eq!(size(text, any.clone()), Ok(bytes), "{text}");
        }
        for bytes in [0, 1, 1000, 1024, 1025, 65536, 3 << 30, 10 << 40, u64::MAX] {
            assert_eq!(size(&show_size(bytes), any.clone()), Ok(bytes));
        }
        for text in ["", "GiB", "1GB", "1.5GiB", "-1", "0x10", "99999999999999999999", "16777216TiB"] {
            assert!(size(text, any.clone()).is_err(), "{text}");
        }
        let error = size("1KiB", 2048..=1 << 30).unwrap_err();
        assert_eq!(error, "\"1KiB\" is not allowed; give a size from 2KiB to 1GiB");
    }

    #[test]
    fn time_spans_read_and_print() {
        let any = Duration::ZERO..=Duration::MAX;
        for (text, ms) in [("250ms", 250), ("5s", 5_000), ("1m", 60_000), ("2h", 7_200_000), ("0s", 0)] {
            assert_eq!(duration(text, any.clone()), Ok(Duration::from_millis(ms)), "{text}");
        }
        for ms in [0, 1, 999, 1_000, 1_500, 60_000, 61_000, 3_600_000] {
            let span = Duration::from_millis(ms);
            assert_eq!(duration(&show_duration(span), any.clone()), Ok(span));
        }
        for text in ["", "s", "-1s", "1.5s", "1d", "5 parsecs", "99999999999999999999s"] {
            assert!(duration(text, any.clone()).is_err(), "{text}");
        }
        assert!(duration("5", any).unwrap_err().contains("has no unit"));
    }

    #[test]
    fn a_mistyped_level_is_refused_not_taken_for_a_module() {
        for text in ["info", "off", "info,engine=debug", "engine=trace", "warn,[flush]=debug"] {
            assert!(log_level(text).is_ok(), "{text}");
        }
        // The last one was found by fuzzing: the parser of the filter cut it inside a character.
        for text in ["", "inf", "INFO!", "info,engine", "engine=loud", "\t\n\n\n\n\ns\u{dd}  B\n\t[\t\n\n\n"]
        {
            assert!(log_level(text).is_err(), "{text}");
        }
    }
}
