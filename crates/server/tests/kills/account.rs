//! What clients wrote down, and what the tables must hold by it.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use crate::support::Totals;

/// The database has a constraint against this key, so that it is set aside.
pub(crate) const REFUSED: &str = "refused";

/// All clients change this one again and again.
pub(crate) const HOT: &str = "hot";

/// One request that a client wants counted.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    /// Its idempotency key; without one it is sent until it is on its way, and never again.
    pub(crate) id: Option<String>,
    /// Never empty; where there is no id, the first key is this client's own.
    pub(crate) entries: Vec<(String, i64)>,
}

/// What befell a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Note {
    /// On its way to the instance of that number.
    Sent(usize),
    /// 200 or 202.
    Acknowledged { replayed: bool },
    /// 429 or 503: nothing of it has been counted.
    Refused(u16),
    /// The connection broke, or the client gave up: counted or not.
    Unanswered,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(to) => write!(f, "sent to instance {to}"),
            Self::Acknowledged { replayed: false } => f.write_str("acknowledged"),
            Self::Acknowledged { replayed: true } => f.write_str("acknowledged as a replay"),
            Self::Refused(status) => write!(f, "refused with {status}"),
            Self::Unanswered => f.write_str("got no answer"),
        }
    }
}

/// What one client did, in order. It only ever grows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(crate) ops: Vec<Op>,
    pub(crate) notes: Vec<(usize, Note)>,
}

impl Log {
    /// Writes down a new request; its number.
    pub(crate) fn open(&mut self, op: Op) -> usize {
        self.ops.push(op);
        self.ops.len() - 1
    }

    pub(crate) fn note(&mut self, op: usize, note: Note) {
        self.notes.push((op, note));
    }

    /// For each request whether it was acknowledged, and whether some attempt got no answer.
    fn outcomes(&self) -> Vec<(bool, bool)> {
        let mut outcomes = vec![(false, false); self.ops.len()];
        for &(op, note) in &self.notes {
            match note {
                Note::Acknowledged { .. } => outcomes[op].0 = true,
                Note::Unanswered => outcomes[op].1 = true,
                Note::Sent(_) | Note::Refused(_) => {}
            }
        }
        outcomes
    }
}

/// How much of what there was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) replayed: u64,
    pub(crate) refused: u64,
    pub(crate) unanswered: u64,
    /// Attempts after the first one of a request.
    pub(crate) retries: u64,
}

impl Tally {
    pub(crate) fn of(logs: &[Log]) -> Self {
        let mut tally = Self::default();
        for log in logs {
            let mut sent = vec![0_u64; log.ops.len()];
            for &(op, note) in &log.notes {
                match note {
                    Note::Sent(_) => sent[op] += 1,
                    Note::Acknowledged { replayed } => {
                        tally.acknowledged += 1;
                        tally.replayed += u64::from(replayed);
                    }
                    Note::Refused(_) => tally.refused += 1,
                    Note::Unanswered => tally.unanswered += 1,
                }
            }
            tally.requests += sent.iter().filter(|times| **times > 0).count() as u64;
            tally.sent += sent.iter().sum::<u64>();
            tally.retries += sent.iter().map(|times| times.saturating_sub(1)).sum::<u64>();
        }
        tally
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.replayed += other.replayed;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        self.retries += other.retries;
    }
}

/// What was found in the database.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) totals: Totals,
    /// Key and value.
    pub(crate) aside: Vec<(String, i64)>,
    /// How many idempotency keys.
    pub(crate) ids: u64,
}

/// What must be in the database.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    totals: BTreeMap<String, i64>,
    ids: u64,
}

impl Account {
    /// Adds what these clients did. Of a request without an idempotency key that got no answer
    /// only the database can tell whether it counted: its first key tells, which no other open
    /// request has touched, and then all of its entries have to agree with it.
    ///
    /// # Errors
    /// What is wrong, and what was written down about it.
    pub(crate) fn settle(&mut self, logs: &[Log], found: &Found) -> Result<(), String> {
        let mut open = Vec::new();
        for log in logs {
            for (op, (acknowledged, unanswered)) in log.ops.iter().zip(log.outcomes()) {
                if acknowledged {
                    self.count(op);
                } else if op.id.is_some() {
                    return Err(format!("a client ended without an answer to {op:?}"));
                } else if unanswered {
                    open.push(op);
                }
            }
        }
        for op in open {
            let key = &op.entries[0].0;
            let value: i64 = op.entries.iter().filter(|(own, _)| own == key).map(|(_, value)| value).sum();
            let with = self.totals.get(key).copied().unwrap_or_default() + value;
            if found.totals.get(key) == Some(&with) {
                self.count(op);
            }
        }
        self.compare(logs, found)
    }

    fn count(&mut self, op: &Op) {
        for (key, value) in &op.entries {
            *self.totals.entry(key.clone()).or_default() += value;
        }
        self.ids += u64::from(op.id.is_some());
    }

    fn compare(&self, logs: &[Log], found: &Found) -> Result<(), String> {
        let mut wrong = String::new();
        let mut keys: Vec<&String> = self.totals.keys().chain(found.totals.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys.into_iter().filter(|key| *key != REFUSED) {
            let (expected, is) = (self.totals.get(key), found.totals.get(key));
            if expected != is {
                let _ = writeln!(wrong, "{key}: {expected:?} by the log, {is:?} in the table");
                tell(&mut wrong, logs, key);
            }
        }
        let aside: i64 = found.aside.iter().map(|(_, value)| value).sum();
        let expected = self.totals.get(REFUSED).copied().unwrap_or_default();
        let strange = found.aside.iter().any(|(key, _)| key != REFUSED);
        if aside != expected || strange || found.totals.contains_key(REFUSED) {
            let _ =
                writeln!(wrong, "set aside: {expected} by the log, {aside} in the table, others {strange}");
            tell(&mut wrong, logs, REFUSED);
        }
        if self.ids != found.ids {
            let _ = writeln!(wrong, "idempotency keys: {} by the log, {} in the table", self.ids, found.ids);
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

/// The last that was written down about a key.
fn tell(text: &mut String, logs: &[Log], key: &str) {
    const LINES: usize = 40;
    for (client, log) in logs.iter().enumerate() {
        let about = |op: &Op| op.entries.iter().any(|(known, _)| known == key);
        let lines: Vec<_> = log.notes.iter().filter(|(op, _)| about(&log.ops[*op])).collect();
        for (op, note) in &lines[lines.len().saturating_sub(LINES)..] {
            let _ = writeln!(text, "  client {client}: {note}: {:?}", log.ops[*op]);
        }
    }
}

/// A harness that can't fail proves nothing.
#[test]
fn the_account_finds_what_is_lost_doubled_or_halved() {
    let op = |id: Option<&str>, entries: &[(&str, i64)]| Op {
        id: id.map(str::to_owned),
        entries: entries.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect(),
    };
    let mut log = Log::default();
    for (op, note) in [
        (op(Some("i"), &[("a", 2), (REFUSED, 3)]), Note::Acknowledged { replayed: true }),
        (op(None, &[("mine", 4), ("a", 1), ("mine", 1)]), Note::Unanswered),
        (op(None, &[("never", 5)]), Note::Refused(503)),
    ] {
        let number = log.open(op);
        log.note(number, Note::Sent(0));
        log.note(number, note);
    }
    let check = |totals: &[(&str, i64)], aside: &[i64], ids: u64| {
        let totals = totals.iter().map(|(key, total)| ((*key).to_owned(), *total)).collect();
        let aside = aside.iter().map(|value| (REFUSED.to_owned(), *value)).collect();
        Account::default().settle(std::slice::from_ref(&log), &Found { totals, aside, ids }).is_ok()
    };
    assert!(check(&[("a", 2)], &[3], 1), "the open one was not counted");
    assert!(check(&[("a", 3), ("mine", 5)], &[1, 2], 1), "the open one was counted");
    assert!(!check(&[("a", 2), ("mine", 5)], &[3], 1), "half of the open one was counted");
    assert!(!check(&[("a", 3)], &[3], 1), "the other half");
    assert!(!check(&[("a", 4)], &[3], 1), "twice");
    assert!(!check(&[], &[3], 1), "lost");
    assert!(!check(&[("a", 2)], &[3, 3], 1), "twice set aside");
    assert!(!check(&[("a", 2)], &[], 1), "not set aside");
    assert!(!check(&[("a", 2)], &[3], 2), "an id too many");
    assert!(!check(&[("a", 2), ("never", 5)], &[3], 1), "refused and counted");
}
