//! Start, limits on connections, and stop.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::Duration;

use http_front::{BindError, Binding, Options, Route, WorkerExit};
use support::{Client, Memory, loopback, post, start, start_with, workers};

const JSON: &str = "application/json";
const BODY: &str = r#"{"key":"k","value":1}"#;

#[test]
fn a_second_server_on_the_address_is_refused() {
    let running = start();
    let Err(error) = Binding::bind(running.address, workers(2)) else { panic!("both listen") };
    assert!(matches!(error, BindError::InUse { address } if address == running.address));
    assert!(error.to_string().contains(&running.address.to_string()));
    let everywhere = SocketAddr::from(([0, 0, 0, 0], running.address.port()));
    assert!(matches!(Binding::bind(everywhere, workers(1)), Err(BindError::InUse { .. })));
    let address = running.address;
    running.ask(post("/increment", JSON, BODY)).accepted();
    running.stop();
    // It is free at once, though connections of the first server may linger in the system.
    drop(Binding::bind(address, workers(2)).unwrap());

    let stranger = TcpListener::bind(loopback()).unwrap();
    let taken = stranger.local_addr().unwrap();
    assert!(matches!(Binding::bind(taken, workers(1)), Err(BindError::InUse { .. })));
    let not_ours = SocketAddr::from(([192, 0, 2, 1], 0));
    assert!(matches!(Binding::bind(not_ours, workers(1)), Err(BindError::Refused { .. })));
}

#[test]
fn a_stop_answers_what_is_in_flight_and_closes_what_is_idle() {
    let running = start();
    let gate = running.front.hold();
    let (front, address) = (running.front.clone(), running.address);
    let mut fresh = running.client();
    let mut idle = running.client();
    assert_eq!(idle.ask("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").status, 200);
    let mut busy: Vec<Client> = (0..8).map(|_| running.client()).collect();
    for client in &mut busy {
        client.send(post("/increment", JSON, BODY));
    }
    front.wait_for(8);
    let stopping = std::thread::spawn(move || running.stop());
    assert!(idle.is_closed());
    assert!(fresh.is_closed());
    gate.add_permits(8);
    for client in &mut busy {
        client.receive(false).accepted();
        assert!(client.is_closed());
    }
    stopping.join().unwrap();
    assert_eq!(front.total("k"), Some(8));
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn a_stop_ends_at_its_deadline() {
    let running = start();
    let _gate = running.front.hold();
    let mut client = running.client();
    client.send(post("/increment", JSON, BODY));
    running.front.wait_for(1);
    assert_eq!(running.server.stop(Duration::from_millis(50)).cut, 1);
    assert!(client.is_closed());
}

#[test]
fn a_server_that_is_dropped_stops() {
    let running = start();
    let mut client = running.client();
    client.ask(post("/increment", JSON, BODY)).accepted();
    drop(running.server);
    assert!(client.is_closed());
}

#[test]
fn one_connection_too_many_is_told_so() {
    let running = start_with(Options { max_connections: 3, ..Options::default() });
    let mut kept: Vec<Client> = (0..3).map(|_| running.client()).collect();
    for client in &mut kept {
        client.ask(post("/increment", JSON, BODY)).accepted();
    }
    let stats = running.server.stats();
    assert_eq!(stats.connections_open(), 3);
    for _ in 0..5 {
        let mut late = running.client();
        let reply = late.ask(post("/increment", JSON, BODY));
        assert_eq!(reply.problem(503), "connection_limit");
        assert!(reply.closes() && late.is_closed());
    }
    assert_eq!((stats.connections_accepted(), stats.connections_refused()), (3, 5));
    for client in &mut kept {
        client.ask(post("/increment", JSON, BODY)).accepted();
    }
    drop(kept);
    while stats.connections_open() > 0 {
        std::thread::yield_now();
    }
    running.ask(post("/increment", JSON, BODY)).accepted();
    assert_eq!(running.front.total("k"), Some(7));
    running.stop();
}

#[test]
fn requests_are_counted_by_route_and_status() {
    let running = start();
    let stats = running.server.stats();
    for _ in 0..3 {
        running.ask(post("/increment", JSON, BODY)).accepted();
    }
    running.ask(post("/increment", JSON, "{}")).problem(422);
    running.get("/counters/k");
    running.get("/nowhere").problem(404);
    let requests: Vec<_> = stats.requests().collect();
    let expected = [
        (Route::Increment, 202, 3),
        (Route::Increment, 422, 1),
        (Route::Counter, 200, 1),
        (Route::Unknown, 404, 1),
    ];
    assert_eq!(requests, expected);
    running.stop();
}

/// Serves with a front that `make` gives, until a worker ends unasked.
fn first_exit<M>(make: M) -> WorkerExit
where
    M: Fn(usize) -> (Memory, Option<http_front::Driver>) + Send + Sync + 'static,
{
    let binding = Binding::bind(loopback(), workers(2)).unwrap();
    let (exits, first) = mpsc::channel();
    let telemetry = Arc::new(Memory::default());
    let server = http_front::serve(binding, Options::default(), make, telemetry, move |exit| {
        let _ = exits.send(exit);
    })
    .unwrap();
    let exit = first.recv_timeout(Duration::from_secs(30)).unwrap();
    // The other worker still stops as it should.
    assert_eq!(server.stop(Duration::from_secs(20)).cut, 0);
    exit
}

#[test]
fn no_worker_dies_unnoticed() {
    let exit = first_exit(|worker| {
        assert_eq!(worker, 0, "no front for this one");
        (Memory::default(), None)
    });
    assert_eq!(exit.worker, 1);
    assert!(exit.reason.contains("no front for this one"), "{exit:?}");

    let exit = first_exit(|worker| {
        let driver = poll_fn(move |_| if worker == 0 { panic!("the ring broke") } else { Poll::Ready(()) });
        (Memory::default(), Some(Box::pin(driver)))
    });
    assert_eq!(exit.worker, 0);
    assert!(exit.reason.contains("the ring broke"), "{exit:?}");
}

#[test]
fn a_driver_runs_beside_the_connections() {
    let binding = Binding::bind(loopback(), workers(2)).unwrap();
    let address = binding.local_addr();
    let front = Memory::default();
    let (ran, runs) = mpsc::channel();
    let made = front.clone();
    let make = move |worker: usize| {
        let ran = ran.clone();
        let driver: http_front::Driver = Box::pin(async move {
            tokio::task::yield_now().await;
            let _ = ran.send((worker, std::thread::current().name().map(str::to_owned)));
        });
        (made.clone(), Some(driver))
    };
    let telemetry = Arc::new(front.clone());
    let server =
        http_front::serve(binding, Options::default(), make, telemetry, |exit| panic!("{exit:?}")).unwrap();
    let mut seen: Vec<_> = (0..2).map(|_| runs.recv_timeout(Duration::from_secs(30)).unwrap()).collect();
    seen.sort();
    assert_eq!(seen, [(0, Some("http-0".into())), (1, Some("http-1".into()))]);
    Client::connect(address).ask(post("/increment", JSON, BODY)).accepted();
    assert_eq!(server.stop(Duration::from_secs(20)).cut, 0);
}
