//! What it means that a watermark was not where a batch begins.

use counter::{Batch, Seq};

use crate::{ApplyError, Claim, Standing, StoreError};

/// `Ok`: an earlier attempt of the batch was committed, and its answer got lost.
pub(crate) fn committed_before(
    found: Option<Standing>,
    claim: &Claim,
    batch: &Batch,
) -> Result<(), ApplyError> {
    let expected = batch.from();
    match found {
        None => Err(ApplyError::Forgot { watermark: Seq::ZERO, expected }),
        Some(Standing { owner, .. }) if owner != claim.owner => {
            Err(ApplyError::Fenced { journal: claim.journal, owner })
        }
        Some(Standing { watermark, .. }) if watermark == batch.upto() => Ok(()),
        Some(Standing { watermark, .. }) if watermark == expected => {
            let text = "the watermark did not move, although it is where the batch begins";
            Err(StoreError::Unavailable(text.to_owned()).into())
        }
        Some(Standing { watermark, .. }) => Err(ApplyError::Forgot { watermark, expected }),
    }
}
