//! What a counter may be called.

use std::fmt;

/// The longest key, in bytes of UTF-8. It keeps every key inside an index row of both stores.
pub const MAX_KEY_BYTES: usize = 512;

/// A counter's name: UTF-8, 1 to [`MAX_KEY_BYTES`] bytes, without NUL.
///
/// These are exactly the names that both stores can hold, so that an accepted increment can't
/// be refused by the store for its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<str>);

/// Why a text can't be a [`Key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The empty text.
    #[error("the key is empty; a key has 1 to {MAX_KEY_BYTES} bytes")]
    Empty,
    /// More than [`MAX_KEY_BYTES`] bytes of UTF-8.
    #[error("the key has {bytes} bytes of UTF-8; at most {MAX_KEY_BYTES} are allowed")]
    TooLong {
        /// How long it is, in bytes.
        bytes: usize,
    },
    /// It contains U+0000, which PostgreSQL can't store in text.
    #[error("the key contains a NUL character (U+0000), which a key must not")]
    Nul,
}

impl Key {
    /// Takes `text` as a key.
    ///
    /// # Errors
    /// Those of [`Key::check`].
    pub fn new(text: &str) -> Result<Self, KeyError> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }

    /// Tests whether `text` may be a key, without keeping it.
    ///
    /// # Errors
    /// [`KeyError`] says which rule it breaks.
    #[inline]
    pub fn check(text: &str) -> Result<(), KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLong { bytes: text.len() });
        }
        if text.as_bytes().contains(&0) {
            return Err(KeyError::Nul);
        }
        Ok(())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_a_key() {
        assert_eq!(Key::check(""), Err(KeyError::Empty));
        assert_eq!(Key::check("a\0b"), Err(KeyError::Nul));
        assert_eq!(Key::check(&"k".repeat(512)), Ok(()));
        assert_eq!(Key::check(&"k".repeat(513)), Err(KeyError::TooLong { bytes: 513 }));
        // 128 four-byte characters are 512 bytes: bytes count, not characters.
        assert_eq!(Key::check(&"🦀".repeat(128)), Ok(()));
        assert!(Key::check(&"🦀".repeat(129)).is_err());
    }
}
