//! Bytes, taken for decisions.

/// What is left of them. Where nothing is, everything is 0.
#[derive(Debug)]
pub(crate) struct Script<'b>(pub(crate) &'b [u8]);

impl<'b> Script<'b> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn number(&mut self) -> u16 {
        u16::from(self.byte()) << 8 | u16::from(self.byte())
    }

    /// So many, or what is left.
    pub(crate) fn take(&mut self, bytes: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn choose<'t, T>(&mut self, things: &'t [T]) -> Option<&'t T> {
        let at = usize::from(self.byte());
        things.get(at % things.len().max(1))
    }

    /// `usual`, something near it, or one of the numbers that arithmetic stumbles over.
    pub(crate) fn odd_number(&mut self, usual: u64) -> u64 {
        match self.byte() {
            0..=127 => usual,
            128 => 0,
            129 => 1,
            130 => u64::MAX,
            131 => u64::MAX - 1,
            132 => u64::from(u32::MAX),
            133 => i64::MAX as u64,
            134 => 1 << 20,
            near => usual.wrapping_add(u64::from(near - 135)).wrapping_sub(60),
        }
    }
}
