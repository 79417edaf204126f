//! A process that may not open another file: what needs one waits, and nothing is lost by it.

use std::fs;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};

use crate::support::{Client, Database, Home, Server, until};
use crate::tools::{assert_problem, assert_says, count_until_refused, hoarding_home};

/// While this lives, the server can't open a file.
struct NoMoreFiles<'s> {
    server: &'s Server,
    before: Rlimit,
}

impl<'s> NoMoreFiles<'s> {
    fn of(server: &'s Server) -> Self {
        let open = fs::read_dir(format!("/proc/{}/fd", server.pid().as_raw_nonzero())).unwrap();
        let open: Vec<u64> =
            open.map(|fd| fd.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
        // A new file takes the lowest number that is free.
        let free = (0..).find(|fd| !open.contains(fd));
        let limit = getrlimit(Resource::Nofile);
        let before =
            prlimit(Some(server.pid()), Resource::Nofile, Rlimit { current: free, ..limit }).unwrap();
        Self { server, before }
    }
}

impl Drop for NoMoreFiles<'_> {
    fn drop(&mut self) {
        prlimit(Some(self.server.pid()), Resource::Nofile, self.before).unwrap();
    }
}

#[test]
fn no_file_for_the_journal_is_a_503_until_there_is() {
    let home = hoarding_home(None).set("journal.segment_bytes", "256KiB");
    let server = home.start();
    let mut client = server.client();
    client.get("/healthz").unwrap().expect(200);
    let limit = NoMoreFiles::of(&server);
    let (acknowledged, refused) = count_until_refused(&mut client, "it", 2_000);
    assert_problem(&refused, 503, "disk_full");
    assert_says(&refused.body, &["Too many open files"]);
    drop(limit);
    until("the server takes increments again", || (server.get("/readyz").status == 200).then_some(()));
    client.increment("it", 1).unwrap().expect(202);
    server.stop();
    assert_eq!(Database::sqlite(home.sqlite()).totals()["it"], acknowledged + 1);
}

#[test]
fn no_file_for_a_connection_is_told_once_a_minute() {
    const WORDS: &str = "No connection can be accepted for now";
    let home = Home::new(None).set("http.workers", "1");
    let mut server = home.start();
    let mut client = server.client();
    client.get("/healthz").unwrap().expect(200);
    for round in 0..3 {
        let limit = NoMoreFiles::of(&server);
        let mut late = server.client();
        late.queue("GET /healthz", &[], "");
        late.send().unwrap();
        // What wakes the worker for these tells it of the new connection, too.
        for _ in 0..3 {
            client.get("/healthz").unwrap().expect(200);
        }
        drop(limit);
        late.receive().unwrap().expect(200);
        if round == 0 {
            server.line_with(WORDS);
        }
    }
    assert_eq!(server.log().matches(WORDS).count(), 1);
    server.stop();
}

#[test]
fn connections_that_are_turned_away_leave_files_for_the_rest() {
    let home = hoarding_home(None).set("journal.segment_bytes", "64KiB").set("http.workers", "2");
    let serve = home.command(&["serve"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 300 && exec \"$0\" serve", env!("CARGO_BIN_EXE_incrementer")]);
    limited.current_dir(serve.get_current_dir().unwrap());
    limited.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut server = home.launch_with(limited);
    server.wait_until_ready();
    let mut client = server.client();
    client.get("/healthz").unwrap().expect(200);
    // 36 may be open; none of them leaves.
    let crowd: Vec<Client> = (0..400)
        .map(|_| {
            let mut client = server.client();
            // Those that are too many even to be told so are only closed.
            let _ = client.get("/healthz");
            client
        })
        .collect();
    // Each takes a new segment.
    for _ in 0..20 {
        client.increments(std::iter::repeat_n(("it", 1), 10_000)).unwrap().expect(202);
    }
    drop(crowd);
    let log = server.log();
    assert!(!log.contains("No connection can be accepted"), "{log}");
    server.stop();
    assert_eq!(Database::sqlite(home.sqlite()).totals()["it"], 200_000);
}
