//! Clients that write down what they send and what comes back, and send again until they know.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};

use crate::account::{HOT, Log, Note, Op, REFUSED};
use crate::support::{Answer, Client, PATIENCE, until};

/// Clients at work.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Log>>,
}

struct Shared {
    /// Where each instance is; `None` while it doesn't run.
    doors: Vec<Mutex<Option<SocketAddr>>>,
    stop: AtomicBool,
    acknowledged: Vec<AtomicU64>,
    /// How many clients wait for an answer of each instance.
    waiting: Vec<AtomicU64>,
    no_room: AtomicU64,
    /// What a client saw that must not be.
    broken: Mutex<Option<String>>,
}

impl Clients {
    /// `once` clients with idempotency keys, who go to any of the instances, and `plain` ones
    /// without. `name` makes keys and ids unique to this run.
    pub(crate) fn start(seed: u64, name: &str, instances: usize, once: usize, plain: usize) -> Self {
        let shared = Arc::new(Shared {
            doors: (0..instances).map(|_| Mutex::default()).collect(),
            stop: AtomicBool::new(false),
            acknowledged: (0..instances).map(|_| AtomicU64::default()).collect(),
            waiting: (0..instances).map(|_| AtomicU64::default()).collect(),
            no_room: AtomicU64::default(),
            broken: Mutex::default(),
        });
        let start = |number: usize| {
            let (shared, name) = (Arc::clone(&shared), format!("{name}-{number}"));
            let rng = Rng::with_seed(seed ^ (number as u64) << 32);
            let client = Sender { shared, rng, name, log: Log::default(), connection: None };
            std::thread::spawn(move || if number < once { client.send_once() } else { client.send_plain() })
        };
        let threads = (0..once + plain).map(start).collect();
        Self { shared, threads }
    }

    /// From now on that instance is there; `None`: nowhere.
    pub(crate) fn open(&self, instance: usize, address: Option<SocketAddr>) {
        *self.shared.doors[instance].lock().unwrap() = address;
    }

    /// How many requests have been acknowledged, by all instances.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.iter().map(|count| count.load(SeqCst)).sum()
    }

    /// How many have been by this instance.
    pub(crate) fn acknowledged_by(&self, instance: usize) -> u64 {
        self.shared.acknowledged[instance].load(SeqCst)
    }

    /// How many clients wait for an answer of this instance.
    pub(crate) fn waiting_for(&self, instance: usize) -> u64 {
        self.shared.waiting[instance].load(SeqCst)
    }

    /// How many attempts were refused because a disk is full.
    pub(crate) fn no_room(&self) -> u64 {
        self.shared.no_room.load(SeqCst)
    }

    /// Fails where a client has seen something that must not be.
    pub(crate) fn check(&self) {
        if let Some(broken) = self.shared.broken.lock().unwrap().take() {
            panic!("{broken}");
        }
    }

    /// Ends the clients, each when it knows of its last request; what they wrote down.
    pub(crate) fn stop(mut self) -> Vec<Log> {
        self.shared.stop.store(true, SeqCst);
        let threads = std::mem::take(&mut self.threads);
        until("every client has its last answer", || {
            self.check();
            threads.iter().all(JoinHandle::is_finished).then_some(())
        });
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
    }
}

/// One client.
struct Sender {
    shared: Arc<Shared>,
    rng: Rng,
    name: String,
    log: Log,
    /// And to which instance it leads.
    connection: Option<(usize, Client)>,
}

/// What came of an attempt.
enum Outcome {
    Acknowledged(Answer),
    Refused,
    /// It was on its way, or may have been.
    Unanswered,
    /// There is nobody to send it to.
    Nowhere,
}

impl Sender {
    fn stopped(&self) -> bool {
        self.shared.stop.load(SeqCst) || self.shared.broken.lock().unwrap().is_some()
    }

    fn break_off(&self, what: String) {
        self.shared.broken.lock().unwrap().get_or_insert(what);
    }

    /// Requests that each count once, however often they have to be sent, and to whomever.
    fn send_once(mut self) -> Log {
        for number in 0.. {
            if self.stopped() {
                break;
            }
            let id = format!("{}-{number}", self.name);
            let entries = self.entries(|rng| match rng.u8(..8) {
                0 => HOT.to_owned(),
                _ => format!("shared-{}", (rng.f64().powi(3) * 300.0) as usize),
            });
            let op = self.log.open(Op { id: Some(id), entries });
            loop {
                // To any of them, each time.
                let to = self.rng.usize(..self.shared.doors.len());
                // Some don't wait for long, or not at all.
                let patience = self.rng.choice([1, 150, 1000, 60_000]).map(Duration::from_millis);
                match self.attempt(op, to, patience.unwrap_or(PATIENCE)) {
                    Outcome::Acknowledged(_) => break,
                    _ if self.shared.broken.lock().unwrap().is_some() => return self.log,
                    Outcome::Refused | Outcome::Unanswered | Outcome::Nowhere => {
                        std::thread::sleep(Duration::from_millis(self.rng.u64(1..5)));
                    }
                }
            }
        }
        self.log
    }

    /// Requests without a second chance, on keys of this client's own: what it has been
    /// acknowledged is what it reads. Keys of a request that got no answer are left alone from
    /// then on, so that each has at most one that may have counted or not.
    fn send_plain(mut self) -> Log {
        for round in 0.. {
            let to = self.rng.usize(..self.shared.doors.len());
            let own = |number: usize, name: &str| format!("own-{name}-{round}-{number}");
            let mut known: Vec<(String, i64)> = (0..4).map(|number| (own(number, &self.name), 0)).collect();
            loop {
                if self.stopped() {
                    return self.log;
                }
                let mut entries = vec![(self.rng.choice(&known).unwrap().0.clone(), self.rng.i64(1..1000))];
                let more = self.entries(|rng| match rng.u8(..8) {
                    0 => HOT.to_owned(),
                    _ => own(rng.usize(..4), "NAME"),
                });
                let more = more.into_iter().filter(|_| self.rng.bool());
                entries.extend(more.map(|(key, value)| (key.replace("NAME", &self.name), value)));
                let op = self.log.open(Op { id: None, entries });
                match self.attempt(op, to, PATIENCE) {
                    // Another may lack clients, now and then.
                    Outcome::Acknowledged(_) if self.rng.u8(..100) == 0 => break,
                    Outcome::Acknowledged(answer) => {
                        for (key, value) in &self.log.ops[op].entries {
                            known.iter_mut().filter(|(own, _)| own == key).for_each(|(_, sum)| *sum += value);
                        }
                        self.compare(&answer, &known, op);
                        self.read(to, &known);
                    }
                    Outcome::Unanswered => break,
                    Outcome::Refused | Outcome::Nowhere => {
                        std::thread::sleep(Duration::from_millis(self.rng.u64(1..5)));
                        if self.rng.u8(..20) == 0 {
                            // Where it went may not come back for long.
                            break;
                        }
                    }
                }
            }
        }
        self.log
    }

    fn entries(&mut self, key: impl Fn(&mut Rng) -> String) -> Vec<(String, i64)> {
        let many = if self.rng.u8(..3) == 0 { self.rng.usize(1..30) } else { 1 };
        let mut entries: Vec<_> =
            (0..many).map(|_| (key(&mut self.rng), self.rng.i64(-100..1_000_000))).collect();
        if self.rng.u16(..400) == 0 {
            entries.push((REFUSED.to_owned(), self.rng.i64(1..1000)));
        }
        entries
    }

    /// Sends a request and writes down what comes of it.
    fn attempt(&mut self, op: usize, to: usize, patience: Duration) -> Outcome {
        let (target, lines, body) = self.spell(op);
        let kept = self.connection.take().filter(|(instance, _)| *instance == to).map(|(_, client)| client);
        let door = *self.shared.doors[to].lock().unwrap();
        let Some(mut client) = kept.or_else(|| Client::connect(door?).ok()) else { return Outcome::Nowhere };
        self.log.note(op, Note::Sent(to));
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        self.shared.waiting[to].fetch_add(1, SeqCst);
        let answer = client.set_patience(patience).and_then(|()| client.ask(target, &lines, &body));
        self.shared.waiting[to].fetch_sub(1, SeqCst);
        match answer {
            Ok(answer) if answer.status == 200 || answer.status == 202 => {
                let replayed = answer.header("idempotent-replayed") == Some("true");
                self.log.note(op, Note::Acknowledged { replayed });
                self.shared.acknowledged[to].fetch_add(1, SeqCst);
                self.connection = Some((to, client));
                Outcome::Acknowledged(answer)
            }
            Ok(answer) if answer.status == 429 || answer.status == 503 => {
                self.log.note(op, Note::Refused(answer.status));
                if answer.body.contains("disk_full") {
                    self.shared.no_room.fetch_add(1, SeqCst);
                }
                Outcome::Refused
            }
            Ok(answer) => {
                self.break_off(format!("{:?} was answered by {answer:?}", self.log.ops[op]));
                self.log.note(op, Note::Unanswered);
                Outcome::Unanswered
            }
            Err(error) => {
                if error.kind() == ErrorKind::InvalidData {
                    self.break_off(format!("{:?} was answered by {error}", self.log.ops[op]));
                }
                self.log.note(op, Note::Unanswered);
                Outcome::Unanswered
            }
        }
    }

    /// A request in one of its spellings; another time it may be another.
    fn spell(&mut self, op: usize) -> (&'static str, Vec<String>, String) {
        let Op { id, entries } = &self.log.ops[op];
        let entry = |(key, value): &(String, i64)| json!({ "key": key, "value": value });
        let (target, kind, body) = match &entries[..] {
            // One entry goes either way, but always the same: another route is another request.
            [one @ (key, value)] if value % 8 != 0 => {
                if self.rng.bool() {
                    let form = format!("key={key}&value={value}");
                    ("POST /increment", "application/x-www-form-urlencoded", form)
                } else {
                    ("POST /increment", "application/json", entry(one).to_string())
                }
            }
            all if self.rng.bool() => {
                let lines = all.iter().map(|one| format!("{}\n", entry(one)));
                ("POST /increments", "application/x-ndjson", lines.collect())
            }
            all => {
                let array = Value::from_iter(all.iter().map(entry));
                ("POST /increments", "application/json", array.to_string())
            }
        };
        let mut lines = vec![format!("Content-Type: {kind}")];
        lines.extend(id.iter().map(|id| format!("Idempotency-Key: \"{id}\"")));
        if target == "POST /increment" && self.rng.u8(..4) == 0 {
            lines.push("Prefer: return=representation".to_owned());
        }
        (target, lines, body)
    }

    /// An answer with the new total, which nobody but this client changes.
    fn compare(&self, answer: &Answer, known: &[(String, i64)], op: usize) {
        if answer.status != 200 {
            return;
        }
        let shown = answer.json();
        let is = known.iter().find(|(key, _)| shown["key"] == key.as_str());
        if is.is_none_or(|(_, sum)| shown["value"] != *sum) {
            self.break_off(format!(
                "{:?} was answered by {answer:?}; acknowledged: {known:?}",
                self.log.ops[op]
            ));
        }
    }

    /// What was acknowledged is in every later read.
    fn read(&mut self, from: usize, known: &[(String, i64)]) {
        let Some((key, sum)) = self.rng.choice(known).filter(|(_, sum)| *sum != 0) else { return };
        if self.rng.u8(..4) > 0 {
            return;
        }
        let Some((to, mut client)) = self.connection.take().filter(|(to, _)| *to == from) else { return };
        self.shared.waiting[from].fetch_add(1, SeqCst);
        let answer = client.set_patience(PATIENCE).and_then(|()| client.get(&format!("/counters/{key}")));
        self.shared.waiting[from].fetch_sub(1, SeqCst);
        let Ok(answer) = answer else { return };
        // One that has just been started may not be ready.
        if answer.status != 503 && (answer.status != 200 || answer.json()["value"] != *sum) {
            self.break_off(format!("{key} is {answer:?} at instance {from}; acknowledged is {sum}"));
        }
        self.connection = Some((to, client));
    }
}
