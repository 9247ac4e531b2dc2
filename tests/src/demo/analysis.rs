//! What a fault did to the traffic. Pure: from the records of all requests to a few numbers.
//!
//! *Moved* is what must not happen: a flow whose home backend was well all the time (not cut, or cut and taken back into
//! service) was answered by another backend, or its kept connection broke. The home of a flow is who answered it before
//! the first fault; the load generators repeat the same flows, by source port, again and again.
use crate::load::Request;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// An answer later than this was late: its SYN was lost and repeated.
const LATE_NS: u64 = 500_000_000;

/// A time in which the backends of a domain cannot be expected to serve their flows.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    pub(crate) backends: BTreeSet<String>,
    /// When it was cut.
    pub(crate) begin_ns: u64,
    /// When the daemon had taken it back into service.
    pub(crate) end_ns: u64,
    /// When the links were whole again.
    pub(crate) restored_ns: u64,
}

/// What happened to requests that were sent in one phase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Impact {
    pub(crate) requests: usize,
    /// Lost with the kept connection they were sent on, whose backend was in the dead domain.
    pub(crate) lost_kept: usize,
    /// Lost as the first request of a connection.
    pub(crate) lost_new: usize,
    /// Answered late.
    pub(crate) late: usize,
    /// Flows of other backends that moved or broke.
    pub(crate) moved: usize,
    /// Kept connections that were opened away from home during an outage, and broke when home was back.
    pub(crate) broke_on_return: usize,
}

type Flow = (String, SocketAddr, u16);

fn flow(request: &Request) -> Flow {
    (request.client.clone(), request.vip, request.port)
}

/// Judges all requests, phase by phase. `phases` are the times at which one begins, at least one; what was sent before
/// the first belongs to it, and the first lasts at least until the first fault.
pub(crate) fn judge(requests: &[Request], outages: &[Outage], phases: &[u64]) -> Vec<Impact> {
    let mut by_time: Vec<&Request> = requests.iter().collect();
    by_time.sort_by_key(|request| request.sent_ns);
    let first_fault_ns = outages.iter().map(|outage| outage.begin_ns).min().unwrap_or(u64::MAX);
    let homes = homes(&by_time, first_fault_ns);
    let mut impacts = vec![Impact::default(); phases.len()];
    // Who answers a kept connection, and when it was opened.
    let mut connections: BTreeMap<Flow, (&str, u64)> = BTreeMap::new();
    let mut moved: Vec<BTreeSet<Flow>> = vec![BTreeSet::new(); phases.len()];
    for request in by_time {
        let flow = flow(request);
        let begun = phases.partition_point(|&begin_ns| begin_ns <= request.sent_ns);
        let phase = begun.saturating_sub(1);
        let impact = &mut impacts[phase];
        impact.requests += 1;
        let expected =
            if request.is_kept { connections.get(&flow).copied() } else { homes.get(&flow).map(|&h| (h, 0)) };
        let is_excused = expected.is_some_and(|(backend, _)| is_out(outages, backend, request));
        match &request.answer {
            Ok(name) => {
                impact.late += usize::from(request.done_ns - request.sent_ns > LATE_NS);
                if expected.is_some_and(|(home, _)| home != name) && !is_excused {
                    moved[phase].insert(flow.clone());
                }
                if !request.is_kept {
                    connections.insert(flow, (name, request.sent_ns));
                }
            }
            Err(_) if !request.is_kept => impact.lost_new += 1,
            Err(_) if is_excused => impact.lost_kept += 1,
            Err(_) if expected.is_some_and(|(_, opened_ns)| returned(outages, opened_ns, request)) => {
                impact.broke_on_return += 1;
            }
            Err(_) => {
                moved[phase].insert(flow);
            }
        }
    }
    for (impact, moved) in impacts.iter_mut().zip(moved) {
        impact.moved = moved.len();
    }
    impacts
}

/// Who answered each flow first, before any fault.
fn homes<'a>(by_time: &[&'a Request], first_fault_ns: u64) -> BTreeMap<Flow, &'a str> {
    let mut homes = BTreeMap::new();
    for request in by_time.iter().filter(|request| request.done_ns < first_fault_ns) {
        if let Ok(name) = &request.answer {
            homes.entry(flow(request)).or_insert(name.as_str());
        }
    }
    homes
}

/// Whether a backend was out at any time while a request was on its way.
fn is_out(outages: &[Outage], backend: &str, request: &Request) -> bool {
    let overlaps = |outage: &Outage| outage.begin_ns <= request.done_ns && request.sent_ns <= outage.end_ns;
    outages.iter().any(|outage| overlaps(outage) && outage.backends.contains(backend))
}

/// Whether a connection was opened during an outage and failed after the links were whole again.
fn returned(outages: &[Outage], opened_ns: u64, request: &Request) -> bool {
    let opened_in = |outage: &Outage| outage.begin_ns <= opened_ns && opened_ns <= outage.end_ns;
    outages.iter().any(|outage| opened_in(outage) && request.done_ns >= outage.restored_ns)
}

/// When the last new connection that one of these backends answered was opened.
pub(crate) fn last_new_ns(requests: &[Request], backends: &BTreeSet<String>, before_ns: u64) -> Option<u64> {
    let answered = requests.iter().filter(|request| !request.is_kept && request.sent_ns < before_ns);
    let answered =
        answered.filter(|request| request.answer.as_ref().is_ok_and(|name| backends.contains(name)));
    answered.map(|request| request.sent_ns).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: u64 = 1_000;
    const UP_AGAIN: u64 = 3_000;

    fn outage() -> Vec<Outage> {
        vec![Outage { backends: ["dead".into()].into(), begin_ns: CUT, end_ns: UP_AGAIN, restored_ns: 2_500 }]
    }

    fn request(port: u16, is_kept: bool, sent_ns: u64, answer: Result<&str, &str>) -> Request {
        let vip = ([192, 0, 2, 10], 80).into();
        let answer = answer.map(str::to_owned).map_err(str::to_owned);
        Request { client: "west".into(), vip, port, is_kept, sent_ns, done_ns: sent_ns + 10, answer }
    }

    fn judge_one(requests: &[Request]) -> Impact {
        let mut impacts = judge(requests, &outage(), &[0]);
        impacts.remove(0)
    }

    #[test]
    fn flows_of_the_dead_may_go_elsewhere_and_must_come_back() {
        let flow = |sent_ns, name| request(1, false, sent_ns, Ok(name));
        let impact = judge_one(&[flow(0, "dead"), flow(1_500, "other"), flow(3_100, "dead")]);
        assert_eq!(impact, Impact { requests: 3, ..Impact::default() });
        let impact = judge_one(&[flow(0, "dead"), flow(1_500, "other"), flow(3_100, "other")]);
        assert_eq!(impact.moved, 1, "not back");
    }

    #[test]
    fn flows_of_others_that_move_are_counted_once_each() {
        let flow = |port, sent_ns, name| request(port, false, sent_ns, Ok(name));
        let requests =
            [flow(1, 0, "a"), flow(2, 0, "b"), flow(1, 1_500, "b"), flow(1, 1_600, "b"), flow(2, 1_500, "b")];
        assert_eq!(judge_one(&requests).moved, 1);
    }

    #[test]
    fn kept_connections_may_only_break_with_their_backend() {
        let dead = [request(1, false, 0, Ok("dead")), request(1, true, 1_500, Err("reset"))];
        assert_eq!(judge_one(&dead), Impact { requests: 2, lost_kept: 1, ..Impact::default() });
        let other = [request(1, false, 0, Ok("a")), request(1, true, 1_500, Err("reset"))];
        assert_eq!(judge_one(&other).moved, 1);
        let away = [request(1, false, 1_500, Ok("a")), request(1, true, 2_800, Err("reset"))];
        assert_eq!(judge_one(&away).broke_on_return, 1);
    }

    #[test]
    fn what_was_before_the_first_phase_is_known() {
        let opened_early = [request(1, false, 0, Ok("dead")), request(1, true, 1_500, Err("reset"))];
        let impacts = judge(&opened_early, &outage(), &[500, CUT]);
        assert_eq!((impacts[0].requests, impacts[1].lost_kept, impacts[1].moved), (1, 1, 0));
    }

    #[test]
    fn lost_and_late_requests_are_counted_in_their_phase() {
        let mut late = request(1, false, 1_500, Ok("a"));
        late.done_ns = late.sent_ns + LATE_NS + 1;
        let requests = [request(2, false, 10, Ok("a")), request(3, false, 1_500, Err("timeout")), late];
        let impacts = judge(&requests, &outage(), &[0, CUT]);
        assert_eq!((impacts[0].requests, impacts[0].lost_new, impacts[0].late), (1, 0, 0));
        assert_eq!((impacts[1].requests, impacts[1].lost_new, impacts[1].late), (2, 1, 1));
    }

    #[test]
    fn the_last_new_connection_is_the_latest_that_the_dead_answered() {
        let requests = [
            request(1, false, 900, Ok("dead")),
            request(2, false, 950, Ok("a")),
            request(3, true, 990, Ok("dead")),
            request(4, false, 3_500, Ok("dead")),
        ];
        assert_eq!(last_new_ns(&requests, &["dead".into()].into(), UP_AGAIN), Some(900));
    }
}
