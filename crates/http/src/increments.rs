//! Counting: one increment, or many at once.

use std::cell::RefCell;
use std::rc::Rc;

use counter::{Decoder, Entries, Entry};
use engine::{Counted, Front};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::head::{Allowed, Format, Head};
use crate::io::Socket;
use crate::problem::Problem;
use crate::service::{Answer, Worker};
use crate::stats::Route;
use crate::watch::Watch;
use crate::{body, counters, form, idempotency, json};

/// What `POST /increment` takes.
pub(crate) const ONE: Allowed = Allowed {
    formats: &[Format::Json, Format::Form],
    accept_post: "application/json, application/x-www-form-urlencoded",
};

/// What `POST /increments` takes.
pub(crate) const MANY: Allowed = Allowed {
    formats: &[Format::Json, Format::Lines],
    accept_post: "application/json, application/x-ndjson, application/jsonl",
};

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// `POST /increment`.
pub(crate) async fn one<F: Front>(
    worker: &Worker<F>,
    watch: &Watch,
    socket: &Rc<RefCell<Socket>>,
    head: &Head<'_>,
    headers: &HeaderMap,
    body: &mut Incoming,
) -> Result<Answer, Box<Problem>> {
    let format = head.format(&ONE)?;
    let id = head.idempotency_key()?;
    let mut entries = worker.entries();
    let parse = |bytes: &[u8]| match format {
        Format::Form => form::one(bytes, &mut entries),
        _ => json::one(bytes, &mut entries),
    };
    body::read(body, worker.options.increment_max_bytes, &worker.budget, watch, parse).await?;
    let represent = head.wants_representation(headers);
    if id.is_none()
        && !represent
        && let Some(answer) = submit(worker, socket, Route::Increment, head, &entries)
    {
        worker.recycle(entries);
        return answer;
    }
    let counted = count(worker, Route::Increment, &entries, id.as_deref()).await?;
    let mut answer = Answer::empty(StatusCode::ACCEPTED);
    if represent && let Some(Ok(Entry::Increment { key, .. })) = Decoder::new(entries.bytes()).next() {
        let mut total = counted.total;
        if counted.partial {
            // It is counted; where the store can't be asked, what is known here has to do.
            total = worker.front.total(key).await.ok().flatten().unwrap_or(total);
        }
        answer = Answer::json(StatusCode::OK, counters::counter(key, total));
        answer.headers.push((PREFERENCE_APPLIED, HeaderValue::from_static("return=representation")));
    }
    worker.recycle(entries);
    Ok(marked(answer, counted))
}

/// `POST /increments`.
pub(crate) async fn many<F: Front>(
    worker: &Worker<F>,
    watch: &Watch,
    socket: &Rc<RefCell<Socket>>,
    head: &Head<'_>,
    body: &mut Incoming,
) -> Result<Answer, Box<Problem>> {
    let format = head.format(&MANY)?;
    let id = head.idempotency_key()?;
    let mut entries = Entries::new();
    let parse = |bytes: &[u8]| match format {
        Format::Lines => json::lines(bytes, &mut entries),
        _ => json::array(bytes, &mut entries),
    };
    body::read(body, worker.options.increments_max_bytes, &worker.budget, watch, parse).await?;
    if entries.count() == 0 {
        return Err(Problem::invalid("there is no entry to count; send at least one"));
    }
    if id.is_none()
        && let Some(answer) = submit(worker, socket, Route::Increments, head, &entries)
    {
        return answer;
    }
    let counted = count(worker, Route::Increments, &entries, id.as_deref()).await?;
    Ok(marked(Answer::empty(StatusCode::ACCEPTED), counted))
}

/// Hands over what is answered by a bare 202, and makes that at once, to be held back until it is
/// true. `None` where the request has to be waited for instead.
fn submit<F: Front>(
    worker: &Worker<F>,
    socket: &Rc<RefCell<Socket>>,
    route: Route,
    head: &Head<'_>,
    entries: &Entries,
) -> Option<Result<Answer, Box<Problem>>> {
    if !head.is_answered_plainly() || !socket.borrow().may_hold() {
        return None;
    }
    let submitted = worker.front.submit(entries)?;
    Some(submitted.map_err(Box::<Problem>::from).map(|()| {
        socket.borrow_mut().hold();
        worker.submitted.borrow_mut().push_back((Rc::downgrade(socket), route));
        Answer::held()
    }))
}

async fn count<F: Front>(
    worker: &Worker<F>,
    route: Route,
    entries: &Entries,
    id: Option<&str>,
) -> Result<Counted, Box<Problem>> {
    let unit = id.map(|id| (id, idempotency::fingerprint(route, entries)));
    Ok(worker.front.count(entries, unit).await?)
}

fn marked(mut answer: Answer, counted: Counted) -> Answer {
    if counted.replayed {
        answer.headers.push((REPLAYED, HeaderValue::from_static("true")));
    }
    answer
}
