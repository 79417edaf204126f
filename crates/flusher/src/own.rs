//! What it means where this instance finds its own row in the store.

use counter::{OwnerId, Seq};
use store::{ApplyError, Claim, Standing};

use crate::flusher::FlushError;

/// An instance's claim, and the earlier starts of its directory.
#[derive(Clone, Debug)]
pub struct Own {
    claim: Claim,
    former: Vec<OwnerId>,
}

impl Own {
    /// The instance writes as `claim`; `former` are the owners that its directory remembers.
    #[must_use]
    pub fn new(claim: Claim, former: Vec<OwnerId>) -> Self {
        Self { claim, former }
    }

    /// What it writes as.
    #[must_use]
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Whether the row is as this instance left it. `confirmed` is a watermark that the store had
    /// confirmed before it was asked for the row.
    ///
    /// # Errors
    /// Somebody else owns the journal now, or the store forgot.
    pub fn check(&self, found: Option<Standing>, confirmed: Seq) -> Result<(), FlushError> {
        let journal = self.claim.journal;
        match found {
            None => Err(FlushError::Forgot(format!("it has no row of journal {journal} any more"))),
            // While it is the owner, nobody else moves the watermark.
            Some(Standing { owner, .. }) if owner != self.claim.owner => {
                Err(self.of(&ApplyError::Fenced { journal, owner }))
            }
            Some(Standing { watermark, .. }) if watermark < confirmed => {
                Err(self.of(&ApplyError::Forgot { watermark, expected: confirmed }))
            }
            Some(_) => Ok(()),
        }
    }

    /// Why no batch of this instance can be applied any more. An earlier start of its own directory
    /// can only be the owner again where the store forgot the claims since.
    pub(crate) fn of(&self, error: &ApplyError) -> FlushError {
        match error {
            ApplyError::Fenced { owner, journal } if self.former.contains(owner) => FlushError::Forgot(
                format!("journal {journal} belongs to an earlier start of this server again ({owner})"),
            ),
            ApplyError::Fenced { .. } => FlushError::Fenced(error.to_string()),
            ApplyError::Forgot { .. } | ApplyError::Store(_) => FlushError::Forgot(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use counter::JournalId;

    use super::*;

    #[test]
    fn a_row_is_ours_or_another_server_s_or_an_older_one() {
        let id = |byte: u8| OwnerId([byte; 16]);
        let own = Own::new(Claim { journal: JournalId([7; 16]), owner: id(3) }, vec![id(2), id(1)]);
        let row =
            |owner: u8, seq: u64| Some(Standing { owner: id(owner), watermark: Seq(seq), moved_by: None });
        for found in [row(3, 20), row(3, 21)] {
            assert!(own.check(found, Seq(20)).is_ok());
        }
        for found in [row(3, 19), row(2, 20), row(1, 5), None] {
            let error = own.check(found, Seq(20)).unwrap_err();
            assert!(matches!(error, FlushError::Forgot(_)), "{found:?}: {error}");
        }
        let error = own.check(row(9, 25), Seq(20)).unwrap_err();
        assert!(matches!(error, FlushError::Fenced(_)), "{error}");
    }
}
