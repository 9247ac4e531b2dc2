//! The HTTP API on the unix socket, and over TCP.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`types::Status`] |
//! | `GET /v1/services`, `/v1/services/{name}` | [`types::ServiceView`] |
//! | `GET /v1/backends`, `/v1/backends/{name}` | [`types::BackendView`] |
//! | `GET /v1/domains`, `/v1/domains/{path}` | [`types::DomainView`] |
//! | `POST /v1/backends/{name}/{drain\|fail\|restore}` | [`types::Acted`] |
//! | `POST /v1/domains/actions/{drain\|fail\|restore}` | [`types::Acted`] |
//! | `GET /v1/shifts` | [`types::ShiftView`]s |
//! | `POST /v1/shifts`, with a [`types::ShiftRequest`] | [`types::ShiftView`] |
//! | `POST /v1/shifts/extend`, with a [`types::ShiftExtendRequest`] | [`types::ShiftView`] |
//! | `POST /v1/shifts/cancel`, with a [`types::ShiftCancelRequest`] | [`types::ShiftView`] |
//! | `GET /v1/canaries` | [`types::CanaryView`]s |
//! | `POST /v1/canaries`, with a [`types::CanarySetRequest`] | [`types::CanaryView`] |
//! | `POST /v1/canaries/{step\|promote\|abort}`, with a [`types::CanaryRequest`] | [`types::CanaryView`] |
//! | `GET /v1/bfd`, `/v1/bfd/{backend}` | [`types::BfdSessionView`]s |
//! | `GET /v1/guards`, `/v1/guards/{service}` | [`types::GuardView`] |
//! | `GET /v1/plans?client=`, `/v1/plans/{service}?client=` | [`types::SteeredPlan`]s |
//! | `POST /v1/plans/simulate`, with a [`types::SimulateRequest`] | [`types::Simulation`] |
//! | `GET /v1/emergency` | [`types::SwitchView`] |
//! | `POST /v1/emergency`, with a [`types::ThrowRequest`] | [`types::SwitchView`] |
//! | `POST /v1/emergency/clear`, with a [`types::ClearRequest`] | [`types::SwitchView`] |
//! | `POST /v1/reload` | [`types::Reloaded`] |
//! | `GET /v1/diff?file=` | [`types::Differences`] |
//! | `GET /v1/explain?src=&dst=&protocol=&opening=` | [`types::Explanation`] |
//! | `GET /v1/report?since_s=` | [`Report`] |
//! | `GET /v1/events?after=&limit=&wait=` | [`Event`]s |
//! | `GET /v1/events/stream?after=` | [`Event`]s as they come, as server-sent events |
//! | `GET /v1/watch?filter=&sample=&snap=` | [`types::WatchLine`]s, one JSON object a line, without end |
//! | `GET /v1/traffic?points=` | [`types::TrafficHistory`] |
//! | `GET /v1/stats?by=&over=` | [`types::Stats`] |
//! | `GET /v1/flows?filter=&limit=&cursor=` | [`types::FlowsPage`] |
//! | `POST /v1/flows/flush`, with a [`types::FlushRequest`] | [`types::Flushed`] |
//! | `GET /v1/log` | [`types::LogView`] |
//! | `PUT /v1/log`, with a [`types::LogRequest`]; `DELETE /v1/log` | [`types::LogView`] |
//! | `GET /v1/config` | the configuration in force with its defaults, without secrets |
//! | `GET /v1/doctor` | [`Finding`]s |
//! | `GET /v1/openapi.json` | this, as an OpenAPI document |
//! | `GET /metrics` | metrics for Prometheus |
//! | `GET /` | the status page |
//!
//! What only tells and names no file is also served over TCP where `[http] listen` says ([`router::Surface::ReadOnly`]); all of it to
//! those who show a certificate there ([`https`]), as far as they may ([`access`]).
//!
//! Lists are JSON arrays, sorted by name. Errors are [`problem::Problem`].

use std::{path::PathBuf, time::Duration};

use crate::{
    cli::doctor::Finding,
    plan::state::Action,
    telemetry::{event::Event, metrics, report::Report},
};
use hyper::body::Bytes;
use problem::Problem;
use tokio::sync::mpsc;
use types::{
    Acted, ActionTerms, BackendView, BfdSessionView, CanaryChange, CanaryView, ClearRequest, Differences,
    DomainView, ExplainQuery, Explanation, FlowsPage, FlowsQuery, FlushRequest, Flushed, GuardView,
    LogChange, LogView, Reloaded, ServiceView, ShiftCancelRequest, ShiftExtendRequest, ShiftRequest,
    ShiftView, SimulateRequest, Simulation, Stats, StatsBy, Status, SteeredPlan, SubjectName, SwitchView,
    ThrowRequest, TrafficHistory, WatchQuery,
};

mod access;
mod flows;
mod host;
pub mod https;
pub mod limits;
mod observe;
pub mod openapi;
mod operations;
mod peers;
pub mod problem;
pub mod router;
pub mod server;
mod stats;
mod tcp;
pub mod types;
pub mod watch;
mod writes;

/// What is to be done about a shift.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ShiftChange {
    /// Shift, or replace the shift that stands.
    Set(ShiftRequest),
    /// Let it stand for longer.
    Extend(ShiftExtendRequest),
    /// End it.
    Cancel(ShiftCancelRequest),
}

/// What the API needs of a daemon.
pub trait Control: Send + Sync + 'static {
    /// How things stand.
    fn status(&self) -> impl Future<Output = Status> + Send;
    /// All services, in any order.
    fn services(&self) -> impl Future<Output = Vec<ServiceView>> + Send;
    /// All backends, in any order.
    fn backends(&self) -> impl Future<Output = Vec<BackendView>> + Send;
    /// All domains, in any order.
    fn domains(&self) -> impl Future<Output = Vec<DomainView>> + Send;
    /// Does what an operator says. `reason` has been checked: not empty, bounded, no control characters. The answer
    /// comes when the word is in the data plane.
    fn act(
        &self,
        subject: SubjectName,
        action: Action,
        terms: ActionTerms,
        reason: String,
    ) -> impl Future<Output = Result<Acted, Problem>> + Send;
    /// The shifts that stand, in any order.
    fn shifts(&self) -> impl Future<Output = Vec<ShiftView>> + Send;
    /// Shifts a domain, or extends or cancels its shift. The reason has been checked; the rest has not. The answer comes when the
    /// word is in the data plane; of a cancelled shift it is the one that stood.
    fn shift(&self, request: ShiftChange) -> impl Future<Output = Result<ShiftView, Problem>> + Send;
    /// The canaries that stand.
    fn canaries(&self) -> impl Future<Output = Vec<CanaryView>> + Send;
    /// Begins, moves or ends a canary. The reason has been checked; the rest has not. The answer comes when that is in force; of a
    /// canary that ended it is the one that stood.
    fn canary(&self, change: CanaryChange) -> impl Future<Output = Result<CanaryView, Problem>> + Send;
    /// All BFD sessions, in any order.
    fn bfd_sessions(&self) -> impl Future<Output = Vec<BfdSessionView>> + Send;
    /// How each service is protected, in any order.
    fn guards(&self) -> impl Future<Output = Vec<GuardView>> + Send;
    /// Plans as they stand: of all services or of one, for all clients or for some (an address, a prefix or the name of a client
    /// region).
    fn plans(
        &self,
        service: Option<String>,
        client: Option<String>,
    ) -> impl Future<Output = Result<Vec<SteeredPlan>, Problem>> + Send;
    /// How plans would come to stand. Changes nothing.
    fn simulate(&self, request: SimulateRequest) -> impl Future<Output = Result<Simulation, Problem>> + Send;
    /// The emergency switches that are on, in any order.
    fn switches(&self) -> impl Future<Output = Vec<SwitchView>> + Send;
    /// Throws an emergency switch. The reason has been checked; the rest has not. The answer comes when the switch is in the data plane.
    fn throw(&self, request: ThrowRequest) -> impl Future<Output = Result<SwitchView, Problem>> + Send;
    /// Takes an emergency switch back. The reason has been checked.
    fn clear(&self, request: ClearRequest) -> impl Future<Output = Result<SwitchView, Problem>> + Send;
    /// Where a packet would go now.
    fn explain(&self, query: ExplainQuery) -> impl Future<Output = Result<Explanation, Problem>> + Send;
    /// Reads the configuration's file again and puts it in force, without a gap and without a broken connection.
    fn reload(&self) -> impl Future<Output = Result<Reloaded, Problem>> + Send;
    /// What a reload would do, with the configuration's own file or another one.
    fn diff(&self, file: Option<PathBuf>) -> impl Future<Output = Result<Differences, Problem>> + Send;
    /// Shows packets: lines of JSON ([`types::WatchLine`]), as they come, until the receiver goes.
    fn watch(&self, query: WatchQuery)
    -> impl Future<Output = Result<mpsc::Receiver<Bytes>, Problem>> + Send;
    /// How often and how long what was down since then.
    fn report(&self, since: jiff::Timestamp) -> impl Future<Output = Result<Report, Problem>> + Send;
    /// Events, oldest first, at most `limit`: the first ones after number `after`, or, without it, the last ones of all.
    /// Where there is none after `after`, waits for one for at most `wait`.
    fn events(
        &self,
        after: Option<u64>,
        limit: usize,
        wait: Duration,
    ) -> impl Future<Output = Vec<Event>> + Send;
    /// All that metrics tell.
    fn metrics(&self) -> impl Future<Output = metrics::Snapshot> + Send;
    /// What is logged, or a change of it.
    fn log(&self, change: LogChange) -> impl Future<Output = Result<LogView, Problem>> + Send;
    /// The configuration in force as its files say it, with every default filled in, without secrets.
    fn effective(&self) -> impl Future<Output = serde_json::Value> + Send;
    /// What of this host may hurt.
    fn doctor(&self) -> impl Future<Output = Result<Vec<Finding>, Problem>> + Send;
    /// The traffic of the last hour, at most so many points.
    fn traffic(&self, points: usize) -> impl Future<Output = TrafficHistory> + Send;
    /// Counters now, and what they grow by in `over`, for which the answer then waits.
    fn stats(&self, by: StatsBy, over: Duration) -> impl Future<Output = Stats> + Send;
    /// Flows that the tables of flows hold.
    fn flows(&self, query: FlowsQuery) -> impl Future<Output = Result<FlowsPage, Problem>> + Send;
    /// Forgets flows. The reason has been checked, and that there is either a filter or "all".
    fn flush(&self, request: FlushRequest) -> impl Future<Output = Result<Flushed, Problem>> + Send;
}
