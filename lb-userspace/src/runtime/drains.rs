//! Drains that are watched: whether what an operator drained has flows left, as far as anybody can know.
//!
//! Two things are known. The flow table names the flows that are away from home; a walk over it counts them by backend. Of flows at home nothing
//! is written down, but their packets are counted. So drained means: no entry names any of the backends in a walk that began after the drain
//! did, and no packet came to any of them for as long as the operator asked for. A flow at home that is silent for longer is
//! known to nobody.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    api::types::{DrainState, DrainView, SubjectName},
    plan::state::{DEFAULT_QUIET, Override},
};

const NS_PER_SECOND: u64 = 1_000_000_000;

/// What is known of the backends of one drain at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    /// How many they are.
    pub(super) backends: u64,
    /// Packets that were forwarded to them, ever.
    pub(super) packets: u64,
    /// Entries of the flow table that name them, by the last walk.
    pub(super) flows: u64,
    /// When that walk began; 0 if there was none.
    pub(super) walk_ns: u64,
}

/// One drain.
#[derive(Clone, Debug)]
struct Watched {
    since: jiff::Timestamp,
    /// When it was first looked at: what is known from before says nothing.
    began_ns: u64,
    packets: u64,
    /// When a packet was last seen.
    moved_ns: u64,
    looked_ns: u64,
    told: BTreeSet<DrainState>,
    view: DrainView,
}

/// All drains that stand.
#[derive(Debug, Default)]
pub(super) struct Drains(BTreeMap<SubjectName, Watched>);

impl Drains {
    /// Forgets all but these.
    pub(super) fn retain(&mut self, standing: impl Fn(&SubjectName) -> bool) {
        self.0.retain(|subject, _| standing(subject));
    }

    /// How far a drain is, if it was looked at.
    pub(super) fn view(&self, subject: &SubjectName) -> Option<DrainView> {
        self.0.get(subject).map(|watched| watched.view.clone())
    }

    /// Looks at a drain. Says what is to be told, if it has come to an end.
    pub(super) fn look(
        &mut self,
        subject: &SubjectName,
        held: &Override,
        seen: Seen,
        (now, now_ns): (jiff::Timestamp, u64),
    ) -> Option<String> {
        let known = self.0.remove(subject).filter(|watched| watched.since == held.since);
        let mut watched = known.unwrap_or_else(|| Watched::new(held, seen.packets, now_ns));
        let told = watched.look(held, seen, now, now_ns);
        self.0.insert(subject.clone(), watched);
        told
    }
}

impl Watched {
    fn new(held: &Override, packets: u64, now_ns: u64) -> Self {
        let view = DrainView {
            state: DrainState::Draining,
            flows: 0,
            walked: false,
            packets_per_second: 0,
            silent_s: 0,
            quiet_s: DEFAULT_QUIET.as_secs(),
            deadline: None,
        };
        let (since, began_ns) = (held.since, now_ns);
        Self { since, began_ns, packets, moved_ns: now_ns, looked_ns: now_ns, told: BTreeSet::new(), view }
    }

    fn look(&mut self, held: &Override, seen: Seen, now: jiff::Timestamp, now_ns: u64) -> Option<String> {
        let came = seen.packets.saturating_sub(self.packets);
        let elapsed_ns = now_ns.saturating_sub(self.looked_ns);
        if came > 0 {
            (self.packets, self.moved_ns) = (seen.packets, now_ns);
        }
        self.looked_ns = now_ns;
        let silent_s = now_ns.saturating_sub(self.moved_ns) / NS_PER_SECOND;
        let quiet_s = held.watch.quiet_s.unwrap_or(DEFAULT_QUIET.as_secs());
        let walked = seen.walk_ns > self.began_ns;
        let state = if walked && seen.flows == 0 && silent_s >= quiet_s {
            DrainState::Drained
        } else if held.watch.deadline.is_some_and(|deadline| deadline <= now) {
            DrainState::DeadlinePassed
        } else {
            DrainState::Draining
        };
        self.view = DrainView {
            state,
            flows: seen.flows,
            walked,
            packets_per_second: (came * NS_PER_SECOND).checked_div(elapsed_ns).unwrap_or(0),
            silent_s,
            quiet_s,
            deadline: held.watch.deadline,
        };
        (state != DrainState::Draining && self.told.insert(state)).then(|| self.tell(seen))
    }

    fn tell(&self, seen: Seen) -> String {
        let DrainView { flows, silent_s, packets_per_second, .. } = &self.view;
        let of =
            if seen.backends == 1 { String::new() } else { format!(" of its {} backends", seen.backends) };
        if self.view.state == DrainState::Drained {
            return format!(
                "drained: no packet{} for {silent_s} s, and no entry of the flow table in a walk since then; a flow at home that is \
                 silent for longer would be known to nobody",
                if of.is_empty() { String::new() } else { format!(" to any{of}") }
            );
        }
        let flows = if self.view.walked { flows.to_string() } else { "an unknown number of".to_owned() };
        format!(
            "the deadline of the drain has passed: {flows} flows away from home{of} are left, {packets_per_second} packets a second, the \
             last one {silent_s} s ago"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::types::SubjectKind,
        plan::state::{Action, Watch},
    };

    fn at(s: u64) -> (jiff::Timestamp, u64) {
        (jiff::Timestamp::from_second(s as i64).unwrap(), s * NS_PER_SECOND)
    }

    fn held(quiet_s: Option<u64>, deadline_s: Option<u64>) -> Override {
        let deadline = deadline_s.map(|s| at(s).0);
        let held = Override::new(Action::Drain, "r".to_owned(), at(100).0);
        Override { watch: Watch { deadline, quiet_s }, ..held }
    }

    fn seen(packets: u64, flows: u64, walk_s: u64) -> Seen {
        Seen { backends: 2, packets, flows, walk_ns: walk_s * NS_PER_SECOND }
    }

    fn subject() -> SubjectName {
        SubjectName { kind: SubjectKind::Domain, name: "west".to_owned() }
    }

    #[test]
    fn it_takes_silence_and_an_empty_walk_since_the_beginning() {
        let (mut drains, held) = (Drains::default(), held(Some(5), None));
        let mut look = |s, seen| {
            let told = drains.look(&subject(), &held, seen, at(s));
            (drains.view(&subject()).unwrap(), told)
        };
        // Silent for long already, for all that is known, but nobody looked before.
        assert_eq!(look(101, seen(1_000, 0, 99)).0.state, DrainState::Draining);
        let (view, told) = look(102, seen(1_010, 0, 99));
        assert_eq!((view.packets_per_second, view.silent_s, view.walked, told), (10, 0, false, None));
        // Silent, but the last walk is from before.
        assert_eq!(look(108, seen(1_010, 0, 99)).0.state, DrainState::Draining);
        // A walk found flows that are silent.
        assert_eq!(look(109, seen(1_010, 3, 105)).0.state, DrainState::Draining);
        let (view, told) = look(110, seen(1_010, 0, 109));
        assert_eq!((view.state, view.silent_s), (DrainState::Drained, 8));
        assert!(told.unwrap().starts_with("drained: no packet to any of its 2 backends for 8 s"));
        // A late packet is shown, and not told again.
        assert_eq!(look(111, seen(1_011, 0, 109)).0.state, DrainState::Draining);
        assert_eq!(look(117, seen(1_011, 0, 109)), (DrainView { silent_s: 6, ..view.clone() }, None));
    }

    #[test]
    fn the_deadline_ends_it_with_what_is_left() {
        let (mut drains, with) = (Drains::default(), held(None, Some(110)));
        assert_eq!(drains.look(&subject(), &with, seen(0, 0, 0), at(101)), None);
        let told = drains.look(&subject(), &with, seen(50, 7, 105), at(111)).unwrap();
        assert!(
            told.contains("7 flows away from home of its 2 backends are left, 5 packets a second"),
            "{told}"
        );
        assert_eq!(drains.view(&subject()).unwrap().state, DrainState::DeadlinePassed);
        assert_eq!(drains.look(&subject(), &with, seen(50, 7, 105), at(112)), None, "told once");
        // Another drain of the same thing begins anew.
        let anew = Override { since: at(200).0, ..held(None, None) };
        assert_eq!(drains.look(&subject(), &anew, seen(50, 0, 105), at(201)), None);
        assert_eq!(drains.view(&subject()).unwrap().state, DrainState::Draining);
        drains.retain(|_| false);
        assert_eq!(drains.view(&subject()), None);
    }
}
