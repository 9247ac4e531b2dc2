//! The API's OpenAPI document, made from the routes below and from the types that they take and give.
//!
//! `docs/openapi.json` is what [`document`] says; a test compares them, and the routes below with those of the router.

use schemars::{
    JsonSchema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use super::{
    limits::{MAX_BODY_BYTES, MAX_EVENTS, MAX_FLOWS, MAX_IDEMPOTENCY_KEY_CHARS, MAX_WAIT},
    problem::Problem,
    types::{
        Acted, BackendActionRequest, BackendView, BfdSessionView, CanaryRequest, CanarySetRequest,
        CanaryView, ClearRequest, Differences, DomainActionRequest, DomainView, Explanation, FlowsPage,
        FlushRequest, Flushed, GuardView, LogRequest, LogView, Reloaded, ServiceView, ShiftCancelRequest,
        ShiftExtendRequest, ShiftRequest, ShiftView, SimulateRequest, Simulation, Stats, StatsBy, Status,
        SteeredPlan, SwitchView, ThrowRequest, TrafficHistory, WatchLine,
    },
};
use crate::cli::doctor::Finding;
use crate::telemetry::{event::Event, history::MAX_POINTS, report::Report};

/// The generators of what is taken and of what is given.
struct Types {
    taken: SchemaGenerator,
    given: SchemaGenerator,
}

/// A parameter: its name, where it stands, its schema, what it means.
type Parameter = (&'static str, &'static str, Value, &'static str);

impl Types {
    fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.meta_schema = None;
                settings.definitions_path = "/components/schemas".into();
            })
        };
        let mut taken = settings();
        taken.inline_subschemas = true;
        let mut given = settings();
        given.contract = Contract::Serialize;
        Self { taken: taken.into_generator(), given: given.into_generator() }
    }

    fn answer<T: JsonSchema>(&mut self) -> Value {
        self.given.subschema_for::<T>().into()
    }

    fn body<T: JsonSchema>(&mut self) -> Value {
        self.taken.subschema_for::<T>().into()
    }
}

/// The document.
#[must_use]
pub fn document() -> Value {
    let mut types = Types::new();
    let problem = types.answer::<Problem>();
    let mut paths = Map::new();
    look(&mut types, &mut paths);
    operate(&mut types, &mut paths);
    for (_, methods) in &mut paths {
        for (_, operation) in methods.as_object_mut().into_iter().flatten() {
            operation["responses"]["default"] = json!({
                "description": "What went wrong, and what to do about it (RFC 9457).",
                "content": {"application/problem+json": {"schema": problem}},
            });
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Weir",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT OR Apache-2.0"},
            "description": format!(
                "The daemon's API: all of it on the unix socket. Over TCP, where `[http] listen` says: what is tagged `look`, without a \
                 certificate only for requests to an address or to a name without dots; with `client_ca_file` all of it, for those who \
                 show a certificate: who is named in `operators` may operate, all others may read. Shares run from 0 to 255; fields that end in `_ns` are nanoseconds, \
                 moments among them readings of CLOCK_MONOTONIC; fields that do not apply are left out. Bodies have at most \
                 {MAX_BODY_BYTES} bytes."
            ),
        },
        "servers": [{"url": "http://localhost", "description": "curl --unix-socket /run/weir/weir.sock"}],
        "tags": [
            {"name": "look", "description": "Only tells."},
            {"name": "ask", "description": "Only tells; on the unix socket, or to those who show a certificate."},
            {"name": "operate", "description": "Changes what the data plane does."},
        ],
        "paths": paths,
        "components": {"schemas": types.given.take_definitions(true)},
    })
}

/// What only tells.
fn look(types: &mut Types, paths: &mut Map<String, Value>) {
    let name = || vec![("name", "path", text(), "Its name.")];
    let mut get = |tag, path: &str, summary, parameters: Vec<Parameter>, kind: &str, schema: Value| {
        let mut operation = operation(tag, summary, parameters);
        operation["responses"] =
            json!({"200": {"description": "As asked.", "content": {kind: {"schema": schema}}}});
        add(paths, path, "get", operation);
    };
    let json = "application/json";
    let status = types.answer::<Status>();
    get(
        "look",
        "/v1/status",
        "How the edge host is doing. Its ETag is that of the configuration in force.",
        vec![],
        json,
        status,
    );
    get("look", "/v1/services", "All services, by name.", vec![], json, types.answer::<Vec<ServiceView>>());
    get("look", "/v1/services/{name}", "One service.", name(), json, types.answer::<ServiceView>());
    get("look", "/v1/backends", "All backends, by name.", vec![], json, types.answer::<Vec<BackendView>>());
    get("look", "/v1/backends/{name}", "One backend.", name(), json, types.answer::<BackendView>());
    get("look", "/v1/domains", "All domains, by path.", vec![], json, types.answer::<Vec<DomainView>>());
    let path = vec![("path", "path", text(), "Its path, such as west/w1; slashes may stand as they are.")];
    get("look", "/v1/domains/{path}", "One domain.", path, json, types.answer::<DomainView>());
    let points =
        vec![("points", "query", number(0, MAX_POINTS), "The last so many points; all of them if left out.")];
    get(
        "look",
        "/v1/traffic",
        "The traffic of the last hour.",
        points,
        json,
        types.answer::<TrafficHistory>(),
    );
    let after = |words| ("after", "query", json!({"type": "integer", "minimum": 0}), words);
    let events = vec![
        after("Events with higher numbers only, the first ones; without it the last ones of all."),
        ("limit", "query", number(1, MAX_EVENTS), "At most so many; 100 if left out."),
        (
            "wait",
            "query",
            number(0, MAX_WAIT.as_secs() as usize),
            "Where there is none after `after`, so many seconds.",
        ),
    ];
    get("look", "/v1/events", "Events, oldest first.", events, json, types.answer::<Vec<Event>>());
    let stream = vec![
        after("The first event has the next number; without it those that come from now on."),
        ("Last-Event-ID", "header", json!({"type": "integer", "minimum": 0}), "As `after`, and before it."),
    ];
    let summary = "Events as they come, as server-sent events: `id` is the number, `data` an Event. Ends after 100 s; ask again with \
                   Last-Event-ID, as browsers do.";
    get("look", "/v1/events/stream", summary, stream, "text/event-stream", text());
    get("look", "/v1/openapi.json", "This document.", vec![], json, json!({"type": "object"}));
    get("look", "/metrics", "Metrics in the text format of Prometheus.", vec![], "text/plain", text());
    get("look", "/", "The status page.", vec![], "text/html", text());
    get("look", "/status.css", "Its style.", vec![], "text/css", text());
    get("look", "/status.js", "Its script.", vec![], "text/javascript", text());
    get("look", "/icon.svg", "Its icon.", vec![], "image/svg+xml", text());
    let sessions = types.answer::<Vec<BfdSessionView>>();
    get("ask", "/v1/bfd", "All BFD sessions, by backend.", vec![], json, sessions.clone());
    let backend = vec![("backend", "path", text(), "Its name.")];
    get("ask", "/v1/bfd/{backend}", "The BFD sessions of one backend.", backend, json, sessions);
    get(
        "ask",
        "/v1/guards",
        "How each service is protected.",
        vec![],
        json,
        types.answer::<Vec<GuardView>>(),
    );
    let service = vec![("service", "path", text(), "Its name.")];
    get(
        "ask",
        "/v1/guards/{service}",
        "How one service is protected.",
        service,
        json,
        types.answer::<GuardView>(),
    );
    get(
        "ask",
        "/v1/emergency",
        "Emergency switches that are on.",
        vec![],
        json,
        types.answer::<Vec<SwitchView>>(),
    );
    get(
        "look",
        "/v1/shifts",
        "Shifts of domains that stand.",
        vec![],
        json,
        types.answer::<Vec<ShiftView>>(),
    );
    let flow = vec![
        ("src", "query", text(), "The client, with a port: 198.51.100.7:40000."),
        ("dst", "query", text(), "VIP and port, of the same family."),
        ("protocol", "query", json!({"enum": ["tcp", "udp", "sctp"]}), "tcp if left out."),
        (
            "opening",
            "query",
            json!({"type": "boolean"}),
            "Whether the packet opens the flow; it does if left out.",
        ),
        (
            "from_relay",
            "query",
            json!({"type": "boolean"}),
            "Whether another region's Weir relayed the packet; it did not if left out.",
        ),
    ];
    get(
        "ask",
        "/v1/explain",
        "Where a packet would go now, and why.",
        flow,
        json,
        types.answer::<Explanation>(),
    );
    get("look", "/v1/canaries", "Canaries that stand.", vec![], json, types.answer::<Vec<CanaryView>>());
    let client =
        || vec![("client", "query", text(), "Only what holds for this prefix, such as 198.51.100.0/24.")];
    let steered = types.answer::<Vec<SteeredPlan>>();
    get("look", "/v1/plans", "Plans as they stand.", client(), json, steered.clone());
    let mut one = client();
    one.push(("service", "path", text(), "Its name."));
    get("look", "/v1/plans/{service}", "Plans of one service.", one, json, steered.clone());
    let summary = "Plans of a service that is called so.";
    get("ask", "/v1/plans/simulate", summary, client(), json, steered);
    get("ask", "/v1/log", "What the daemon logs.", vec![], json, types.answer::<LogView>());
    let summary = "The configuration in force with its defaults, without secrets.";
    get(
        "ask",
        "/v1/config",
        summary,
        vec![],
        json,
        serde_json::json!({"type": "object", "additionalProperties": {}}),
    );
    let summary = "What of the host may hurt, with remedies.";
    get("ask", "/v1/doctor", summary, vec![], json, types.answer::<Vec<Finding>>());
    let since = vec![(
        "since_s",
        "query",
        json!({"type": "integer", "minimum": 0}),
        "How far back, in seconds; a week if left out.",
    )];
    get("ask", "/v1/report", "Failures, repairs and availability.", since, json, types.answer::<Report>());
    let watch = vec![
        ("filter", "query", text(), "Which packets, as `weir trace --help` says; all of them if left out."),
        (
            "sample",
            "query",
            json!({"type": "integer", "minimum": 1}),
            "One of so many packets; each if left out.",
        ),
        (
            "snap",
            "query",
            json!({"type": "integer", "minimum": 0}),
            "Bytes of each packet; none if left out.",
        ),
    ];
    let summary = "Packets as they come, one JSON object a line, without end.";
    get("ask", "/v1/watch", summary, watch, "application/x-ndjson", types.answer::<WatchLine>());
    let stats = vec![
        (
            "by",
            "query",
            json!({"enum": StatsBy::ALL}),
            "What counters are told apart by; service if left out.",
        ),
        (
            "over",
            "query",
            number(0, MAX_WAIT.as_secs() as usize),
            "Seconds over which rates are measured: the answer comes after them; none if left out.",
        ),
    ];
    get("look", "/v1/stats", "Counters and rates.", stats, json, types.answer::<Stats>());
    let flows = vec![
        (
            "filter",
            "query",
            text(),
            "Which flows, as `weir flows list --help` says; all of them if left out.",
        ),
        ("limit", "query", number(1, MAX_FLOWS), "At most so many; 100 if left out."),
        ("cursor", "query", text(), "That of the answer before, for the flows behind its."),
    ];
    let summary = "Flows that are remembered, in no order: those away from home, and in transition. Go on for as long as there is a \
                   cursor.";
    get("ask", "/v1/flows", summary, flows, json, types.answer::<FlowsPage>());
    let file = vec![("file", "query", text(), "Another file than the daemon's own.")];
    get("ask", "/v1/diff", "What a reload would do.", file, json, types.answer::<Differences>());
}

/// What changes something.
fn operate(types: &mut Types, paths: &mut Map<String, Value>) {
    let mut order = |method,
                     path: &str,
                     summary,
                     parameters: Vec<Parameter>,
                     body: Option<Value>,
                     answer: Value| {
        let mut operation = operation("operate", summary, parameters);
        let headers = [
            (
                "Idempotency-Key",
                json!({"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY_CHARS, "pattern": "^[!-~]+$"}),
                "Done once for each key: sent again, the first answer comes again.",
            ),
            ("If-Match", text(), "Done only if the configuration in force has this ETag."),
        ];
        for (name, schema, words) in headers {
            let header = json!({"name": name, "in": "header", "schema": schema, "description": words});
            operation["parameters"].as_array_mut().expect("made as one").push(header);
        }
        if let Some(body) = body {
            operation["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": body}}});
        }
        let content = json!({"application/json": {"schema": answer}});
        operation["responses"] = json!({"200": {"description": "Done.", "content": content}});
        add(paths, path, method, operation);
    };
    let (body, answer) = (types.body::<LogRequest>(), types.answer::<LogView>());
    order("put", "/v1/log", "Log by another filter for a while.", vec![], Some(body), answer.clone());
    order("delete", "/v1/log", "Log as at the start again.", vec![], None, answer);
    let mut post = |path: &str, summary, parameters, body, answer| {
        order("post", path, summary, parameters, body, answer);
    };
    let action = || ("action", "path", json!({"enum": ["drain", "fail", "restore"]}), "What to do.");
    let (body, answer) = (types.body::<BackendActionRequest>(), types.answer::<Acted>());
    let backend = vec![("name", "path", text(), "Its name."), action()];
    post("/v1/backends/{name}/{action}", "Drain, fail or restore a backend.", backend, Some(body), answer);
    let (body, answer) = (types.body::<DomainActionRequest>(), types.answer::<Acted>());
    post(
        "/v1/domains/actions/{action}",
        "Drain, fail or restore a domain.",
        vec![action()],
        Some(body),
        answer,
    );
    let (body, answer) = (types.body::<ShiftRequest>(), types.answer::<ShiftView>());
    post("/v1/shifts", "Shift a domain, or replace its shift.", vec![], Some(body), answer);
    let (body, answer) = (types.body::<ShiftExtendRequest>(), types.answer::<ShiftView>());
    post("/v1/shifts/extend", "Let a shift stand for longer.", vec![], Some(body), answer);
    let (body, answer) = (types.body::<ShiftCancelRequest>(), types.answer::<ShiftView>());
    post("/v1/shifts/cancel", "End a shift.", vec![], Some(body), answer);
    let (body, answer) = (types.body::<CanarySetRequest>(), types.answer::<CanaryView>());
    post("/v1/canaries", "Give a set a share of new flows, or another one.", vec![], Some(body), answer);
    let (body, answer) = (types.body::<CanaryRequest>(), types.answer::<CanaryView>());
    let step = vec![("action", "path", json!({"enum": ["step", "promote", "abort"]}), "What to do.")];
    post("/v1/canaries/{action}", "Go on with a canary, or end it.", step, Some(body), answer);
    let (body, answer) = (types.body::<SimulateRequest>(), types.answer::<Simulation>());
    post("/v1/plans/simulate", "How plans would come to stand; changes nothing.", vec![], Some(body), answer);
    let (body, answer) = (types.body::<FlushRequest>(), types.answer::<Flushed>());
    let summary = "Forget flows: those that are away from home break, unless the backend at home knows them.";
    post("/v1/flows/flush", summary, vec![], Some(body), answer);
    let (body, answer) = (types.body::<ThrowRequest>(), types.answer::<SwitchView>());
    post("/v1/emergency", "Throw an emergency switch.", vec![], Some(body), answer);
    let (body, answer) = (types.body::<ClearRequest>(), types.answer::<SwitchView>());
    post("/v1/emergency/clear", "Take an emergency switch back.", vec![], Some(body), answer);
    post(
        "/v1/reload",
        "Read the configuration again and put it in force.",
        vec![],
        None,
        types.answer::<Reloaded>(),
    );
}

fn text() -> Value {
    json!({"type": "string"})
}

fn number(least: usize, most: usize) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most})
}

fn operation(tag: &str, summary: &str, parameters: Vec<Parameter>) -> Value {
    let parameters = parameters.into_iter().map(|(name, place, schema, words)| {
        let required = place == "path" || matches!(name, "src" | "dst");
        json!({"name": name, "in": place, "required": required, "schema": schema, "description": words})
    });
    json!({"tags": [tag], "summary": summary, "parameters": parameters.collect::<Value>()})
}

fn add(paths: &mut Map<String, Value>, path: &str, method: &str, operation: Value) {
    let place = paths.entry(path).or_insert_with(|| json!({}));
    place[method] = operation;
}
