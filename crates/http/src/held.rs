//! Answers that are made before it is known that they are true, and held back until it is.
//!
//! That a request was counted is known when its commit is durable. To come back to its connection
//! then, to a task that slept and memory that has left the caches, cost more than to count. So the
//! 202 is made at once, in the same pass that read the request, and its bytes wait here; what
//! comes with the commit is only to let them go. Where the engine refused, they are replaced.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use crate::problem::Problem;

/// What every answer that is held begins with.
const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\n";
const HEAD_END: &[u8] = b"\r\n\r\n";
/// A buffer that has grown past this is not kept.
const KEPT_BYTES: usize = 4 << 10;

/// A connection's answers that are held, oldest first, and whatever was written behind them.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// The first `gone` bytes have been let go.
    bytes: Vec<u8>,
    gone: usize,
    /// How many bytes belong to each: its answer, and what was written before the next one.
    lengths: VecDeque<usize>,
    /// Who waits until none is held.
    waker: Option<Waker>,
}

impl Held {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// How many answers are held.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.lengths.len()
    }

    /// How many bytes.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len() - self.gone
    }

    /// The next answer that is written is to be held.
    #[inline]
    pub(crate) fn begin(&mut self) {
        self.lengths.push_back(0);
    }

    /// Takes bytes, if any answer is held that they have to stay behind.
    #[inline]
    pub(crate) fn push(&mut self, bytes: &[u8]) -> bool {
        let Some(last) = self.lengths.back_mut() else { return false };
        *last += bytes.len();
        self.bytes.extend_from_slice(bytes);
        true
    }

    /// Gives the oldest answer, and what is behind it, to `out`; `refused` takes the answer's
    /// place. `false`, where it doesn't look like an answer, and can't be replaced.
    pub(crate) fn release(&mut self, refused: Option<&Problem>, mut out: impl FnMut(&[u8])) -> bool {
        let Some(length) = self.lengths.pop_front() else { return true };
        let bytes = &self.bytes[self.gone..self.gone + length];
        let mut replaced = true;
        match refused.map(|problem| replace(bytes, problem)) {
            None => out(bytes),
            Some(Some((answer, rest))) => {
                out(&answer);
                out(rest);
            }
            Some(None) => replaced = false,
        }
        self.gone += length;
        if self.lengths.is_empty() {
            self.gone = 0;
            self.bytes.clear();
            if self.bytes.capacity() > KEPT_BYTES {
                self.bytes = Vec::new();
            }
        } else if self.gone >= KEPT_BYTES.max(self.bytes()) {
            // A client that always has a request under way lets it never become empty.
            self.bytes.drain(..self.gone);
            self.gone = 0;
        }
        replaced
    }

    /// Wakes the task when none is held any more.
    pub(crate) fn wake_when_empty(&mut self, cx: &Context<'_>) {
        self.waker = Some(cx.waker().clone());
    }

    /// Who waits for it, if none is held.
    #[inline]
    pub(crate) fn take_waker(&mut self) -> Option<Waker> {
        if self.is_empty() { self.waker.take() } else { None }
    }
}

/// The answer that refuses, and what followed the one that accepted. Date and Connection are
/// taken over.
fn replace<'b>(bytes: &'b [u8], problem: &Problem) -> Option<(Vec<u8>, &'b [u8])> {
    let fields = bytes.strip_prefix(ACCEPTED)?;
    let end = fields.windows(HEAD_END.len()).position(|window| window == HEAD_END)?;
    let (fields, rest) = (&fields[..end], &fields[end + HEAD_END.len()..]);
    let json = problem.to_json();
    let mut answer = format!("HTTP/1.1 {}\r\n", problem.status).into_bytes();
    let mut field = |name: &str, value: &[u8]| {
        answer.extend_from_slice(name.as_bytes());
        answer.extend_from_slice(b": ");
        answer.extend_from_slice(value);
        answer.extend_from_slice(b"\r\n");
    };
    field("content-type", crate::problem::MEDIA_TYPE.as_bytes());
    if let Some((name, value)) = &problem.header {
        field(name.as_str(), value.as_bytes());
    }
    for line in fields.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        for name in ["date", "connection"] {
            if let Some(value) = line.strip_prefix(name.as_bytes()).and_then(|line| line.strip_prefix(b": "))
            {
                field(name, value);
            }
        }
    }
    field("content-length", json.len().to_string().as_bytes());
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(&json);
    Some((answer, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] =
        b"HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: 0\r\ndate: today\r\n\r\n";

    fn released(held: &mut Held, refused: Option<&Problem>) -> (bool, String) {
        let mut out = Vec::new();
        let replaced = held.release(refused, |bytes| out.extend_from_slice(bytes));
        (replaced, String::from_utf8(out).unwrap())
    }

    #[test]
    fn answers_go_in_order_each_with_what_was_written_behind_it() {
        let mut held = Held::default();
        assert!(!held.push(b"free"), "nothing is held");
        held.begin();
        assert!(held.push(b"one"));
        held.begin();
        assert!(held.push(b"two") && held.push(b", behind"));
        assert_eq!((held.len(), held.bytes()), (2, 14));
        assert_eq!(released(&mut held, None), (true, "one".to_owned()));
        assert_eq!(held.bytes(), 11);
        held.begin();
        assert!(held.push(b"three"));
        assert_eq!(released(&mut held, None).1, "two, behind");
        assert_eq!(released(&mut held, None).1, "three");
        assert_eq!((held.is_empty(), held.bytes()), (true, 0));
        assert!(!held.push(b"free"));
    }

    #[test]
    fn a_refusal_takes_the_place_of_its_answer_alone() {
        let problem = *Problem::invalid("too \"much\"").retry_after("5");
        let mut held = Held::default();
        held.begin();
        held.push(ANSWER);
        held.push(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let (replaced, text) = released(&mut held, Some(&problem));
        let json = String::from_utf8(problem.to_json()).unwrap();
        let expected = format!(
            "HTTP/1.1 422 Unprocessable Entity\r\ncontent-type: application/problem+json\r\nretry-after: 5\r\n\
             connection: close\r\ndate: today\r\ncontent-length: {}\r\n\r\n{json}HTTP/1.1 400 Bad Request\r\n\r\n",
            json.len()
        );
        assert_eq!((replaced, text), (true, expected));
    }

    /// A client that sends its next request before the last one is answered.
    #[test]
    fn what_is_gone_takes_no_memory_though_something_is_always_held() {
        let mut held = Held::default();
        for _ in 0..16 {
            held.begin();
            held.push(ANSWER);
        }
        for round in 0..10_000 {
            held.begin();
            held.push(ANSWER);
            assert_eq!(released(&mut held, None).1.as_bytes(), ANSWER);
            assert!(held.bytes.capacity() <= 4 * KEPT_BYTES, "{} in round {round}", held.bytes.capacity());
        }
        assert_eq!((held.len(), held.bytes()), (16, 16 * ANSWER.len()));
    }

    #[test]
    fn what_is_no_acceptance_is_never_let_go_in_place_of_a_refusal() {
        let problem = *Problem::invalid("no");
        for bytes in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"", b"HTTP/1.1 202 Accepted\r\ndate: today\r\n"] {
            let mut held = Held::default();
            held.begin();
            held.push(bytes);
            assert_eq!(released(&mut held, Some(&problem)), (false, String::new()));
        }
    }
}
