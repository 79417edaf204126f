use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// Long enough that only a hang reaches it.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

fn ended(reason: Reason) -> Ended {
    match reason {
        Reason::Ended(ended) => ended,
        Reason::Signal(name) => panic!("{name}"),
    }
}

#[test]
fn an_essential_thread_must_not_end_in_any_way() {
    let mut supervisor = Supervisor::new().unwrap();
    supervisor.spawn("returns", Policy::Essential, || Ok(())).unwrap();
    let end = ended(supervisor.wait());
    assert_eq!(end.to_string(), "the thread returns ended, though nobody asked it to");

    let fails = || Err(anyhow::anyhow!("no disk").context("the journal is lost"));
    supervisor.spawn("fails", Policy::Essential, fails).unwrap();
    assert_eq!(ended(supervisor.wait()).to_string(), "fails: the journal is lost: no disk");

    supervisor.spawn("panics", Policy::Essential, || panic!("seven is {}", 7)).unwrap();
    assert_eq!(ended(supervisor.wait()).to_string(), "the thread panics panicked: seven is 7");
}

#[test]
fn the_thread_that_hears_signals_must_not_end() {
    let signals = Signals::new([] as [i32; 0]).unwrap();
    let handle = signals.handle();
    let mut supervisor = Supervisor::hearing(signals).unwrap();
    handle.close();
    let end = ended(supervisor.wait());
    assert_eq!(end.to_string(), "the thread signals ended, though nobody asked it to");
}

#[test]
fn a_passing_thread_may_return_but_not_fail() {
    let mut supervisor = Supervisor::new().unwrap();
    supervisor.spawn("returns", Policy::Passing, || Ok(())).unwrap();
    let (go, gate) = mpsc::channel::<()>();
    supervisor
        .spawn("fails", Policy::Passing, move || {
            let _ = gate.recv();
            Err(anyhow::anyhow!("it broke"))
        })
        .unwrap();
    go.send(()).unwrap();
    assert_eq!(ended(supervisor.wait()).to_string(), "fails: it broke");
}

#[test]
fn a_stop_waits_for_all_and_tells_who_failed() {
    let mut supervisor = Supervisor::new().unwrap();
    let (stop, asked) = mpsc::channel::<()>();
    supervisor
        .spawn("good", Policy::Essential, move || {
            let _ = asked.recv();
            Ok(())
        })
        .unwrap();
    supervisor.spawn("bad", Policy::Essential, || Err(anyhow::anyhow!("late"))).unwrap();
    drop(stop);
    let stopped = supervisor.join(far_away());
    assert_eq!(stopped.running, [""; 0]);
    assert_eq!(stopped.failures.iter().map(Ended::to_string).collect::<Vec<_>>(), ["bad: late"]);
}

#[test]
fn a_stop_ends_at_its_deadline_and_names_who_still_runs() {
    let mut supervisor = Supervisor::new().unwrap();
    let (stop, asked) = mpsc::channel::<()>();
    supervisor
        .spawn("slow", Policy::Essential, move || {
            let _ = asked.recv();
            Ok(())
        })
        .unwrap();
    assert_eq!(supervisor.join(Instant::now()).running, ["slow"]);
    drop(stop);
}

const CHILD: &str = "SUPERVISOR_TEST_CHILD";

/// The other half of the tests below: a process that takes signals. Alone it does nothing.
#[test]
fn child() {
    let Ok(behaviour) = std::env::var(CHILD) else { return };
    let mut supervisor = Supervisor::new().unwrap();
    eprintln!("ready");
    let reason = supervisor.wait();
    eprintln!("asked {reason:?}");
    if behaviour == "stops" {
        std::process::exit(0);
    }
    // Stuck, as a stop can be that waits for a dead disk.
    loop {
        std::thread::park();
    }
}

struct ChildProcess {
    process: Child,
    lines: BufReader<std::process::ChildStderr>,
}

impl ChildProcess {
    fn start(behaviour: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["supervisor::tests::child", "--exact", "--nocapture"])
            .env(CHILD, behaviour)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap());
        let mut child = Self { process, lines };
        assert_eq!(child.line(), "ready\n");
        child
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    fn code(mut self) -> Option<i32> {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        let status = self.process.wait().unwrap();
        assert_eq!(status.signal(), None, "{rest}");
        status.code()
    }
}

#[test]
fn the_first_signal_asks_for_a_stop() {
    for (signal, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
        let mut child = ChildProcess::start("stops");
        child.signal(signal);
        assert_eq!(child.line(), format!("asked Signal({name:?})\n"));
        assert_eq!(child.code(), Some(0));
    }
}

#[test]
fn the_second_signal_ends_it_at_once_though_it_is_stuck() {
    for (first, second, code) in
        [(Signal::TERM, Signal::TERM, 143), (Signal::INT, Signal::INT, 130), (Signal::INT, Signal::TERM, 143)]
    {
        let mut child = ChildProcess::start("hangs");
        child.signal(first);
        assert!(child.line().starts_with("asked"));
        child.signal(second);
        assert_eq!(child.code(), Some(code));
    }
}
