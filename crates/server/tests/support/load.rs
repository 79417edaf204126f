//! Clients that keep a server busy, and keep account of what it answered.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Client, Server, Totals, until};

/// What was sent and what came back, by key. All values are above 0.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub acknowledged: HashMap<String, i64>,
    /// Sent, and the connection broke before the answer came: counted or not.
    pub unanswered: HashMap<String, i64>,
    /// How many answers had which status.
    pub statuses: BTreeMap<u16, u64>,
}

impl Ledger {
    fn count(&mut self, answer: &std::io::Result<super::Answer>, entries: &[(String, i64)]) {
        let side = match answer {
            Ok(answer) => {
                *self.statuses.entry(answer.status).or_default() += 1;
                if answer.status != 202 {
                    return;
                }
                &mut self.acknowledged
            }
            Err(_) => &mut self.unanswered,
        };
        for (key, value) in entries {
            *side.entry(key.clone()).or_default() += value;
        }
    }

    pub fn add(&mut self, other: &Self) {
        for (key, value) in &other.acknowledged {
            *self.acknowledged.entry(key.clone()).or_default() += value;
        }
        for (key, value) in &other.unanswered {
            *self.unanswered.entry(key.clone()).or_default() += value;
        }
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
    }

    /// How many answers were 202.
    pub fn accepted(&self) -> u64 {
        self.statuses.get(&202).copied().unwrap_or_default()
    }

    /// For each key: acknowledged ≤ total ≤ acknowledged + unanswered, and no key but these.
    #[track_caller]
    pub fn check(&self, totals: &Totals) {
        let mut wrong = Vec::new();
        for (key, &least) in &self.acknowledged {
            let most = least + self.unanswered.get(key).copied().unwrap_or_default();
            let total = totals.get(key).copied().unwrap_or_default();
            if !(least..=most).contains(&total) {
                wrong.push(format!("{key}: {least} ≤ {total} ≤ {most}"));
            }
        }
        for (key, &total) in totals {
            let most = self.unanswered.get(key).copied().unwrap_or_default();
            if !self.acknowledged.contains_key(key) && total > most {
                wrong.push(format!("{key}: 0 ≤ {total} ≤ {most}"));
            }
        }
        wrong.sort();
        let shown = &wrong[..wrong.len().min(10)];
        assert!(wrong.is_empty(), "{} of {} keys are wrong: {shown:#?}", wrong.len(), totals.len());
    }
}

/// Clients at work. Where the server is told by [`open`](Self::open), and again after each of
/// its starts.
pub struct Load {
    state: Arc<State>,
    clients: Vec<JoinHandle<Ledger>>,
}

#[derive(Default)]
struct State {
    /// What is counted; empty for keys that are made up.
    names: Vec<String>,
    door: Mutex<Option<SocketAddr>>,
    stop: AtomicBool,
    accepted: AtomicU64,
}

impl Load {
    /// Clients that send one increment or many at once, pipelined or not, to some of `keys` keys
    /// far more often than to others.
    pub fn start(seed: u64, clients: usize, keys: usize) -> Self {
        Self::start_as(State::default(), seed, clients, keys)
    }

    /// The same with these keys: one that is in `names` twice is sent twice as often.
    pub fn with_names(seed: u64, clients: usize, names: Vec<String>) -> Self {
        let keys = names.len();
        Self::start_as(State { names, ..State::default() }, seed, clients, keys)
    }

    fn start_as(state: State, seed: u64, clients: usize, keys: usize) -> Self {
        let state = Arc::new(state);
        let start = |number| {
            let state = Arc::clone(&state);
            let rng = fastrand::Rng::with_seed(seed ^ (number as u64) << 32);
            std::thread::spawn(move || state.send_on_and_on(rng, keys))
        };
        Self { clients: (0..clients).map(start).collect(), state }
    }

    /// Besides, clients each of whose increments has an `Idempotency-Key` and is sent again until
    /// it is acknowledged; some answers are not waited for.
    pub fn with_retries(mut self, seed: u64, clients: usize, keys: usize) -> Self {
        for number in 0..clients {
            let state = Arc::clone(&self.state);
            let rng = fastrand::Rng::with_seed(!seed ^ (number as u64) << 32);
            let name = format!("{seed}-{number}");
            self.clients.push(std::thread::spawn(move || state.send_until_acknowledged(rng, &name, keys)));
        }
        self
    }

    /// From now on they send to this server.
    pub fn open(&self, server: &Server) {
        *self.state.door.lock().unwrap() = Some(server.address());
    }

    /// How many requests have been answered by 202 so far.
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(Relaxed)
    }

    /// Waits until so many more have been; this server must run all the while.
    pub fn wait_for(&self, server: &Server, more: u64) {
        let enough = self.accepted() + more;
        until("the server has answered more requests by 202", || {
            server.assert_runs();
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a client has ended");
            (self.accepted() >= enough).then_some(())
        });
    }

    /// Ends the clients when each has its last answer.
    pub fn stop(self) -> Ledger {
        self.state.stop.store(true, Relaxed);
        let mut ledger = Ledger::default();
        for client in self.clients {
            ledger.add(&client.join().unwrap());
        }
        ledger
    }
}

impl State {
    /// A new connection; `None` when it is time to stop.
    fn connect(&self) -> Option<Client> {
        while !self.stop.load(Relaxed) {
            let door = *self.door.lock().unwrap();
            if let Some(client) = door.and_then(|address| Client::connect(address).ok()) {
                return Some(client);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        None
    }

    fn answered(&self, answer: &std::io::Result<super::Answer>) -> bool {
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        if status == 202 {
            self.accepted.fetch_add(1, Relaxed);
        } else {
            // Refused or broken off: not at once again.
            std::thread::sleep(Duration::from_millis(2));
        }
        status != 0
    }

    fn send_on_and_on(&self, mut rng: fastrand::Rng, keys: usize) -> Ledger {
        let mut ledger = Ledger::default();
        while let Some(mut client) = self.connect() {
            let mut alive = true;
            while alive && !self.stop.load(Relaxed) {
                let mut entries = Vec::new();
                for _ in 0..rng.usize(1..24) {
                    let key = rng.choice(&self.names).cloned();
                    entries.push((key.unwrap_or_else(|| some_key(&mut rng, keys)), rng.i64(1..1000)));
                }
                let all = entries.iter().map(|(key, value)| (key.as_str(), *value));
                match rng.u8(..6) {
                    0 => {
                        let answer = client.increments(all);
                        alive = self.answered(&answer);
                        ledger.count(&answer, &entries);
                    }
                    1 => {
                        let answer = client.increment_lines(all);
                        alive = self.answered(&answer);
                        ledger.count(&answer, &entries);
                    }
                    2.. => {
                        all.for_each(|(key, value)| client.queue_increment(key, value));
                        // What the server has read of it, it may have counted.
                        let _ = client.send();
                        for entry in entries.chunks(1) {
                            let answer = client.receive();
                            alive = self.answered(&answer);
                            ledger.count(&answer, entry);
                        }
                    }
                }
            }
        }
        ledger
    }

    fn send_until_acknowledged(&self, mut rng: fastrand::Rng, name: &str, keys: usize) -> Ledger {
        let mut ledger = Ledger::default();
        let mut client: Option<Client> = None;
        for number in 0.. {
            let (id, key) = (format!("{name}-{number}"), format!("once-{}", some_key(&mut rng, keys)));
            let value = rng.i64(1..1000);
            if self.stop.load(Relaxed) {
                break;
            }
            // Even when it is time to stop: a last one that stays unanswered would prove nothing.
            let answer = until("an increment is acknowledged", || {
                let door = *self.door.lock().unwrap();
                let mut connection = client.take().or_else(|| Client::connect(door?).ok())?;
                if rng.u8(..4) == 0 {
                    // Goes away without waiting for the answer, and comes back later.
                    connection.queue_increment_once(&id, &key, value);
                    let _ = connection.send();
                    drop(connection);
                    std::thread::sleep(Duration::from_millis(rng.u64(..100)));
                    return None;
                }
                let answer = connection.increment_once(&id, &key, value);
                self.answered(&answer);
                let answer = answer.ok()?;
                client = Some(connection);
                (answer.status == 202).then_some(answer)
            });
            ledger.count(&Ok(answer), &[(key, value)]);
        }
        ledger
    }
}

/// Some are far more frequent than others.
fn some_key(rng: &mut fastrand::Rng, keys: usize) -> String {
    format!("key-{}", (rng.f64().powi(3) * keys as f64) as usize)
}
