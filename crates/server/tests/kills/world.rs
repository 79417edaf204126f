//! Two instances behind proxies, a database server, and clients: one cycle after the other.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use fastrand::Rng;
use store::testing::ThrowawayPostgres;

use crate::account::{Account, Found, Log, REFUSED, Tally};
use crate::clients::Clients;
use crate::faults::{self, Fault};
use crate::support::{Database, Home, PATIENCE, Proxy, Server, SmallDisk, until, within};

const INSTANCES: usize = 2;

/// A data directory, and the server that runs on it.
pub(crate) struct Instance {
    /// Before its home, so that its log is still there when it is dropped.
    pub(crate) server: Option<Server>,
    pub(crate) home: Home,
    /// Between it and the database.
    pub(crate) proxy: Proxy,
    /// Where its data lies, if this process may mount a small disk.
    pub(crate) disk: Option<SmallDisk>,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    seed: u64,
    pub(crate) postgres: ThrowawayPostgres,
    pub(crate) instances: Vec<Instance>,
    /// So many of the instances run in this cycle.
    pub(crate) active: usize,
    pub(crate) clients: Clients,
    /// How many of them there are.
    pub(crate) crowd: u64,
    account: Account,
    cycle: u64,
    /// What happened in this cycle, in order.
    pub(crate) story: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
    tally: Tally,
    lost_answers: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let postgres = ThrowawayPostgres::start_with(
            &["--encoding=UTF8", "--locale=C"],
            &["fsync=off", "full_page_writes=off", "deadlock_timeout=100ms"],
        );
        let instance = |number: usize| {
            let proxy = Proxy::before(&postgres);
            // One of them has little room, the other has as much as there is.
            let disk = if number == 0 { SmallDisk::new("4m") } else { None };
            let mut home = Home::new(Some(&proxy.url("totals")))
                .set("journal.segment_bytes", "64KiB")
                .set("flush.timeout", "500ms")
                .set("read.max_age", "50ms")
                // A start loads so many, and the table has all of them: a debug build would take minutes.
                .set("idempotency.max_ids", "20000");
            if let Some(disk) = &disk {
                home = home.set("data_dir", disk.path().join("data").to_str().unwrap());
            }
            Instance { home, server: None, proxy, disk }
        };
        let instances: Vec<_> = (0..INSTANCES).map(instance).collect();
        let mut world = Self {
            rng: Rng::with_seed(seed),
            seed,
            clients: Clients::start(0, "nobody", INSTANCES, 0, 0),
            crowd: 0,
            instances,
            active: INSTANCES,
            postgres,
            account: Account::default(),
            cycle: 0,
            story: Vec::new(),
            counts: BTreeMap::new(),
            tally: Tally::default(),
            lost_answers: 0,
        };
        world.start(0);
        world.ready(0);
        let refuse = format!("ALTER TABLE counters ADD CHECK (key <> '{REFUSED}')");
        Database::Postgres(&world.postgres, "totals").execute(&refuse);
        world
    }

    /// One cycle: clients at work, faults at moments that their progress tells, then peace, and a
    /// look at everything.
    pub(crate) fn cycle(&mut self) -> String {
        let began = Instant::now();
        self.cycle += 1;
        self.rng = Rng::with_seed(self.seed.wrapping_add(self.cycle.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        self.story.clear();
        self.active = self.rng.usize(1..=INSTANCES);
        let (once, plain) = self.rng.choice([(4, 2), (5, 0), (0, 4)]).unwrap();
        self.crowd = (once + plain) as u64;
        self.tell(&format!("{} instances, {once} + {plain} clients", self.active));
        let name = format!("{}-{}", self.seed, self.cycle);
        self.clients = Clients::start(self.rng.u64(..), &name, self.active, once, plain);
        for at in 0..INSTANCES {
            self.take_up(at);
        }
        for _ in 0..self.rng.usize(2..=4) {
            let more = self.rng.u64(1..150);
            self.progress(more);
            let fault = Fault::any(&mut self.rng, self.instances[0].disk.is_some());
            let at = Instant::now();
            faults::befall(self, fault);
            self.tell(&format!("({:.1} s)", at.elapsed().as_secs_f64()));
        }
        self.progress(20);
        let nobody = Clients::start(0, "nobody", INSTANCES, 0, 0);
        let logs = std::mem::replace(&mut self.clients, nobody).stop();
        self.compare(&logs);
        let tally = Tally::of(&logs);
        self.tally.add(&tally);
        format!(
            "cycle {}: {}; {} requests, sent {} times, {} acknowledged ({} as replays), {} refused, {} unanswered; \
             {:.1} s",
            self.cycle,
            self.told(),
            tally.requests,
            tally.sent,
            tally.acknowledged,
            tally.replayed,
            tally.refused,
            tally.unanswered,
            began.elapsed().as_secs_f64()
        )
    }

    /// At the beginning of a cycle: an instance that takes part is there, another is not.
    fn take_up(&mut self, at: usize) {
        if at >= self.active {
            if let Some(server) = self.instances[at].server.take() {
                server.stop();
            }
            return;
        }
        match self.instances[at].server.take() {
            // Now with other settings; nothing is pending.
            Some(server) if self.rng.bool() => server.kill(),
            Some(server) if self.rng.bool() => server.stop(),
            running => self.instances[at].server = running,
        }
        if self.instances[at].server.is_none() {
            self.start(at);
        }
        self.ready(at);
        self.open(at);
    }

    /// Starts an instance, with settings of the moment.
    pub(crate) fn start(&mut self, at: usize) {
        // Now nearly all is flushed when something happens, now much is pending.
        let (interval, updates) =
            self.rng.choice([("1ms", "10000"), ("20ms", "300"), ("200ms", "10000")]).unwrap();
        let settings = ["--flush-interval", interval, "--flush-max-updates", updates];
        let home = &self.instances[at].home;
        let server = home.launch_with(home.command(&[&["serve"][..], &settings].concat()));
        self.instances[at].server = Some(server);
    }

    pub(crate) fn open(&self, at: usize) {
        self.clients.open(at, self.instances[at].server.as_ref().map(Server::address));
    }

    pub(crate) fn ready(&mut self, at: usize) {
        if let Some(server) = &mut self.instances[at].server {
            server.wait_until_ready();
        }
    }

    pub(crate) fn server(&self, at: usize) -> &Server {
        self.instances[at].server.as_ref().expect("it runs")
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, at: usize) {
        self.clients.open(at, None);
        self.instances[at].server.take().expect("it runs").kill();
        self.count("kill -9 of the server");
    }

    /// One of the instances that run.
    pub(crate) fn any_instance(&mut self) -> usize {
        self.rng.usize(..self.active)
    }

    /// Waits until so many more requests have been acknowledged.
    pub(crate) fn progress(&self, more: u64) {
        let enough = self.clients.acknowledged() + more;
        self.wait_until("more requests are acknowledged", || self.clients.acknowledged() >= enough);
    }

    /// Waits for something that clients or servers bring about.
    pub(crate) fn wait_until(&self, what: &str, done: impl Fn() -> bool) {
        let look = || {
            self.clients.check();
            self.instances
                .iter()
                .filter_map(|instance| instance.server.as_ref())
                .for_each(Server::assert_runs);
            done().then_some(())
        };
        within(PATIENCE, look).unwrap_or_else(|| panic!("waited in vain until {what}"));
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn tell(&mut self, what: &str) {
        self.story.push(what.to_owned());
    }

    /// Everything has come to rest: the tables are what the clients wrote down, and so is memory.
    fn compare(&mut self, logs: &[Log]) {
        for at in 0..self.active {
            self.instances[at].proxy.let_pass();
            let server = self.server(at);
            until("all is flushed", || {
                server.assert_runs();
                (server.metric("incrementer_pending_updates") == 0.0).then_some(())
            });
        }
        let database = Database::Postgres(&self.postgres, "totals");
        let aside = database.set_aside().into_iter();
        let found = Found {
            totals: database.totals(),
            aside: aside.map(|(key, value, _)| (key, value.parse().unwrap())).collect(),
            ids: database.rows("SELECT count(*) FROM idempotency_keys")[0].parse().unwrap(),
        };
        if let Err(wrong) = self.account.settle(logs, &found) {
            panic!("the tables are not what the clients wrote down:\n{wrong}");
        }
        let totals: Vec<_> = found.totals.into_iter().collect();
        for at in 0..self.active {
            until("the store can be read again", || {
                (self.server(at).get("/counters?limit=1").status == 200).then_some(())
            });
            // What only the other one has counted may be as old as read.max_age.
            let agrees =
                within(Duration::from_secs(10), || (self.server(at).pages(1000) == totals).then_some(()));
            assert!(agrees.is_some(), "the pages of instance {at} are not what the table holds");
            assert_eq!(self.server(at).total(REFUSED), None);
            for _ in 0..20 {
                let (key, total) = self.rng.choice(&totals).unwrap();
                assert_eq!(self.server(at).total(key), Some(*total), "{key} at instance {at}");
            }
        }
        let log = self.postgres.log();
        assert!(!log.contains("deadlock"), "{log}");
    }

    /// Stops all, and sums up.
    pub(crate) fn end(&mut self) -> String {
        let mut text = format!("{} cycles with seed {}\n", self.cycle, self.seed);
        for instance in &mut self.instances {
            self.lost_answers += instance.proxy.lost();
            if let Some(server) = instance.server.take() {
                server.stop();
            }
        }
        for (what, count) in &self.counts {
            let _ = writeln!(text, "  {count:6} × {what}");
        }
        let Tally { requests, sent, acknowledged, replayed, refused, unanswered, retries } = self.tally;
        let _ = writeln!(
            text,
            "  {requests} requests, sent {sent} times, {retries} of them again; {acknowledged} acknowledged, \
             {replayed} of them as replays; {refused} refused with 429 or 503; {unanswered} without an answer; \
             {} answers to commits lost",
            self.lost_answers
        );
        text + "  verdict: the tables and memory are what the clients wrote down, to the last digit\n"
    }

    /// For a failure.
    pub(crate) fn so_far(&self) -> String {
        let (cycle, seed) = (self.cycle, self.seed);
        format!("in cycle {cycle} of the run with seed {seed}, after: {}", self.told())
    }

    fn told(&self) -> String {
        self.story.join(", ").replace(", (", " (")
    }
}
