//! Increments in packed form: what a front door hands to the engine, and what a record of the
//! journal holds, byte for byte, so that nothing is encoded twice on the way.
//!
//! ```text
//! entry := key_bytes:varint(1..=512) key value:zigzag-varint
//! unit  := 0x00 id_bytes:varint(1..=255) id fingerprint:16 bytes count:varint entry*count
//! ```
//!
//! A unit is a request with an idempotency key: all of it counts once, or none of it does. No
//! key is empty, so the byte 0 is free to announce one.

use crate::varint;
use crate::{Key, KeyError};

/// A digest of a request's body: tells a retry from another request under the same id.
pub type Fingerprint = [u8; 16];

/// Packed increments, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    bytes: Vec<u8>,
    count: u32,
}

impl Entries {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one increment.
    ///
    /// # Errors
    /// Where `key` breaks a rule of [`Key::check`]; then nothing was appended.
    #[inline]
    pub fn push(&mut self, key: &str, value: i64) -> Result<(), KeyError> {
        Key::check(key)?;
        varint::push(&mut self.bytes, key.len() as u64);
        self.bytes.extend_from_slice(key.as_bytes());
        varint::push(&mut self.bytes, varint::zigzag(value));
        self.count += 1;
        Ok(())
    }

    /// How many increments.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The packed form.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Makes room for the next request without giving the memory back.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// The same increments as one unit under an idempotency key.
    ///
    /// `id` has 1 to 255 bytes; the front door refuses others.
    #[must_use]
    pub fn to_unit(&self, id: &str, fingerprint: &Fingerprint) -> Vec<u8> {
        debug_assert!((1..=255).contains(&id.len()));
        let mut bytes = Vec::with_capacity(self.bytes.len() + id.len() + 24);
        bytes.push(0);
        varint::push(&mut bytes, id.len() as u64);
        bytes.extend_from_slice(id.as_bytes());
        bytes.extend_from_slice(fingerprint);
        varint::push(&mut bytes, u64::from(self.count));
        bytes.extend_from_slice(&self.bytes);
        bytes
    }
}

/// One step of a [`Decoder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// One increment: of its own, or of the unit that was announced last.
    Increment {
        /// The counter's name; it satisfies [`Key::check`].
        key: &'a str,
        /// What is added.
        value: i64,
    },
    /// The next `count` increments belong together.
    Unit(UnitHeader<'a>),
}

/// What stands before the increments of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitHeader<'a> {
    /// The idempotency key.
    pub id: &'a str,
    /// The digest of the body that was sent with it.
    pub fingerprint: Fingerprint,
    /// How many increments follow.
    pub count: u32,
}

/// Bytes that are not packed increments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are not packed increments")]
pub struct Damaged;

/// Walks packed increments. After an error it ends.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    /// Increments that the announced unit still owes.
    owed: u32,
}

impl<'a> Decoder<'a> {
    /// Reads from the front of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, owed: 0 }
    }

    /// What has not been read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    fn step(&mut self) -> Option<Entry<'a>> {
        let key_bytes = varint::take(&mut self.rest)?;
        if key_bytes == 0 {
            return self.unit().map(Entry::Unit);
        }
        let key = self.text(usize::try_from(key_bytes).ok()?)?;
        Key::check(key).ok()?;
        let value = varint::unzigzag(varint::take(&mut self.rest)?);
        self.owed = self.owed.saturating_sub(1);
        Some(Entry::Increment { key, value })
    }

    fn unit(&mut self) -> Option<UnitHeader<'a>> {
        let id_bytes = usize::try_from(varint::take(&mut self.rest)?).ok()?;
        if self.owed > 0 || !(1..=255).contains(&id_bytes) {
            return None;
        }
        let id = self.text(id_bytes)?;
        let (&fingerprint, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        let count = u32::try_from(varint::take(&mut self.rest)?).ok()?;
        self.owed = count;
        Some(UnitHeader { id, fingerprint, count })
    }

    #[inline]
    fn text(&mut self, bytes: usize) -> Option<&'a str> {
        let (text, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }
}

impl<'a> Iterator for Decoder<'a> {
    type Item = Result<Entry<'a>, Damaged>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() && self.owed == 0 {
            return None;
        }
        let step = self.step();
        if step.is_none() {
            *self = Self::new(&[]);
        }
        Some(step.ok_or(Damaged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            plain in proptest::collection::vec(("[^\0]{1,40}", any::<i64>()), 0..20),
            unit in proptest::collection::vec(("[^\0]{1,40}", any::<i64>()), 0..20),
            id in "[!-~]{1,255}",
        ) {
            let mut entries = Entries::new();
            for (key, value) in &plain {
                entries.push(key, *value).unwrap();
            }
            let mut bytes = entries.bytes().to_vec();
            entries.clear();
            for (key, value) in &unit {
                entries.push(key, *value).unwrap();
            }
            bytes.extend(entries.to_unit(&id, &[7; 16]));

            let mut decoder = Decoder::new(&bytes);
            for (key, value) in &plain {
                prop_assert_eq!(decoder.next(), Some(Ok(Entry::Increment { key, value: *value })));
            }
            let count = unit.len() as u32;
            let header = UnitHeader { id: &id, fingerprint: [7; 16], count };
            prop_assert_eq!(decoder.next(), Some(Ok(Entry::Unit(header))));
            for (key, value) in &unit {
                prop_assert_eq!(decoder.next(), Some(Ok(Entry::Increment { key, value: *value })));
            }
            prop_assert_eq!(decoder.next(), None);
        }

        #[test]
        fn rubbish_ends_in_an_error_or_in_valid_entries(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for entry in Decoder::new(&bytes).flatten() {
                if let Entry::Increment { key, .. } = entry {
                    prop_assert!(Key::check(key).is_ok());
                }
            }
        }
    }

    #[test]
    fn a_unit_that_is_cut_short_is_damage() {
        let mut entries = Entries::new();
        entries.push("a", 1).unwrap();
        entries.push("b", 2).unwrap();
        let bytes = entries.to_unit("id", &[0; 16]);
        let read: Vec<_> = Decoder::new(&bytes[..bytes.len() - 3]).collect();
        assert_eq!(read.last(), Some(&Err(Damaged)));
    }
}
