//! One connection, from accept to close.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::server::conn::http1;
use hyper::service::HttpService;
use tracing::debug;

use crate::io::{Io, Socket};
use crate::problem;
use crate::watch::{Phase, Verdict, Watch};

/// How hyper is set up for every connection.
pub(crate) fn builder(header_max_bytes: usize) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // What has arrived of a request is answered even if the client has closed its half. It
        // also spares hyper a look at the socket, and a buffer, while a request is in flight.
        .half_close(true)
        .writev(false)
        // What a connection may take for reading. Bulk bodies gain nothing from more.
        .max_buf_size((64 << 10).max(header_max_bytes + (4 << 10)))
        .max_header_size(header_max_bytes.max(8192))
        // It would arm a timer for each request; the watchdog does without.
        .header_read_timeout(None);
    builder
}

/// Why a connection was left.
enum End {
    /// hyper is done: the client closed, or it was told to, or it didn't speak HTTP.
    Done(hyper::Result<()>),
    /// The header section took too long.
    HeadLate,
    /// Nothing moved for too long.
    Close,
    /// The socket failed.
    Failed(io::Error),
}

/// Serves requests on a socket until one side has had enough.
pub(crate) async fn serve<S>(
    builder: &http1::Builder,
    socket: Rc<RefCell<Socket>>,
    watch: Rc<Watch>,
    service: S,
) where
    S: HttpService<hyper::body::Incoming, ResBody = crate::Payload, Error = std::convert::Infallible>,
{
    let mut connection = builder.serve_connection(Io(Rc::clone(&socket)), service);
    let mut told_to_stop = false;
    let end = poll_fn(|cx| {
        watch.register(cx);
        match watch.verdict() {
            Verdict::Fine | Verdict::BodyLate => {}
            Verdict::HeadLate => return Poll::Ready(End::HeadLate),
            Verdict::Close => return Poll::Ready(End::Close),
        }
        let mut polled = Pin::new(&mut connection).poll(cx);
        // What has arrived is still answered, though nobody may have told us of it yet.
        let arrived = || watch.between_requests() && socket.borrow().has_more();
        if polled.is_pending() && watch.stopping() && !told_to_stop && !arrived() {
            told_to_stop = true;
            Pin::new(&mut connection).graceful_shutdown();
            polled = Pin::new(&mut connection).poll(cx);
        }
        if let Poll::Ready(result) = polled {
            return Poll::Ready(End::Done(result));
        }
        match socket.borrow_mut().send(cx) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(End::Failed(error)),
        }
    })
    .await;
    drop(connection);
    match end {
        End::Done(result) => {
            if let Err(error) = result {
                debug!(%error, "A connection ended early");
            }
        }
        End::HeadLate => {
            debug!("A client took too long to send a request's header section");
            socket.borrow_mut().push(problem::HEAD_LATE);
        }
        End::Close => {
            debug!("A connection was closed because nothing moved on it");
            return;
        }
        End::Failed(error) => {
            debug!(%error, "Answers could not be sent");
            return;
        }
    }
    linger(&socket, &watch).await;
}

/// Sends one canned answer instead of serving, and closes.
pub(crate) async fn refuse(socket: Rc<RefCell<Socket>>, watch: Rc<Watch>, answer: &'static [u8]) {
    socket.borrow_mut().push(answer);
    linger(&socket, &watch).await;
}

/// Closes our half, then throws away what the client still sends until it closes its own. To
/// close at once with bytes unread would reset the connection, and the client might never see
/// the answer.
async fn linger(socket: &RefCell<Socket>, watch: &Watch) {
    watch.enter(Phase::Linger);
    let mut closed = false;
    poll_fn(|cx| {
        watch.register(cx);
        if watch.verdict() == Verdict::Close {
            return Poll::Ready(());
        }
        let polled = poll_farewell(&mut socket.borrow_mut(), &mut closed, cx);
        // A server that stops doesn't wait for the client's half.
        if closed && watch.stopping() { Poll::Ready(()) } else { polled }
    })
    .await;
}

fn poll_farewell(socket: &mut Socket, closed: &mut bool, cx: &mut Context<'_>) -> Poll<()> {
    if !*closed {
        if ready!(socket.poll_close(cx)).is_err() {
            return Poll::Ready(());
        }
        *closed = true;
    }
    socket.poll_discard(cx)
}
