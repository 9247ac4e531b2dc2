//! What the API says of BFD sessions.

use std::time::Duration;

use crate::{
    api::types::{AwaitedView, BfdCounts, BfdRemoteView, BfdSessionView, DiagnosticView},
    health::bfd::{
        packet::{Diagnostic, State},
        session::{Cause, Remote},
    },
    runtime::control::{SessionStatus, Snapshot},
};

/// `GET /v1/bfd`, at a moment by both clocks.
pub(super) fn sessions(snapshot: &Snapshot, now: jiff::Timestamp, now_ns: u64) -> Vec<BfdSessionView> {
    snapshot.sessions.iter().map(|session| view(session, now, now_ns)).collect()
}

/// How many are in which state; `None` if there are none at all.
pub(super) fn counts(snapshot: &Snapshot) -> Option<BfdCounts> {
    let mut counts = BfdCounts::default();
    for SessionStatus { report, .. } in &snapshot.sessions {
        let count = match report.state {
            State::Up => &mut counts.up,
            State::Init => &mut counts.init,
            State::Down => &mut counts.down,
            State::AdminDown => &mut counts.admin_down,
        };
        *count += 1;
        counts.awaited += u64::from(report.awaited.is_some());
        counts.flaps += report.flaps;
    }
    (counts.total() > 0).then_some(counts)
}

fn view(session: &SessionStatus, now: jiff::Timestamp, now_ns: u64) -> BfdSessionView {
    let SessionStatus { backends, check, report } = session;
    let ago = |at_ns: u64| Duration::from_nanos(now_ns.saturating_sub(at_ns));
    let stayed_up = report.state == State::Up && report.cause == Cause::Never;
    let left_ns = |until_ns: u64| until_ns.saturating_sub(now_ns);
    BfdSessionView {
        backends: backends.clone(),
        check: check.clone(),
        address: report.address,
        multihop: report.multihop,
        state: report.state,
        since: now.checked_sub(ago(report.since_ns)).unwrap_or(now),
        awaited: report.awaited.map(|awaited| AwaitedView {
            why: awaited.excuse.name().to_owned(),
            left_ms: left_ns(awaited.until_ns).div_ceil(1_000_000),
        }),
        cause: (!stayed_up).then(|| report.cause.name().to_owned()),
        flaps: report.flaps,
        diagnostic: report.diagnostic.into(),
        discriminator: report.settings.discriminator,
        multiplier: report.settings.multiplier,
        desired_min_tx_us: report.settings.desired_min_tx_us,
        required_min_rx_us: report.settings.required_min_rx_us,
        remote: report.remote.map(BfdRemoteView::from),
        tx_interval_us: report.tx_interval_us,
        rx_interval_us: report.rx_interval_us,
        detection_us: report.detection_ns.map(|ns| ns / 1_000),
        remote_detection_us: report.patience_ns / 1_000,
        heard_ago_us: (report.heard_ns > 0).then(|| ago(report.heard_ns).as_micros() as u64),
    }
}

impl From<Diagnostic> for DiagnosticView {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { code: diagnostic.0, text: diagnostic.name().to_owned() }
    }
}

impl From<Remote> for BfdRemoteView {
    fn from(remote: Remote) -> Self {
        Self {
            state: remote.state,
            diagnostic: remote.diagnostic.into(),
            discriminator: remote.discriminator,
            multiplier: remote.multiplier,
            desired_min_tx_us: remote.min_tx_us,
            required_min_rx_us: remote.min_rx_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{
        bfd::session::Settings,
        prober::bfd::{Awaited, Excuse, Report},
    };

    const SECOND_NS: u64 = 1_000_000_000;

    fn session(state: State, cause: Cause, awaited: Option<Awaited>) -> SessionStatus {
        let settings = Settings {
            discriminator: 7,
            desired_min_tx_us: 10_000,
            required_min_rx_us: 10_000,
            multiplier: 3,
            passive: false,
        };
        let report = Report {
            target: 0,
            address: [10, 0, 0, 1].into(),
            multihop: true,
            state,
            since_ns: 5 * SECOND_NS,
            cause,
            diagnostic: Diagnostic::SIGNALED,
            settings,
            remote: None,
            tx_interval_us: 10_000,
            rx_interval_us: 20_000,
            detection_ns: Some(60_000_000),
            patience_ns: 30_000_000,
            heard_ns: 0,
            flaps: 2,
            awaited,
        };
        SessionStatus { backends: vec!["a".to_owned()], check: "alive".to_owned(), report }
    }

    #[test]
    fn moments_become_times_and_what_is_not_known_is_left_out() {
        let awaited = Awaited { excuse: Excuse::OwnSilence, until_ns: 12 * SECOND_NS - 1 };
        let sessions_now = vec![
            session(State::Down, Cause::Signaled, Some(awaited)),
            session(State::Up, Cause::Never, None),
            session(State::Up, Cause::Expired, None),
        ];
        let snapshot = Snapshot { sessions: sessions_now, ..Snapshot::default() };
        let now: jiff::Timestamp = "2026-05-01T12:00:10Z".parse().expect("a time");
        let views = sessions(&snapshot, now, 10 * SECOND_NS);
        assert_eq!(views[0].since.to_string(), "2026-05-01T12:00:05Z");
        let expected = AwaitedView { why: "this host was silent".to_owned(), left_ms: 2_000 };
        assert_eq!(views[0].awaited, Some(expected));
        assert_eq!(views[0].cause.as_deref(), Some("the peer said so"));
        assert_eq!((views[0].detection_us, views[0].remote_detection_us), (Some(60_000), 30_000));
        assert_eq!((views[0].heard_ago_us, &views[0].remote), (None, &None));
        assert_eq!(views[1].cause, None, "it never was down");
        assert_eq!(views[2].cause.as_deref(), Some("detection time expired"), "why it last was down");
        let expected = BfdCounts { up: 2, down: 1, awaited: 1, flaps: 6, ..BfdCounts::default() };
        assert_eq!(counts(&snapshot), Some(expected));
        assert_eq!(counts(&Snapshot::default()), None);
    }
}
