//! What a stack was busy with. Each belongs to one class, by the first rule that fits:
//!
//! 1. All that the threads of the flusher do is flushing; all that the journal's preparer does is
//!    the journal's.
//! 2. In the kernel, or on the way into it, the system call decides: sockets are its network work,
//!    files the journal's, epoll and futex waiting and waking. What it does for an arriving packet
//!    is network work, whichever call was interrupted.
//! 3. Otherwise the innermost function that is somebody's decides, by its crate: one of the
//!    standard library, the allocator, or a crate that several use, is nobody's.
//! 4. The rest is named other.

use super::stacks::{Frame, Stack};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Network,
    Waiting,
    Http,
    Json,
    Engine,
    Journal,
    Flushing,
    Other,
}

impl Class {
    pub(crate) const ALL: [Self; 8] = [
        Self::Network,
        Self::Waiting,
        Self::Http,
        Self::Json,
        Self::Engine,
        Self::Journal,
        Self::Flushing,
        Self::Other,
    ];

    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Network => "the kernel's network work",
            Self::Waiting => "waiting and waking (epoll, futex)",
            Self::Http => "HTTP (hyper, tokio, routes)",
            Self::Json => "JSON",
            Self::Engine => "engine (totals, batches, lanes)",
            Self::Journal => "journal (write, fdatasync, checksum)",
            Self::Flushing => "flushing into the store",
            Self::Other => "other",
        }
    }
}

pub(crate) fn class(stack: &Stack) -> Class {
    of_thread(&stack.thread)
        .or_else(|| in_kernel(&stack.frames))
        .or_else(|| stack.frames.iter().find_map(of_function))
        .unwrap_or(Class::Other)
}

/// Linux cuts names of threads off after 15 bytes.
fn of_thread(thread: &str) -> Option<Class> {
    match thread {
        "flusher" | "reader" | "store-resolver" => Some(Class::Flushing),
        name if name.starts_with("journal-") => Some(Class::Journal),
        _ => None,
    }
}

fn in_kernel(frames: &[Frame]) -> Option<Class> {
    let arrives = |frame: &Frame| frame.in_kernel && frame.symbol == "net_rx_action";
    if frames.iter().any(arrives) {
        return Some(Class::Network);
    }
    // A stub of the C library is on the way into the kernel, and so the innermost function.
    let is_stub = |at: usize, frame: &Frame| at == 0 && !frame.in_kernel;
    let is_inside = frames.first().is_some_and(|frame| frame.in_kernel);
    let calls = frames.iter().enumerate();
    let calls = calls.filter(|(at, frame)| frame.in_kernel || is_inside || is_stub(*at, frame));
    calls.filter_map(|(_, frame)| of_call(&frame.symbol, frames)).next()
}

fn of_call(symbol: &str, frames: &[Frame]) -> Option<Class> {
    let call = symbol.trim_start_matches("__x64_sys_").trim_start_matches("__se_sys_");
    let call = call.trim_start_matches("__do_sys_");
    let call = call.trim_start_matches("__libc_").trim_start_matches("__GI_").trim_start_matches("__");
    match call {
        "send" | "sendto" | "sendmsg" | "recv" | "recvfrom" | "recvmsg" | "accept" | "accept4"
        | "shutdown" => Some(Class::Network),
        "fdatasync" | "fsync" | "pwrite" | "pwrite64" | "pwritev" | "pwritev2" | "write" | "fallocate" => {
            Some(Class::Journal)
        }
        "epoll_wait" | "epoll_pwait" | "epoll_pwait2" | "epoll_ctl" | "futex" => Some(Class::Waiting),
        "io_uring_enter" => {
            // The ring has sockets alone: whatever it does, except wait, it does for them.
            let waits = |frame: &Frame| {
                frame.in_kernel && ["schedule", "io_cqring_wait_schedule"].contains(&frame.symbol.as_ref())
            };
            Some(if frames.iter().any(waits) { Class::Waiting } else { Class::Network })
        }
        _ => None,
    }
}

fn of_function(frame: &Frame) -> Option<Class> {
    if frame.in_kernel {
        return None;
    }
    let path = path(&frame.symbol);
    if path.starts_with("http_front::json") {
        return Some(Class::Json);
    }
    match path.split("::").next()? {
        "serde_json" => Some(Class::Json),
        "http_front" | "hyper" | "hyper_util" | "http" | "httparse" | "http_body_util" | "tokio" | "mio" => {
            Some(Class::Http)
        }
        "engine" => Some(Class::Engine),
        "journal" | "crc32c" => Some(Class::Journal),
        "flusher" | "store" | "rusqlite" | "tokio_postgres" => Some(Class::Flushing),
        _ => None,
    }
}

/// The path of a function without its generics; of a method in a trait's implementation, that of
/// the type: `<&mut serde_json::de::Deserializer<R> as serde::Deserializer>::f` is serde_json's.
fn path(symbol: &str) -> &str {
    let inner = symbol.trim_start_matches('<').trim_start_matches('&').trim_start_matches("mut ");
    inner.split(['<', '>', ' ']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::stacks::parse;
    use super::*;

    #[test]
    fn a_path_is_that_of_the_function_or_of_its_type() {
        let paths = [
            "engine::counters::Counters::insert",
            "<&mut serde_json::de::Deserializer<R> as serde_core::de::Deserializer>::deserialize_map",
            "<hyper::proto::h1::role::Server as hyper::proto::h1::Http1Transaction>::parse",
            "poll<http_front::worker::Loop<F>>",
            "[unknown]",
        ];
        let expected = [
            "engine::counters::Counters::insert",
            "serde_json::de::Deserializer",
            "hyper::proto::h1::role::Server",
            "poll",
            "[unknown]",
        ];
        assert_eq!(paths.map(path), expected);
    }

    /// Of a real profile, a few stacks of each kind; each thread's name tells the class.
    #[test]
    fn stacks_of_a_real_server_are_told_apart() {
        let text = include_str!("../../tests/fixtures/perf-script.txt");
        let mut seen = Vec::new();
        for block in text.split("\n\n").filter(|block| !block.trim().is_empty()) {
            let (expected, block) = block.trim_start().split_once('\n').unwrap();
            let stacks = parse(block);
            assert_eq!(stacks.len(), 1, "{block}");
            let class = class(&stacks[0]);
            assert_eq!(format!("# {class:?}"), expected, "{block}");
            seen.push(class);
        }
        for class in Class::ALL.into_iter().filter(|class| *class != Class::Other) {
            assert!(seen.contains(&class), "the sample has no stack of {class:?}");
        }
    }

    #[test]
    fn io_uring_and_interrupts_go_to_whom_they_work_for() {
        let frame = |symbol: &str, in_kernel| Frame { symbol: symbol.into(), in_kernel };
        let stack = |thread: &str, frames: Vec<Frame>| Stack { thread: thread.into(), period: 1, frames };
        let ring = |inner| {
            vec![
                frame(inner, true),
                frame("__do_sys_io_uring_enter", true),
                frame("http_front::ring::turn", false),
            ]
        };
        assert_eq!(class(&stack("http-0", ring("tcp_sendmsg"))), Class::Network);
        assert_eq!(class(&stack("http-0", ring("schedule"))), Class::Waiting);
        assert_eq!(class(&stack("http-0", ring("io_submit_sqes"))), Class::Network);
        let packet = vec![frame("net_rx_action", true), frame("__x64_sys_fdatasync", true)];
        assert_eq!(class(&stack("engine", packet)), Class::Network);
        assert_eq!(class(&stack("flusher", vec![frame("__x64_sys_sendto", true)])), Class::Flushing);
        assert_eq!(class(&stack("journal-preparer"[..15].into(), vec![frame("x", true)])), Class::Journal);
        assert_eq!(class(&stack("main", vec![frame("x", false)])), Class::Other);
        // A page fault has no system call; the function that touched the page counts.
        let fault =
            vec![frame("asm_exc_page_fault", true), frame("engine::counters::Counters::insert", false)];
        assert_eq!(class(&stack("engine", fault)), Class::Engine);
    }
}
