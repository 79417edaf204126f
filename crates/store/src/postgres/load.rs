//! Streams all totals, by COPY in binary form
//! (<https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4>).

use std::pin::pin;

use counter::{JournalId, Seq};
use futures_util::StreamExt;

use super::faults::Fault;
use super::link::Link;
use super::session::Session;
use super::writer::standing;
use crate::{LoadError, StoreError};

/// Rows between two looks at the clock, which costs as much as a row does.
const ROWS_A_STEP: usize = 1024;

const COPY: &str = "COPY (SELECT key, value FROM counters) TO STDOUT (FORMAT binary)";

/// Scans are turned off in the session (see there), and this one is to be one.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL enable_seqscan = on";

pub(crate) fn load(
    link: &mut Link,
    journal: JournalId,
    each: &mut dyn FnMut(&str, i64) -> Result<(), String>,
) -> Result<Seq, LoadError> {
    let loaded = link.call_in_steps(async |session| copy(session, journal, each).await);
    if !matches!(loaded, Ok(Ok(_))) {
        // The rest of the answer is on its way, and nobody wants it.
        link.hang_up();
    }
    loaded.map_err(StoreError::from)?.map_err(LoadError::Stopped)
}

/// The inner error is the receiver's reason to stop.
async fn copy(
    session: &Session,
    journal: JournalId,
    each: &mut dyn FnMut(&str, i64) -> Result<(), String>,
) -> Result<Result<Seq, String>, Fault> {
    let limit = session.limits.step;
    let begin = async {
        session.client.batch_execute(BEGIN).await?;
        let standing = standing(session, journal).await?;
        let rows = session.client.copy_out(COPY).await?;
        Ok((standing.map_or(Seq::ZERO, |standing| standing.watermark), rows))
    };
    let (watermark, rows) = session.step(limit, begin).await?;
    let mut rows = pin!(rows);
    let mut reader = BinaryReader::default();
    loop {
        let step = async {
            for _ in 0..ROWS_A_STEP {
                let Some(piece) = rows.next().await else { return Ok(Ok(false)) };
                if let Err(reason) = reader.read(&piece?, each)? {
                    return Ok(Err(reason));
                }
            }
            Ok(Ok(true))
        };
        match session.step(limit, step).await? {
            Ok(true) => {}
            Ok(false) => break,
            Err(reason) => return Ok(Err(reason)),
        }
    }
    if !reader.ended {
        return Err(Fault::Away("the copy of the totals ended early".to_owned()));
    }
    session.step(limit, async { Ok(session.client.batch_execute("COMMIT").await?) }).await?;
    Ok(Ok(watermark))
}

/// Takes apart the binary form of COPY. The protocol puts each row into a message of its own, so
/// no row is ever cut in two.
#[derive(Default)]
struct BinaryReader {
    begun: bool,
    ended: bool,
}

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

impl BinaryReader {
    fn read(
        &mut self,
        mut bytes: &[u8],
        each: &mut dyn FnMut(&str, i64) -> Result<(), String>,
    ) -> Result<Result<(), String>, Fault> {
        if !self.begun {
            bytes = after_header(bytes).ok_or_else(not_ours)?;
            self.begun = true;
        }
        while !bytes.is_empty() && !self.ended {
            let columns = i16::from_be_bytes(*take(&mut bytes).ok_or_else(not_ours)?);
            if columns == -1 {
                self.ended = true;
                break;
            }
            let (key, value) = row(&mut bytes).filter(|_| columns == 2).ok_or_else(not_ours)?;
            if let Err(reason) = each(key, value) {
                return Ok(Err(reason));
            }
        }
        Ok(Ok(()))
    }
}

fn not_ours() -> Fault {
    Fault::Refused("the table `counters` is not as incrementer makes it (key text, value bigint)".to_owned())
}

/// What follows the signature, the flags and the header's extension.
fn after_header(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.strip_prefix(SIGNATURE)?;
    take::<4>(&mut rest)?;
    let extension = usize::try_from(i32::from_be_bytes(*take(&mut rest)?)).ok()?;
    rest.get(extension..)
}

fn row<'b>(bytes: &mut &'b [u8]) -> Option<(&'b str, i64)> {
    let key_bytes = usize::try_from(i32::from_be_bytes(*take(bytes)?)).ok()?;
    let (key, rest) = bytes.split_at_checked(key_bytes)?;
    *bytes = rest;
    let value_bytes = i32::from_be_bytes(*take(bytes)?);
    let value = i64::from_be_bytes(*take(bytes)?);
    Some((std::str::from_utf8(key).ok().filter(|_| value_bytes == 8)?, value))
}

fn take<'b, const N: usize>(bytes: &mut &'b [u8]) -> Option<&'b [u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(head)
}
