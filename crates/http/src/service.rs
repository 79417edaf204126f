//! From a request to its answer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Context;

use bytes::Bytes;
use counter::Entries;
use engine::{Counted, Front, Refusal};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};

use crate::body::Budget;
use crate::head::{Head, improper};
use crate::io::Socket;
use crate::problem::{self, Problem};
use crate::stats::{Route, Stats};
use crate::watch::{Phase, Watch};
use crate::{OPENAPI, Options, Readiness, Telemetry, body, counters, increments};

/// The body of every answer.
pub(crate) type Payload = Full<Bytes>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What the connections of one worker share.
pub(crate) struct Worker<F> {
    pub(crate) index: usize,
    pub(crate) front: F,
    pub(crate) options: Options,
    pub(crate) stats: Arc<Stats>,
    pub(crate) telemetry: Arc<dyn Telemetry>,
    pub(crate) budget: Arc<Budget>,
    /// Used ones, so that a request needn't allocate.
    pub(crate) spare_entries: RefCell<Vec<Entries>>,
    /// Whose answers are held, in the order of submission.
    pub(crate) submitted: RefCell<VecDeque<(Weak<RefCell<Socket>>, Route)>>,
}

impl<F> Worker<F> {
    /// Empty entries.
    #[inline]
    pub(crate) fn entries(&self) -> Entries {
        self.spare_entries.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes entries back for the next request.
    #[inline]
    pub(crate) fn recycle(&self, mut entries: Entries) {
        const MAX_SPARE: usize = 64;
        let mut spare = self.spare_entries.borrow_mut();
        if spare.len() < MAX_SPARE {
            entries.clear();
            spare.push(entries);
        }
    }
}

impl<F: Front> Worker<F> {
    /// Lets the answers go that are true by now, and replaces those that aren't. `answers` is kept
    /// for its memory.
    pub(crate) fn release(&self, cx: &Context<'_>, answers: &mut Vec<Result<Counted, Box<Refusal>>>) {
        self.front.poll_submitted(cx, answers);
        let mut submitted = self.submitted.borrow_mut();
        let mut answers = answers.drain(..);
        while let Some(answer) = answers.next() {
            let Some((socket, route)) = submitted.pop_front() else { break };
            let refused = answer.err().map(|refusal| Box::<Problem>::from(*refusal));
            let status = refused.as_ref().map_or(StatusCode::ACCEPTED, |problem| problem.status);
            self.stats.count_request(self.index, route, status.as_u16());
            // All of a connection's that are known go together.
            let more = answers.len() > 0 && submitted.front().is_some_and(|(next, _)| next.ptr_eq(&socket));
            // A connection that is gone has nobody to be told.
            let Some(socket) = socket.upgrade() else { continue };
            let mut socket = socket.borrow_mut();
            socket.release(refused.as_deref());
            if !more {
                socket.go();
            }
        }
    }
}

/// What is sent back.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    body: Bytes,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    close: bool,
    /// It is counted when it goes.
    held: bool,
}

impl Answer {
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self { status, body: Bytes::new(), headers: Vec::new(), close: false, held: false }
    }

    /// A 202 whose bytes the socket holds back.
    pub(crate) fn held() -> Self {
        Self { held: true, ..Self::empty(StatusCode::ACCEPTED) }
    }

    pub(crate) fn json(status: StatusCode, json: impl Into<Bytes>) -> Self {
        Self::text(status, JSON, json)
    }

    fn text(status: StatusCode, media_type: HeaderValue, text: impl Into<Bytes>) -> Self {
        Self { body: text.into(), headers: vec![(CONTENT_TYPE, media_type)], ..Self::empty(status) }
    }

    /// `headers` are those of the request: their memory serves again, for the answer and, as
    /// hyper keeps it, for the next request.
    #[inline]
    fn into_response(self, mut headers: HeaderMap) -> Response<Payload> {
        headers.clear();
        if !self.headers.is_empty() {
            headers.extend(self.headers);
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

impl From<Box<Problem>> for Answer {
    fn from(problem: Box<Problem>) -> Self {
        let mut answer = Self::text(problem.status, problem::MEDIA_TYPE, problem.to_json());
        answer.close = problem.close;
        answer.headers.extend(problem.header);
        answer
    }
}

impl Route {
    #[inline]
    fn of(path: &str) -> Self {
        match path {
            "/increment" => Self::Increment,
            "/increments" => Self::Increments,
            "/counters" => Self::Counters,
            "/healthz" => Self::Healthz,
            "/readyz" => Self::Readyz,
            "/metrics" => Self::Metrics,
            "/openapi.json" => Self::Openapi,
            _ if path.starts_with(COUNTER) => Self::Counter,
            _ => Self::Unknown,
        }
    }
}

/// What the path of one counter begins with.
pub(crate) const COUNTER: &str = "/counters/";

/// Answers one request.
pub(crate) async fn handle<F: Front>(
    worker: Rc<Worker<F>>,
    watch: Rc<Watch>,
    socket: Rc<RefCell<Socket>>,
    request: Request<Incoming>,
) -> Result<Response<Payload>, Infallible> {
    watch.enter(Phase::Busy);
    let (parts, mut body) = request.into_parts();
    let route = Route::of(parts.uri.path());
    let mut answer = match answer(&worker, &watch, &socket, route, &parts, &mut body).await {
        Ok(answer) => answer,
        Err(problem) => Answer::from(problem),
    };
    answer.close |= watch.is_last();
    if !body.is_end_stream() && !answer.close {
        // To ask for the rest would invite a client that waits for "100 Continue" to send it.
        answer.close = parts.headers.contains_key(EXPECT) || !body::is_here(&mut body).await;
    }
    if !answer.held {
        worker.stats.count_request(worker.index, route, answer.status.as_u16());
    }
    watch.enter(Phase::Idle);
    Ok(answer.into_response(parts.headers))
}

#[inline]
async fn answer<F: Front>(
    worker: &Worker<F>,
    watch: &Watch,
    socket: &Rc<RefCell<Socket>>,
    route: Route,
    parts: &Parts,
    body: &mut Incoming,
) -> Result<Answer, Box<Problem>> {
    let head = Head::read(parts.version, &parts.headers)?;
    if head.is_chunked() && watch.recent().has_length_and_coding() {
        return Err(improper("Content-Length and Transfer-Encoding can't go together; send one of them"));
    }
    match route {
        Route::Increment if parts.method == Method::POST => {
            increments::one(worker, watch, socket, &head, &parts.headers, body).await
        }
        Route::Increments if parts.method == Method::POST => {
            increments::many(worker, watch, socket, &head, body).await
        }
        Route::Increment | Route::Increments => Err(method_not_allowed("POST")),
        Route::Unknown => {
            let detail = "there is no such resource; /openapi.json lists those there are";
            Err(Problem::new(StatusCode::NOT_FOUND, "no_such_resource", detail))
        }
        _ if parts.method != Method::GET && parts.method != Method::HEAD => {
            Err(method_not_allowed("GET, HEAD"))
        }
        Route::Counter => {
            after_what_is_held(socket).await;
            let path = parts.uri.path();
            counters::one(&worker.front, path.strip_prefix(COUNTER).unwrap_or_default()).await
        }
        Route::Counters => {
            after_what_is_held(socket).await;
            counters::page(&worker.front, parts.uri.query().unwrap_or_default()).await
        }
        Route::Healthz => Ok(Answer::json(StatusCode::OK, "{\"status\":\"alive\"}")),
        Route::Readyz => readyz(&*worker.telemetry),
        Route::Metrics => Ok(metrics(&*worker.telemetry)),
        Route::Openapi => Ok(Answer::json(StatusCode::OK, OPENAPI)),
    }
}

/// What was counted before on the same connection is in what is read after it.
#[inline]
async fn after_what_is_held(socket: &RefCell<Socket>) {
    poll_fn(|cx| socket.borrow_mut().poll_released(cx)).await;
}

fn method_not_allowed(allow: &'static str) -> Box<Problem> {
    let detail = "this method can't be used here; the Allow header lists those that can";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        .with_header(ALLOW, HeaderValue::from_static(allow))
}

fn readyz(telemetry: &dyn Telemetry) -> Result<Answer, Box<Problem>> {
    match telemetry.readiness() {
        Readiness::Ready { degraded } => {
            let json = serde_json::json!({ "status": "ready", "degraded": degraded });
            Ok(Answer::json(StatusCode::OK, json.to_string()))
        }
        Readiness::NotReady { reason } => {
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", reason);
            Err(problem.retry_after("1"))
        }
    }
}

fn metrics(telemetry: &dyn Telemetry) -> Answer {
    let mut text = String::new();
    telemetry.metrics(&mut text);
    let media_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Answer::text(StatusCode::OK, media_type, text)
}
