//! Bodies, within their limits.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::{Body, Frame, Incoming};

use crate::problem::Problem;
use crate::watch::{Phase, Verdict, Watch};

type Polled = Option<Result<Frame<Bytes>, hyper::Error>>;

/// What the bodies that arrive in pieces take together.
#[derive(Debug)]
pub(crate) struct Budget {
    used_bytes: AtomicUsize,
    max_bytes: usize,
}

impl Budget {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { used_bytes: AtomicUsize::new(0), max_bytes }
    }
}

/// A part of the [`Budget`], given back when it is dropped.
#[derive(Debug)]
struct Lease<'b> {
    budget: &'b Budget,
    bytes: usize,
}

impl Lease<'_> {
    fn grow(&mut self, bytes: usize) -> bool {
        let used = self.budget.used_bytes.fetch_add(bytes, Relaxed);
        self.bytes += bytes;
        used + bytes <= self.budget.max_bytes
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.budget.used_bytes.fetch_sub(self.bytes, Relaxed);
    }
}

/// Reads a whole body of at most `max_bytes` and gives it to `parse`. One that came together
/// with the header section is parsed where it lies, with no copy and no clock.
///
/// # Errors
/// 413 as soon as it is known to be too long; 408 where it takes too long; 400 where it breaks
/// off or its chunks are damaged; 503 where too many bodies are on their way; and what `parse`
/// says.
pub(crate) async fn read<T>(
    body: &mut Incoming,
    max_bytes: usize,
    budget: &Arc<Budget>,
    watch: &Watch,
    parse: impl FnOnce(&[u8]) -> Result<T, Box<Problem>>,
) -> Result<T, Box<Problem>> {
    if body.size_hint().lower() > max_bytes as u64 {
        return Err(too_large(max_bytes));
    }
    let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await;
    if let Poll::Ready(Some(Ok(frame))) = &first
        && body.is_end_stream()
        && let Some(bytes) = frame.data_ref()
    {
        return parse(bytes);
    }
    // In a box of its own, so that the future of every other request stays small.
    let mut lease = Lease { budget, bytes: 0 };
    let bytes = Box::pin(collect(first, body, max_bytes, &mut lease, watch)).await?;
    parse(&bytes)
}

async fn collect(
    mut polled: Poll<Polled>,
    body: &mut Incoming,
    max_bytes: usize,
    lease: &mut Lease<'_>,
    watch: &Watch,
) -> Result<Vec<u8>, Box<Problem>> {
    // A length that is only announced reserves little: memory is taken as bytes come.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(announced.min(64 << 10));
    watch.enter(Phase::Body);
    loop {
        let frame = match polled {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Err(broken(&error)),
            Poll::Ready(None) => break,
            Poll::Pending => {
                polled = Poll::Ready(next(body, watch).await.ok_or_else(too_slow)?);
                continue;
            }
        };
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > max_bytes {
                return Err(too_large(max_bytes));
            }
            if !lease.grow(data.len()) {
                return Err(crowded());
            }
            bytes.extend_from_slice(data);
        } else {
            // hyper looks for the end of trailers in another way than it reads them: a line in them
            // that ends in LF alone takes what follows, up to an empty line, with it. So what
            // follows is nothing to go by.
            watch.make_last();
        }
        if body.is_end_stream() {
            break;
        }
        polled = Poll::Pending;
    }
    watch.enter(Phase::Busy);
    Ok(bytes)
}

/// The next frame; `None` once the watchdog says that it took too long.
async fn next(body: &mut Incoming, watch: &Watch) -> Option<Polled> {
    poll_fn(|cx| {
        if watch.verdict() == Verdict::BodyLate {
            return Poll::Ready(None);
        }
        Pin::new(&mut *body).poll_frame(cx).map(Some)
    })
    .await
}

/// Looks whether the rest of a body that nobody wants has arrived already, without waiting. If
/// not, the connection can't be used any more: what comes next isn't a request.
pub(crate) async fn is_here(body: &mut Incoming) -> bool {
    match poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await {
        Poll::Ready(None) => true,
        Poll::Ready(Some(Ok(_))) => body.is_end_stream(),
        Poll::Ready(Some(Err(_))) | Poll::Pending => false,
    }
}

fn too_large(max_bytes: usize) -> Box<Problem> {
    let detail = format!("the body may have {max_bytes} bytes at most; split it");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail).and_close()
}

fn too_slow() -> Box<Problem> {
    let detail = "the body took too long; send it faster, or in smaller parts";
    Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail).and_close()
}

fn crowded() -> Box<Problem> {
    let detail = "too many bodies are on their way; try again a little later";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "bodies_limit", detail).retry_after("1").and_close()
}

fn broken(error: &hyper::Error) -> Box<Problem> {
    tracing::debug!(%error, "A body could not be read");
    let detail = "the body broke off, or its chunks are damaged; send it again";
    Problem::malformed("body_broken", detail).and_close()
}
