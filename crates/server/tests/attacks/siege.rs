//! A server with honest clients on it, while something else is done to it.

use std::fs;

use crate::support::{Database, Home, Load, Server, Totals};

const MIB: u64 = 1 << 20;

/// What one connection may take that sends little: hyper's buffers to read into and to write from
/// begin with 8 KiB each, and its task, its entries in tables and what the allocator rounds up
/// fit into as much again.
pub(crate) const CONNECTION: u64 = 24 << 10;
/// What its buffer to read into may grow by while a head or a body comes in: it ends at 64 KiB, and
/// a head of 16 KiB may stand before what is read.
pub(crate) const READ: u64 = 64 << 10;
/// What the server may take more for its honest clients than it took when they had only begun:
/// the journal's record buffer and the clients' bodies (under 1 MiB), two caches of SQLite (2 MiB
/// each), a batch, and up to 1 MiB of pages that mimalloc keeps for each of a dozen threads.
const HONEST: u64 = 20 * MIB;

/// So many keys the honest count.
pub(crate) const HONEST_KEYS: usize = 200;
/// So many answers to honest clients show that they get on.
const PROGRESS: u64 = 200;

/// A server, and honest clients that count.
pub(crate) struct Siege {
    what: &'static str,
    /// Dropped first: it shows its log, which lies in the home.
    pub(crate) server: Server,
    home: Home,
    load: Load,
    begun_at: u64,
}

impl Siege {
    /// Starts the server, lets its clients get on, and takes the measure of its memory.
    pub(crate) fn begin(what: &'static str, home: Home) -> Self {
        let server = home.start();
        // All of them are there from the start: an attack can't keep a new one out.
        let keys: Vec<_> = (0..HONEST_KEYS).map(|number| format!("key-{number}")).collect();
        server.client().increments(keys.iter().map(|key| (key.as_str(), 0))).unwrap().expect(202);
        let load = Load::start(crate::support::seed(), 4, HONEST_KEYS);
        load.open(&server);
        load.wait_for(&server, 2 * PROGRESS);
        let begun_at = memory(&server, "VmRSS");
        // From here on the peak is that of the attack.
        let clear = format!("/proc/{}/clear_refs", server.pid().as_raw_nonzero());
        fs::write(clear, "5").unwrap();
        Self { what, server, home, load, begun_at }
    }

    /// The honest clients get on.
    pub(crate) fn honest_get_on(&self) {
        self.load.wait_for(&self.server, PROGRESS);
    }

    /// Ends it: the honest were all answered by 202, memory never passed what it had in the
    /// beginning and `allowed` bytes, and the table holds what the honest were promised and
    /// `others`, the totals that the attack itself was promised.
    pub(crate) fn end(self, allowed: u64, others: &[(&str, i64)]) {
        let honest = self.load.accepted();
        let ledger = self.load.stop();
        let refused: Vec<_> = ledger.statuses.keys().filter(|status| **status != 202).collect();
        assert!(refused.is_empty(), "honest clients got {:?}", ledger.statuses);
        assert!(ledger.unanswered.is_empty(), "honest clients got no answer: {:?}", ledger.unanswered);
        let (peak, bound) = (memory(&self.server, "VmHWM"), self.begun_at + HONEST + allowed);
        println!(
            "{}: {} MiB before, {} MiB at the peak, {} MiB allowed; {honest} honest answers, all 202",
            self.what,
            self.begun_at / MIB,
            peak / MIB,
            bound / MIB
        );
        assert!(peak <= bound, "{peak} bytes are more than the {bound} that are allowed");
        self.server.stop();
        let mut expected: Totals = (0..HONEST_KEYS).map(|number| (format!("key-{number}"), 0)).collect();
        expected.extend(ledger.acknowledged);
        for (key, total) in others {
            *expected.entry((*key).to_owned()).or_default() += total;
        }
        let store = Database::sqlite(self.home.sqlite());
        let found = store.totals();
        let wrong: Vec<_> = expected.iter().filter(|(key, total)| found.get(*key) != Some(*total)).collect();
        assert!(wrong.is_empty(), "these should be in the table: {:?}", &wrong[..wrong.len().min(10)]);
        let strangers: Vec<_> = found.keys().filter(|key| !expected.contains_key(*key)).take(10).collect();
        assert!(strangers.is_empty(), "nobody was promised {strangers:?}");
        assert_eq!(store.set_aside(), []);
    }
}

/// In bytes, of the process.
pub(crate) fn memory(server: &Server, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).unwrap();
    kib.trim().parse::<u64>().unwrap() << 10
}
