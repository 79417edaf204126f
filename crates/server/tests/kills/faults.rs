//! What befalls servers, database and the line between them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};

use crate::account::HOT;
use crate::support::{Cut, until};
use crate::world::World;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Kill,
    /// The next start is killed as well, before it is ready.
    KillTwice,
    Terminate,
    StopPostgres,
    FreezeServer,
    FreezeBackends,
    FreezePostgres,
    /// The server's time is up while the backend of its flush waits for a lock; then it goes on.
    OldBackendWaits,
    /// The same, and it is the connection that ends.
    OldBackendIsCutOff,
    /// The same, and the backend is frozen with what it holds.
    OldBackendFreezes,
    LoseAnswer,
    SwallowAnswer,
    CutRequest,
    CutAnswer,
    FillDisk,
}

const ALL: &[Fault] = &[
    Fault::Kill,
    Fault::KillTwice,
    Fault::Terminate,
    Fault::StopPostgres,
    Fault::FreezeServer,
    Fault::FreezeBackends,
    Fault::FreezePostgres,
    Fault::OldBackendWaits,
    Fault::OldBackendIsCutOff,
    Fault::OldBackendFreezes,
    Fault::LoseAnswer,
    Fault::SwallowAnswer,
    Fault::CutRequest,
    Fault::CutAnswer,
    Fault::FillDisk,
];

impl Fault {
    pub(crate) fn any(rng: &mut Rng, with_disk: bool) -> Self {
        loop {
            let fault = rng.choice(ALL).copied().unwrap_or(Self::Kill);
            if with_disk || !matches!(fault, Self::FillDisk) {
                return fault;
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "the server is killed",
            Self::KillTwice => "the server is killed, and killed again while it starts",
            Self::Terminate => "the server is told to stop under load",
            Self::StopPostgres => "immediate stop of PostgreSQL",
            Self::FreezeServer => "the server is frozen",
            Self::FreezeBackends => "the backends are frozen",
            Self::FreezePostgres => "all of PostgreSQL is frozen",
            Self::OldBackendWaits => "a flush is given up while its backend waits for a lock",
            Self::OldBackendIsCutOff => "the connection is cut while its backend waits for a lock",
            Self::OldBackendFreezes => "a flush is given up while its backend is frozen in the middle",
            Self::LoseAnswer => "the connection is cut before the answer to COMMIT",
            Self::SwallowAnswer => "the answer to COMMIT never comes",
            Self::CutRequest => "the connection is cut at a byte of the server's",
            Self::CutAnswer => "the connection is cut at a byte of the database's",
            Self::FillDisk => "the disk is full",
        }
    }
}

/// Lets it happen, and brings everything back.
pub(crate) fn befall(world: &mut World, fault: Fault) {
    world.tell(&format!("{fault:?}"));
    world.count(fault.name());
    let at = world.any_instance();
    match fault {
        Fault::Kill | Fault::KillTwice => {
            world.kill(at);
            if matches!(fault, Fault::KillTwice) {
                world.start(at);
                world.kill(at);
            }
            world.start(at);
            world.open(at);
            world.ready(at);
        }
        Fault::Terminate => {
            let server = world.instances[at].server.take().unwrap();
            server.stop();
            world.start(at);
            world.open(at);
            world.ready(at);
        }
        Fault::StopPostgres => {
            let before = failures(world, at);
            world.postgres.stop_immediate();
            go_on_without_store(world, at, before, |_| ());
            world.postgres.start_again();
            world.ready(at);
        }
        Fault::FreezeServer => freeze_server(world, at),
        Fault::FreezeBackends => {
            let before = failures(world, at);
            freeze_backends(world);
            // One that was about to be connected to has yet to be met.
            go_on_without_store(world, at, before, freeze_backends);
            signal(&backends(world, OURS), Signal::CONT);
            world.ready(at);
        }
        Fault::FreezePostgres => {
            let before = failures(world, at);
            world.postgres.sigstop();
            go_on_without_store(world, at, before, |_| ());
            world.postgres.sigcont();
            world.ready(at);
        }
        Fault::OldBackendWaits | Fault::OldBackendIsCutOff | Fault::OldBackendFreezes => {
            old_backend(world, fault, at);
        }
        Fault::LoseAnswer => cut(world, at, Cut::BeforeAnswerToCommit),
        Fault::SwallowAnswer => cut(world, at, Cut::SilenceFromCommit),
        Fault::CutRequest => {
            let bytes = world.rng.u64(..6000);
            cut(world, at, Cut::AfterRequestBytes(bytes));
        }
        Fault::CutAnswer => {
            let bytes = world.rng.u64(..6000);
            cut(world, at, Cut::AfterAnswerBytes(bytes));
        }
        Fault::FillDisk => fill_disk(world),
    }
}

/// What befalls a server while it can't reach its store: some more requests, a flush that it gives
/// up (it had given up `before` when that began; `again` sees to it that it does), its own death.
fn go_on_without_store(world: &mut World, at: usize, before: f64, again: impl Fn(&World)) {
    let more = world.rng.u64(1..100);
    world.progress(more);
    match world.rng.u8(..4) {
        0 => {
            world.wait_until("a flush is given up", || {
                again(world);
                failures(world, at) > before
            });
        }
        // It has to wait for its store, and may meet what its predecessor had under way.
        1 => {
            world.tell("and the server is killed");
            world.kill(at);
            world.start(at);
            world.open(at);
        }
        _ => {}
    }
}

fn freeze_backends(world: &World) {
    signal(&backends(world, OURS), Signal::STOP);
}

fn failures(world: &World, at: usize) -> f64 {
    world.server(at).metric("incrementer_flush_failures_total")
}

fn all_failures(world: &World) -> f64 {
    (0..world.active).map(|at| failures(world, at)).sum()
}

fn freeze_server(world: &mut World, at: usize) {
    world.server(at).signal(Signal::STOP);
    if world.active > 1 {
        let other = 1 - at;
        let enough = world.clients.acknowledged_by(other) + world.rng.u64(1..100);
        // Once all of them wait for the frozen one, nobody goes on.
        world.wait_until("the other one goes on", || {
            world.clients.acknowledged_by(other) >= enough || world.clients.waiting_for(at) == world.crowd
        });
    } else {
        world.wait_until("every client waits", || world.clients.waiting_for(at) == world.crowd);
    }
    world.server(at).signal(Signal::CONT);
}

fn cut(world: &mut World, at: usize, how: Cut) {
    let before = failures(world, at);
    world.instances[at].proxy.cut(how);
    world.wait_until("the connection has been cut", || world.instances[at].proxy.has_cut());
    if matches!(how, Cut::SilenceFromCommit) && world.rng.bool() {
        world.wait_until("a flush is given up", || failures(world, at) > before);
    }
}

fn fill_disk(world: &mut World) {
    // What nobody flushes fills the journal.
    world.postgres.stop_immediate();
    let filler = world.instances[0].disk.as_ref().unwrap().fill();
    let refused = world.clients.no_room();
    world.wait_until("the disk is full", || world.clients.no_room() > refused);
    let killed = world.rng.bool();
    if killed {
        world.tell("and the server is killed");
        world.kill(0);
    }
    std::fs::remove_file(filler).unwrap();
    if killed {
        world.start(0);
        world.open(0);
    }
    world.postgres.start_again();
    world.ready(0);
}

/// Process ids of backends.
fn backends(world: &World, which: &str) -> Vec<Pid> {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND {which}");
    let rows = world.postgres.sql("postgres", &sql);
    rows.lines().filter_map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

fn signal(processes: &[Pid], signal: Signal) {
    for process in processes {
        // It may have ended.
        let _ = kill_process(*process, signal);
    }
}

const OURS: &str = "application_name = 'incrementer'";
const WAITS: &str = "application_name = 'incrementer' AND wait_event_type = 'Lock'";

/// Somebody holds a lock, so that the backend of a flush waits in the middle of its transaction.
/// The server gives it up, and meets it again with its retry.
fn old_backend(world: &mut World, fault: Fault, at: usize) {
    // A row is waited for with the journal's row in hand, so that a retry has to wait behind it;
    // the table is waited for before that, so that a retry overtakes.
    let hot = format!("SELECT count(*) FROM counters WHERE key = '{HOT}'");
    let rows = world.rng.bool() && world.postgres.sql("totals", &hot) == "1";
    // From here on: a flush that meets the lock may be given up before anybody looks.
    let before = all_failures(world);
    let lock = Lock::take(world, rows);
    until("a backend waits for the lock", || {
        world.clients.check();
        (!backends(world, WAITS).is_empty()).then_some(())
    });
    let waiting = backends(world, WAITS);
    match fault {
        Fault::OldBackendIsCutOff => world.instances.iter().for_each(|instance| instance.proxy.cut_all()),
        Fault::OldBackendFreezes => {
            signal(&waiting, Signal::STOP);
            // Which it has got by now, and doesn't know.
            lock.release();
            give_up(world, at, before, rows);
            signal(&waiting, Signal::CONT);
            world.ready(at);
            return;
        }
        _ => {}
    }
    give_up(world, at, before, rows);
    lock.release();
    world.ready(at);
}

/// The flush ends without an answer.
fn give_up(world: &mut World, at: usize, before: f64, rows: bool) {
    world.wait_until("a flush is given up", || all_failures(world) > before);
    // With two instances it may be the other one that waits behind the old backend.
    if rows && world.active == 1 && world.rng.bool() {
        until("its retry waits behind the old backend", || {
            world.clients.check();
            (backends(world, WAITS).len() > 1).then_some(())
        });
        world.count("a retry waits behind the old backend of its own batch");
    }
    if world.rng.u8(..3) == 0 {
        world.tell("and the server is killed");
        world.kill(at);
        world.start(at);
        world.open(at);
    }
}

/// A lock on the table of counters, or on the row that all clients change, held by a session of its own.
struct Lock {
    psql: Child,
}

impl Lock {
    fn take(world: &World, rows: bool) -> Self {
        let mut psql = world.postgres.psql("totals");
        let mut psql = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lock = if rows {
            &format!("DO $$ BEGIN PERFORM FROM counters WHERE key = '{HOT}' FOR UPDATE; END $$")
        } else {
            "LOCK TABLE counters IN EXCLUSIVE MODE"
        };
        let lock = format!("BEGIN; {lock}; SELECT 'held';\n");
        psql.stdin.as_mut().unwrap().write_all(lock.as_bytes()).unwrap();
        let mut held = String::new();
        BufReader::new(psql.stdout.as_mut().unwrap()).read_line(&mut held).unwrap();
        assert_eq!(held, "held\n");
        Self { psql }
    }

    /// Ends the session, and with it the lock.
    fn release(mut self) {
        drop(self.psql.stdin.take());
        self.psql.wait().unwrap();
    }
}
