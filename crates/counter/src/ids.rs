//! Names of journals, stores and owners, and positions in a journal.

use std::fmt;
use std::str::FromStr;

/// A record's position in its journal: starts at 1, has no gaps, never repeats. 0 stands for
/// "before the first record".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first record.
    pub const ZERO: Self = Self(0);

    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// As both stores keep it (`bigint`). A journal would have to commit a million times a
    /// second for 290,000 years to pass 2^63.
    #[must_use]
    pub fn as_i64(self) -> i64 {
        self.0 as i64
    }

    /// From what a store keeps; a negative number, which no instance writes, becomes 0.
    #[must_use]
    pub fn from_i64(seq: i64) -> Self {
        Self(u64::try_from(seq).unwrap_or(0))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is not 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id: 32 hexadecimal digits are expected")]
pub struct IdError(String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A new one from the operating system's randomness.
            ///
            /// # Errors
            /// The operating system has no randomness to give.
            pub fn random() -> Result<Self, getrandom::Error> {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes)?;
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse(text).map(Self).ok_or_else(|| IdError(text.to_owned()))
            }
        }
    };
}

id! {
    /// Names one journal. It is chosen at random when a data directory is first used, and every
    /// record's checksum is seeded with it. Text form: 32 hexadecimal digits.
    JournalId
}
id! {
    /// Names one store. The first migration chooses it at random; every data directory remembers
    /// it. Text form: 32 hexadecimal digits.
    StoreId
}
id! {
    /// Names one start of one instance: chosen at random on each start, written into the
    /// journal's row of the store, and tested whenever the watermark moves. Text form: 32
    /// hexadecimal digits.
    OwnerId
}

fn parse(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_form() {
        let id = JournalId::random().unwrap();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("".parse::<JournalId>().is_err());
        assert!("g".repeat(32).parse::<JournalId>().is_err());
        assert!("+f".repeat(16).parse::<JournalId>().is_err());
    }
}
