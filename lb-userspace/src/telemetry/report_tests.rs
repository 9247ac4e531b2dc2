use super::*;
use crate::telemetry::event::with_last_alive;

const TEXT: &str = r#"
[node]
name = "edge"
region = "west"
interfaces = ["eth0"]
hash_key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
tunnel_source_v4 = "10.255.0.0/16"
[topology.west]
w1 = ["r1"]
w2 = ["r1"]
[[set]]
name = "w1"
domain = "west/w1"
checks = []
[[set.backend]]
name = "a"
rack = "west/w1/r1"
address = "10.1.0.1"
[[set]]
name = "w2"
domain = "west/w2"
checks = []
[[set.backend]]
name = "b"
rack = "west/w2/r1"
address = "10.1.0.2"
[[service]]
name = "web"
address = "192.0.2.10"
port = 80
protocol = "tcp"
[[service.pool]]
name = "p"
sets = ["w1", "w2"]
"#;

fn at(s: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + s).unwrap()
}

/// A recorded journal: second, kind, subject, states, cause.
struct Recorded(Vec<Event>);

impl Recorded {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(
        mut self,
        s: i64,
        kind: EventKind,
        subject: &str,
        states: Option<(State, State)>,
        cause: &str,
    ) -> Self {
        let ns = s as u64 * 1_000_000_000;
        self.0.push(Event {
            seq: self.0.len() as u64 + 1,
            time: at(s),
            monotonic_ns: ns,
            kind,
            subject: subject.to_owned(),
            from: states.map(|(from, _)| from),
            to: states.map(|(_, to)| to),
            cause: cause.to_owned(),
            evidence_ns: None,
            decided_ns: Some(ns),
            stored_ns: Some(ns),
        });
        self
    }

    fn backend(self, s: i64, name: &str, from: State, to: State) -> Self {
        self.add(s, EventKind::BackendState, name, Some((from, to)), "3 in a row")
    }

    fn domain(self, s: i64, name: &str, from: State, to: State) -> Self {
        self.add(s, EventKind::DomainState, name, Some((from, to)), "1 of 1 missed")
    }

    fn said(self, s: i64, name: &str, from: State, to: State, cause: &str) -> Self {
        self.add(s, EventKind::Override, name, Some((from, to)), cause)
    }

    fn node(self, s: i64, cause: &str) -> Self {
        self.add(s, EventKind::Daemon, "edge", None, cause)
    }

    fn report(&self, since_s: i64, until_s: i64) -> Report {
        let config = Config::parse(TEXT, "t").unwrap();
        report(&config, (at(since_s), at(until_s)), |found| self.0.iter().for_each(found))
    }
}

fn of<'r>(report: &'r Report, kind: Kind, name: &str) -> &'r Record {
    report.records.iter().find(|record| record.kind == kind && record.name == name).unwrap()
}

fn spent(report: &Report, kind: Kind, name: &str) -> (u64, [f64; 3]) {
    let record = of(report, kind, name);
    (record.failures, [record.up_s, record.down_s, record.planned_s])
}

#[test]
fn time_up_and_down_for_each_failure() {
    let journal = Recorded::new()
        .node(0, "started: nothing was forwarding before")
        .backend(100, "a", State::Up, State::Down)
        .backend(120, "a", State::Down, State::Ramp)
        .backend(130, "a", State::Ramp, State::Up)
        .domain(200, "west/w2/r1", State::Up, State::Suspect)
        .domain(210, "west/w2/r1", State::Suspect, State::Down)
        .backend(220, "a", State::Up, State::Down)
        .domain(240, "west/w2/r1", State::Down, State::Up)
        .backend(260, "a", State::Down, State::Up);
    let report = journal.report(-1_000, 1_000);
    assert_eq!((report.observed_s, report.gaps, report.journal_truncated), (1_000.0, 0, false));
    assert_eq!(report.journal_since, Some(at(0)));
    assert_eq!(spent(&report, Kind::Backend, "a"), (2, [940.0, 60.0, 0.0]));
    let a = of(&report, Kind::Backend, "a");
    assert_eq!((a.mttf_s, a.mttr_s, a.availability_percent), (Some(470.0), Some(30.0), Some(94.0)));
    // What is in a rack that is down is down; a suspicion is not.
    assert_eq!(spent(&report, Kind::Backend, "b"), (1, [970.0, 30.0, 0.0]));
    assert_eq!(spent(&report, Kind::Rack, "west/w2/r1"), (1, [970.0, 30.0, 0.0]));
    assert_eq!(spent(&report, Kind::Zone, "west/w2"), (0, [1_000.0, 0.0, 0.0]));
    // The service was down while both were.
    assert_eq!(spent(&report, Kind::Service, "web"), (1, [980.0, 20.0, 0.0]));
    assert_eq!(of(&report, Kind::Region, "west").mttf_s, None);
    // A part of it: one failure, half of it outside.
    assert_eq!(spent(&journal.report(110, 210), Kind::Backend, "a"), (0, [90.0, 10.0, 0.0]));
}

#[test]
fn what_an_operator_takes_out_is_planned() {
    let journal = Recorded::new()
        .node(0, "started: nothing was forwarding before")
        .said(100, "a", State::Up, State::Draining, "operator: drain for 3600 s: fans")
        .said(150, "a", State::Draining, State::Down, "operator: fail for 3600 s: fans")
        .said(200, "a", State::Down, State::Down, "operator: restore: fans replaced")
        .backend(220, "a", State::Down, State::Up)
        .said(300, "west/w2", State::Up, State::Down, "operator: fail, without an end: power")
        .said(
            400,
            "west/w2",
            State::Down,
            State::Up,
            "the time of \"fail\" is over, the checks have the say: power",
        );
    let report = journal.report(0, 1_000);
    assert_eq!(spent(&report, Kind::Backend, "a"), (1, [880.0, 20.0, 100.0]));
    assert_eq!(spent(&report, Kind::Backend, "b"), (0, [900.0, 0.0, 100.0]));
    assert_eq!(spent(&report, Kind::Zone, "west/w2"), (0, [900.0, 0.0, 100.0]));
    assert_eq!(spent(&report, Kind::Service, "web"), (0, [1_000.0, 0.0, 0.0]));
}

#[test]
fn what_checks_say_meanwhile_is_no_failure_and_planned_time_is_neither_up_nor_down() {
    let journal = Recorded::new()
        .node(0, "started: nothing was forwarding before")
        .backend(100, "a", State::Up, State::Down)
        .backend(200, "a", State::Down, State::Up)
        .said(400, "a", State::Up, State::Draining, "operator: drain for 3600 s: fans")
        .backend(500, "a", State::Draining, State::Draining)
        .backend(550, "a", State::Up, State::Down)
        .said(600, "a", State::Draining, State::Up, "operator: restore: fans replaced");
    let report = journal.report(0, 1_000);
    assert_eq!(spent(&report, Kind::Backend, "a"), (1, [700.0, 100.0, 200.0]));
    assert_eq!(of(&report, Kind::Backend, "a").availability_percent, Some(87.5));
}

#[test]
fn times_without_a_daemon_are_told_and_not_counted() {
    let crashed = with_last_alive("started: adopted what was forwarding".to_owned(), Some(at(450)));
    let journal = Recorded::new()
        .node(0, "started: nothing was forwarding before")
        .backend(90, "a", State::Up, State::Down)
        .node(100, "stopped; forwarding goes on as it was told last")
        .node(200, "started: adopted what was forwarding")
        .backend(210, "a", State::Down, State::Up)
        .backend(400, "b", State::Up, State::Down)
        .node(500, &crashed)
        .backend(600, "b", State::Down, State::Up)
        .backend(700, "a", State::Up, State::Down)
        // A reboot: nothing is known of before.
        .node(800, &with_last_alive("started: nothing was forwarding before".to_owned(), Some(at(790))));
    let report = journal.report(0, 1_000);
    assert_eq!((report.gaps, report.observed_s), (3, 1_000.0 - 100.0 - 50.0 - 10.0));
    assert_eq!(spent(&report, Kind::Backend, "a"), (2, [730.0, 110.0, 0.0]));
    assert_eq!(spent(&report, Kind::Backend, "b"), (1, [690.0, 150.0, 0.0]));
}

#[test]
fn what_the_journal_no_longer_holds_is_said() {
    let mut journal = Recorded::new().backend(100, "a", State::Down, State::Up).said(
        200,
        "b",
        State::Draining,
        State::Up,
        "operator: restore: done",
    );
    journal.0.iter_mut().for_each(|event| event.seq += 70);
    let report = journal.report(0, 300);
    assert!(report.journal_truncated && report.journal_since == Some(at(100)));
    // How everything was before its first event, that event says.
    assert_eq!(spent(&report, Kind::Backend, "a"), (0, [200.0, 0.0, 0.0]));
    assert_eq!(spent(&report, Kind::Backend, "b"), (0, [100.0, 0.0, 100.0]));
    let nothing = Recorded::new().report(0, 300);
    assert_eq!((nothing.journal_since, nothing.observed_s), (None, 0.0));
    assert_eq!(of(&nothing, Kind::Service, "web").availability_percent, None);
}

#[test]
fn a_failure_begins_with_its_evidence() {
    let mut journal = Recorded::new().node(0, "started: nothing was forwarding before");
    journal = journal.backend(100, "a", State::Up, State::Down).backend(200, "a", State::Down, State::Up);
    journal.0[1].evidence_ns = Some(97_000_000_000);
    assert_eq!(spent(&journal.report(0, 300), Kind::Backend, "a"), (1, [197.0, 103.0, 0.0]));
}

#[test]
fn the_last_moment_of_life_survives_its_journal() {
    let cause = with_last_alive("started: x".to_owned(), Some(at(5)));
    assert_eq!(last_alive(&format!("{cause} (3 events before this one were lost)")), Some(at(5)));
    assert_eq!((last_alive("started: x"), with_last_alive("x".to_owned(), None)), (None, "x".to_owned()));
}
