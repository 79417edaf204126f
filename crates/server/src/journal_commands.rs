//! `incrementer journal inspect` and `verify`: what a journal holds, without changing it.
//!
//! Both read every record. A server may run meanwhile; then the newest records may be missing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use counter::{Decoder, Entry, Seq};
use journal::{DataDir, Identity, Kind, OpenError, RealDisk, Record, SegmentReport, TailEnd, read_all};
use serde_json::{Value, json};
use store::StoreUrl;

mod compare;

/// What was read of a journal.
#[derive(Default)]
struct Contents {
    identity: Option<Identity>,
    segments: Vec<SegmentReport>,
    /// The store's watermark, as far as the journal knows it.
    applied: Seq,
    pending: Pending,
    /// Why reading ended before the end.
    error: Option<OpenError>,
}

/// The records after the watermark.
#[derive(Default)]
struct Pending {
    records: u64,
    increments: u64,
    /// By idempotency key: whether the store counted them already, only the store knows.
    units: u64,
    sums: BTreeMap<String, i128>,
}

/// Prints every record of the journal in `data_dir`, then what is pending: for people, or as
/// NDJSON, a line for each record and one for the summary.
///
/// # Errors
/// Where there is none, or a part of it can't be read; what comes before that part is printed.
pub(crate) fn inspect(data_dir: &Path, json: bool) -> anyhow::Result<()> {
    let contents = read(data_dir)?;
    let disk = RealDisk::read_only(&DataDir::journal_path(data_dir));
    let mut out = BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    // Where reading ends early, `contents` has the reason.
    let _ = read_all(&disk, &mut |segment, offset, record| {
        if written.is_ok() {
            let line = if json {
                record_json(segment, offset, record)
            } else {
                record_text(segment, offset, record)
            };
            written = writeln!(out, "{line}");
        }
        Ok(())
    });
    let summary =
        if json { format!("{}\n", contents.to_json()) } else { contents.to_text().unwrap_or_default() };
    match written.and_then(|()| out.write_all(summary.as_bytes())).and_then(|()| out.flush()) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    contents.error.map_or(Ok(()), |error| Err(error.into()))
}

fn record_text(segment: &SegmentReport, offset: u64, record: &Record<'_>) -> String {
    let Record { seq, accepted_ms, applied, .. } = record;
    let file = &segment.file;
    let mut text = match record.kind {
        Kind::Mark => format!("seq {seq} in {file} at {offset}: a mark, the store has seq {applied}"),
        Kind::Increments | Kind::Unknown(_) => {
            format!("seq {seq} in {file} at {offset}, accepted {accepted_ms} ms after 1970:")
        }
    };
    for entry in Decoder::new(record.payload).flatten() {
        // A String takes everything.
        let _ = match entry {
            Entry::Increment { key, value } => write!(text, " {value:+} {key:?}"),
            Entry::Unit(unit) => write!(text, " (idempotency key {:?}, the next {})", unit.id, unit.count),
        };
    }
    text
}

fn record_json(segment: &SegmentReport, offset: u64, record: &Record<'_>) -> String {
    let mut increments = Vec::new();
    let (mut unit, mut owed) = (None, 0);
    for entry in Decoder::new(record.payload).flatten() {
        match entry {
            Entry::Unit(header) => (unit, owed) = (Some(header.id), header.count),
            Entry::Increment { key, value } if owed == 0 => {
                increments.push(json!({ "key": key, "value": value }));
            }
            Entry::Increment { key, value } => {
                increments.push(json!({ "key": key, "value": value, "idempotency_key": unit }));
                owed -= 1;
            }
        }
    }
    json!({
        "seq": record.seq.0,
        "kind": if record.kind == Kind::Mark { "mark" } else { "increments" },
        "file": segment.file,
        "offset": offset,
        "accepted_ms": record.accepted_ms,
        "applied_seq": record.applied.0,
        "increments": increments,
    })
    .to_string()
}

/// Checks every record of the journal in `data_dir`; where nothing was trimmed and no other
/// journal goes into the same table, also that it adds up to the table in `store`.
///
/// # Errors
/// The first damage, with its place; the first key that differs from the table.
pub(crate) fn verify(data_dir: &Path, store: &StoreUrl) -> anyhow::Result<()> {
    let contents = read(data_dir)?;
    if let Some(error) = contents.error {
        return Err(error.into());
    }
    let first = contents.segments.first().map_or(Seq(1), |segment| segment.header.first);
    let last = contents.segments.last().map_or(Seq(0), |segment| segment.last);
    let bytes: u64 = contents.segments.iter().map(|segment| segment.bytes).sum();
    let torn = contents.segments.iter().any(|segment| segment.end != TailEnd::Clean);
    let end = if torn {
        "; its last record was not written wholly, so it was never acknowledged (unless the disk damaged it \
        later, which can't be told from that), and the next start cuts it off"
    } else {
        ""
    };
    let segments = contents.segments.len();
    crate::print(&format!(
        "the journal is whole: {segments} segments, seq {first} to {last}, {bytes} bytes of records{end}\n"
    ))?;
    let compared = match contents.identity {
        Some(identity) if first == Seq(1) => compare::with_table(data_dir, identity.journal, store)?,
        Some(_) => "not compared with the table: what it has was trimmed from the journal".to_owned(),
        None => "not compared with the table: there is no journal yet".to_owned(),
    };
    crate::print(&format!("{compared}\n"))
}

fn read(data_dir: &Path) -> anyhow::Result<Contents> {
    let path = DataDir::journal_path(data_dir);
    if !path.is_dir() {
        let data_dir = data_dir.display();
        anyhow::bail!(
            "there is no journal in {data_dir}; name the data directory of a server with --data-dir"
        );
    }
    let disk = RealDisk::read_only(&path);
    let mut contents = Contents::default();
    // The first time for the watermark: the newest record knows it best.
    let applied = &mut contents.applied;
    let segments = &mut contents.segments;
    let outcome = read_all(&disk, &mut |segment, _, record| {
        // Not the highest: a store that forgot has less than before.
        *applied = record.applied;
        match segments.last_mut().filter(|known: &&mut SegmentReport| known.file == segment.file) {
            Some(known) => *known = after(segment, record),
            None => segments.push(after(segment, record)),
        }
        Ok(())
    });
    match outcome {
        Ok((identity, reports)) => {
            contents.identity = identity;
            if let Some(last) = reports.last().filter(|last| last.last < last.header.first) {
                contents.applied = last.header.applied;
            }
            contents.segments = reports;
        }
        Err(error) => contents.error = Some(error),
    }
    let Contents { applied, pending, .. } = &mut contents;
    // The same error ends it, if any: it was noted the first time.
    let _ = read_all(&disk, &mut |segment, offset, record| {
        pending.add(*applied, record).map_err(|what| OpenError::Damaged {
            file: segment.file.clone(),
            offset,
            what,
        })
    })
    .map_err(|error| contents.error.get_or_insert(error));
    Ok(contents)
}

/// The report of a segment with `record` read, which `segment` is without.
fn after(segment: &SegmentReport, record: &Record<'_>) -> SegmentReport {
    SegmentReport { last: record.seq, bytes: segment.bytes + record.bytes(), ..segment.clone() }
}

impl Pending {
    fn add(&mut self, applied: Seq, record: &Record<'_>) -> Result<(), String> {
        let is_pending = record.seq > applied && record.kind == Kind::Increments;
        self.records += u64::from(is_pending);
        for entry in Decoder::new(record.payload) {
            let entry = entry.map_err(|error| format!("record {}: {error}", record.seq))?;
            match entry {
                _ if !is_pending => {}
                Entry::Unit(_) => self.units += 1,
                Entry::Increment { key, value } => {
                    self.increments += 1;
                    match self.sums.get_mut(key) {
                        Some(sum) => *sum += i128::from(value),
                        None => drop(self.sums.insert(key.to_owned(), value.into())),
                    }
                }
            }
        }
        Ok(())
    }
}

impl Contents {
    fn to_text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        if let Some(identity) = &self.identity {
            let store = identity.store.map_or("none yet".to_owned(), |store| store.to_string());
            writeln!(text, "journal {}, store {store}", identity.journal)?;
        }
        for segment in &self.segments {
            let SegmentReport { file, last, bytes, end, .. } = segment;
            let first = segment.header.first;
            let seqs = if *last < first { "no record".to_owned() } else { format!("seq {first} to {last}") };
            write!(text, "{file}: {seqs}, {bytes} bytes of records")?;
            match end {
                TailEnd::Clean => writeln!(text)?,
                TailEnd::Torn { offset } => {
                    writeln!(text, ", then at offset {offset} one that was not written wholly")?;
                }
            }
        }
        let Pending { records, increments, units, sums } = &self.pending;
        writeln!(
            text,
            "the store has seq {} or more; pending after that, at most: {records} records, {increments} \
            increments ({units} requests with an idempotency key among them), {} keys",
            self.applied,
            sums.len()
        )?;
        for (key, sum) in sums {
            writeln!(text, "{sum:+} {key:?}")?;
        }
        Ok(text)
    }

    fn to_json(&self) -> Value {
        let segment = |segment: &SegmentReport| {
            let torn_at = match segment.end {
                TailEnd::Clean => None,
                TailEnd::Torn { offset } => Some(offset),
            };
            json!({
                "file": segment.file,
                "first_seq": segment.header.first.0,
                "last_seq": segment.last.0,
                "record_bytes": segment.bytes,
                "torn_at": torn_at,
            })
        };
        // A sum may be wider than what JSON readers take for a number.
        let number = |sum: i128| i64::try_from(sum).map_or_else(|_| json!(sum.to_string()), |sum| json!(sum));
        let sums = self.pending.sums.iter().map(|(key, sum)| json!({ "key": key, "value": number(*sum) }));
        json!({
            "journal": self.identity.as_ref().map(|identity| identity.journal.to_string()),
            "store": self.identity.as_ref().and_then(|identity| identity.store).map(|store| store.to_string()),
            "segments": self.segments.iter().map(segment).collect::<Vec<_>>(),
            "applied_seq": self.applied.0,
            "pending": {
                "records": self.pending.records,
                "increments": self.pending.increments,
                "requests_with_idempotency_key": self.pending.units,
                "sums": sums.collect::<Vec<_>>(),
            },
            "error": self.error.as_ref().map(ToString::to_string),
        })
    }
}

#[cfg(test)]
mod tests;
