//! Listing and flushing the tables of flows: page by page, on a thread of its own, never on the control thread.

use std::{
    io,
    time::{Duration, Instant},
};

use lb_common::datapath::flow::FlowTable;

use super::{clock::monotonic_ns, control::lower_priority, service::Service};
use crate::{
    api::{
        problem::{Problem, ProblemKind},
        types::{FlowsPage, FlowsQuery, FlushRequest, Flushed},
    },
    dataplane::{live::LiveTables, upkeep::Upkeep},
    plan::flows::{FlowFilter, FlowFilterError, Reader, Selection},
    runtime::tenure::Tenure,
    telemetry::event::{EventKind, NewEvent},
};

/// How long one answer may look for flows. Then it comes with those that were found, and where to go on.
const LIST_TIME: Duration = Duration::from_secs(1);
/// How long flushing may take: less than a request may.
const FLUSH_TIME: Duration = Duration::from_secs(30);
/// Established flows come first: they are what is looked for. One that moves to the other table meanwhile may be missed.
const LIST_ORDER: [FlowTable; 2] = [FlowTable::Flows, FlowTable::Openings];
/// As flows move from one table to the other, never back, this way none is missed.
const FLUSH_ORDER: [FlowTable; 2] = [FlowTable::Openings, FlowTable::Flows];

/// Where in the tables a listing goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Cursor {
    /// Which of [`LIST_ORDER`].
    table: usize,
    /// The page.
    page: Option<u32>,
    /// Entries of the page that were looked at already.
    skip: usize,
}

impl Cursor {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let table = parts.next()?.parse().ok().filter(|table| *table < LIST_ORDER.len())?;
        let page = match parts.next()? {
            "" => None,
            page => Some(page.parse().ok()?),
        };
        let skip = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(Self { table, page, skip })
    }

    fn text(self) -> String {
        let Self { table, page, skip } = self;
        format!("{table}.{}.{skip}", page.map_or_else(String::new, |page| page.to_string()))
    }
}

impl Service {
    pub(super) async fn flows_now(&self, query: FlowsQuery) -> Result<FlowsPage, Problem> {
        let FlowsQuery { filter, limit, cursor } = query;
        let cursor = match cursor {
            None => Cursor::default(),
            Some(text) => Cursor::parse(&text).ok_or_else(|| {
                let detail = format!("\"{}\" is no cursor of an answer", text.escape_debug());
                Problem::new(ProblemKind::Invalid, detail, "ask without a cursor to begin anew")
            })?,
        };
        let tenure = self.tenure();
        let selection = select(&filter, &tenure)?;
        let _alone = self.paging.lock().await;
        on_a_thread(move || list(&tenure, selection, limit, cursor)).await
    }

    pub(super) async fn flush_now(&self, request: FlushRequest) -> Result<Flushed, Problem> {
        // A reload may copy the tables; what is flushed meanwhile would be there again.
        let _no_reload = self.reloading.lock().await;
        let tenure = self.tenure();
        let selection = select(&request.filter, &tenure)?;
        let _alone = self.paging.lock().await;
        let journal = self.journal.clone();
        // The thread itself writes the event: it is done to its end even if nobody waits for it any more.
        on_a_thread(move || {
            let begin_ns = monotonic_ns();
            let (live, upkeep) = (&tenure.live, &tenure.data_plane.upkeep());
            let (mut flushed, outcome) = flush(&tenure, live, upkeep, selection);
            let end_ns = monotonic_ns();
            flushed.took_ns = end_ns.saturating_sub(begin_ns);
            journal.record(NewEvent {
                kind: EventKind::Flows,
                cause: cause(&request, &flushed),
                decided_ns: Some(begin_ns),
                stored_ns: Some(end_ns),
                ..NewEvent::daemon(tenure.config.node.name.clone(), String::new(), end_ns)
            });
            outcome.map(|()| flushed)
        })
        .await
    }
}

fn cause(request: &FlushRequest, flushed: &Flushed) -> String {
    let Flushed { removed, away, complete, .. } = flushed;
    let which = if request.all { "all" } else { request.filter.trim() };
    let end = if *complete { "" } else { ", not to the end of the tables" };
    format!(
        "operator: flushed {removed} flows ({which}), {away} of them away from home{end}: {}",
        request.reason
    )
}

fn select(filter: &str, tenure: &Tenure) -> Result<Selection, Problem> {
    let selected =
        FlowFilter::parse(filter).and_then(|filter| filter.select(&tenure.config, tenure.data_plane.ids()));
    selected.map_err(|error| match &error {
        FlowFilterError::Unknown(kind, name) => Problem::not_found(kind, name),
        FlowFilterError::Invalid(detail) => {
            Problem::new(ProblemKind::Invalid, detail, "see `weir flows list --help`")
        }
    })
}

/// Runs what may take long at the lowest priority.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let failed = |error: String| {
        let detail = format!("the tables of flows cannot be gone through: {error}");
        Problem::new(ProblemKind::Internal, detail, "look into the daemon's log; forwarding goes on")
    };
    let thread = std::thread::Builder::new().name("weir-flows".to_owned()).spawn(move || {
        lower_priority();
        // Nobody may be there any more to whom it matters.
        let _ = sender.send(work());
    });
    thread.map_err(|error| failed(error.to_string()))?;
    let done = receiver.await.map_err(|_| failed("it ended by a panic".to_owned()))?;
    done.map_err(|error| failed(error.to_string()))
}

fn list(tenure: &Tenure, selection: Selection, limit: usize, mut cursor: Cursor) -> io::Result<FlowsPage> {
    let deadline = Instant::now() + LIST_TIME;
    let (observation, upkeep) = (tenure.live.observe(), tenure.data_plane.upkeep());
    let ids = tenure.data_plane.ids();
    let reader = Reader::new(&observation, (&tenure.config, ids), selection, monotonic_ns());
    let mut answer = FlowsPage::default();
    while let Some(&table) = LIST_ORDER.get(cursor.table) {
        let (entries, next) = upkeep.page(table, cursor.page)?;
        for (key, entry) in entries.iter().skip(cursor.skip) {
            if answer.flows.len() >= limit {
                answer.cursor = Some(cursor.text());
                return Ok(answer);
            }
            cursor.skip += 1;
            answer.scanned += 1;
            if let Some(found) = reader.look(table, key, entry) {
                answer.flows.push(reader.view(key, entry, &found));
            }
        }
        cursor = match next {
            Some(_) => Cursor { table: cursor.table, page: next, skip: 0 },
            None => Cursor { table: cursor.table + 1, page: None, skip: 0 },
        };
        if Instant::now() >= deadline && cursor.table < LIST_ORDER.len() {
            answer.cursor = Some(cursor.text());
            return Ok(answer);
        }
    }
    Ok(answer)
}

/// Forgets what matches. What was done until an error is told as well.
fn flush(
    tenure: &Tenure,
    live: &LiveTables,
    upkeep: &Upkeep,
    selection: Selection,
) -> (Flushed, io::Result<()>) {
    let deadline = Instant::now() + FLUSH_TIME;
    let observation = live.observe();
    let ids = tenure.data_plane.ids();
    let reader = Reader::new(&observation, (&tenure.config, ids), selection, monotonic_ns());
    let mut flushed = Flushed { removed: 0, away: 0, scanned: 0, complete: false, took_ns: 0 };
    for table in FLUSH_ORDER {
        let mut page = None;
        loop {
            if Instant::now() >= deadline {
                return (flushed, Ok(()));
            }
            let (entries, next) = match upkeep.page(table, page) {
                Ok(page) => page,
                Err(error) => return (flushed, Err(error)),
            };
            for (key, entry) in &entries {
                flushed.scanned += 1;
                let Some(found) = reader.look(table, key, entry) else { continue };
                if let Err(error) = upkeep.remove(table, key) {
                    return (flushed, Err(error));
                }
                flushed.removed += 1;
                flushed.away += u64::from(found.away);
            }
            if next.is_none() {
                break;
            }
            page = next;
        }
    }
    flushed.complete = true;
    (flushed, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        for cursor in [Cursor::default(), Cursor { table: 1, page: Some(77), skip: 1_023 }] {
            assert_eq!(Cursor::parse(&cursor.text()), Some(cursor));
        }
        for text in ["", "0", "0.", "2..0", "0.x.0", "0..-1", "0..0.0", "0.4294967296.0"] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}
