//! Numbers as people read them.

use crate::stats::Spread;

/// A whole number with its thousands set off: `92,917`.
pub(crate) fn whole(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 && digits != "0" { format!("-{text}") } else { text }
}

/// Three digits that count, more before the point where there are more.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => whole(value),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.01 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// A duration given in microseconds: `173 µs`, `4.30 ms`, `1.20 s`. Nothing takes no time at all.
pub(super) fn duration(us: f64) -> String {
    match us {
        us if us <= 0.0 => "–".to_owned(),
        us if us >= 1e6 => format!("{} s", short(us / 1e6)),
        us if us >= 1e3 => format!("{} ms", short(us / 1e3)),
        us => format!("{} µs", short(us)),
    }
}

/// A size in MiB.
pub(super) fn mebibytes(bytes: f64) -> String {
    format!("{} MiB", short(bytes / f64::from(1 << 20)))
}

/// For the ticks of an axis: `1 k`, `2.5 M`.
pub(crate) fn compact(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, " G"),
        size if size >= 1e6 => (value / 1e6, " M"),
        size if size >= 1e3 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = format!("{value:.3}");
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{digits}{unit}")
}

/// As at the beginning of a sentence; a name such as p99 stays as it is.
pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if !text.chars().nth(1).is_some_and(|second| second.is_ascii_digit()) => {
            first.to_uppercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

/// `0.92 (0.87 to 1.01)`, or a dash.
pub(super) fn spread(spread: Option<Spread>, number: impl Fn(f64) -> String) -> String {
    spread.map_or_else(
        || "–".to_owned(),
        |Spread { median, min, max, count }| {
            let median = number(median);
            if count == 1 { median } else { format!("{median} ({} to {})", number(min), number(max)) }
        },
    )
}

pub(super) fn median(spread: Option<Spread>, number: impl Fn(f64) -> String) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| number(spread.median))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0.0, 999.4, 1000.0, 1_234_567.0, -1234.0].map(whole),
            ["0", "999", "1,000", "1,234,567", "-1,234"]
        );
        assert_eq!(
            [0.0, 0.004, 0.952, 12.34, 1234.5].map(short),
            ["0.00", "0.0040", "0.95", "12.3", "1,234"]
        );
        assert_eq!([7.0, 173.2, 4300.0, 1.2e6].map(duration), ["7.00 µs", "173 µs", "4.30 ms", "1.20 s"]);
        assert_eq!([0.0, 0.5, 950.0, 1000.0, 2.5e6].map(compact), ["0", "0.5", "950", "1 k", "2.5 M"]);
        assert_eq!(mebibytes(1_048_576.0), "1.00 MiB");
        assert_eq!(["requests", "p99 latency", ""].map(capital), ["Requests", "p99 latency", ""]);
        let all = Spread { median: 0.92, min: 0.87, max: 1.01, count: 3 };
        assert_eq!(spread(Some(all), short), "0.92 (0.87 to 1.01)");
        assert_eq!(spread(Some(Spread { count: 1, ..all }), short), "0.92");
        assert_eq!(spread(None, short), "–");
    }
}
