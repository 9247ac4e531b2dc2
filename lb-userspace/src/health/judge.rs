//! From the results of a round to facts about backends and domains. Pure: no clock, no I/O.
//!
//! ```text
//!             members miss together            `fall` rounds
//!        UP --------------------->  SUSPECT ------------------> DOWN
//!         ^       it was not so        |                         |
//!         +----------------------------+                         |
//!         +------------------------------------------------------+
//!                     members answer `rise` rounds
//! ```
//! A backend is UP or DOWN by its own detectors. While one of its domains is SUSPECT or DOWN it is held as it is: the
//! domain's word speaks for it. When the domain recovers, backends that still fail are said to be DOWN first, then the
//! domain UP. While this host is isolated, misses count for nothing and everything stays; nor do those of probes that began
//! then, when somebody is heard again.

use std::sync::Arc;

use crate::config::{BackendId, CheckKind, Config, DomainId, Topology};
use crate::health::correlate::{Explanation, Member, Tally, explain, tally};
use crate::health::round::{Miss, Outcome, Round};
use crate::health::target::{TargetState, Targets};
use crate::plan::planner::{Cause, Fact, Subject};
use crate::plan::state::State;
use crate::runtime::clock::as_ns;

/// A DOWN domain of which too few members return to be recovered at once is released after this many times `rise`
/// rounds in which it is not failing as a whole: its dead members are then DOWN one by one, and the others serve.
pub const PARTIAL_RECOVERY_FACTOR: u32 = 10;

/// What a round led to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// In the order in which they have to be stored.
    pub facts: Vec<Fact>,
    /// This host became isolated (`true`) or connected again.
    pub isolated: Option<bool>,
}

/// See the [module's description](self).
#[derive(Debug)]
pub struct Judge {
    targets: Arc<Targets>,
    states: Vec<TargetState>,
    /// Rack of each backend.
    racks: Vec<DomainId>,
    backends: Vec<State>,
    domains: Vec<State>,
    /// Rounds in a row in which a SUSPECT or DOWN domain was not failing.
    calm: Vec<u32>,
    /// For each group and domain, whether the group has targets there.
    touches: Vec<Vec<bool>>,
    /// For each group, since when nobody can testify that this host is connected.
    silent_since: Vec<Option<u64>>,
    /// When somebody was heard again after the last isolation: probes that began before are no evidence.
    heard_again_ns: u64,
    topology: Topology,
}

impl Judge {
    /// Begins with the automatic states that `initial` says.
    ///
    /// The second value holds facts that need no evidence: what no check covers is UP.
    pub fn new(config: &Config, targets: Targets, initial: impl Fn(Subject) -> State) -> (Self, Vec<Fact>) {
        let ids = (0..config.backends.len()).filter_map(BackendId::from_index);
        let backends: Vec<State> = ids.map(|id| initial(Subject::Backend(id))).collect();
        let domains: Vec<State> = config.topology.ids().map(|id| initial(Subject::Domain(id))).collect();
        let mut touches = vec![vec![false; domains.len()]; targets.groups.len()];
        let states = targets.targets.iter().map(|target| {
            let group = &targets.groups[target.group];
            for backend in &target.backends {
                for domain in config.topology.ancestors(config[*backend].rack) {
                    touches[target.group][domain.index()] = true;
                }
            }
            let up = !target.backends.iter().all(|id| backends[id.index()] == State::Down);
            TargetState::new(group.detector_fall(), group.rise, up)
        });
        let mut judge = Self {
            states: states.collect(),
            racks: config.backends.iter().map(|backend| backend.rack).collect(),
            calm: vec![0; domains.len()],
            silent_since: vec![None; targets.groups.len()],
            heard_again_ns: 0,
            topology: config.topology.clone(),
            touches,
            backends,
            domains,
            targets: Arc::new(targets),
        };
        let facts = judge.forget_unchecked();
        (judge, facts)
    }

    /// Takes in the results of a round. `held` says whom an operator took out.
    ///
    /// # Panics
    /// If there is not one outcome for each target of the group.
    pub fn round(&mut self, round: &Round<'_>, held: impl Fn(Subject) -> bool) -> Verdict {
        assert_eq!(
            round.outcomes.len(),
            self.targets.groups[round.group].targets.len(),
            "one outcome per target"
        );
        self.record(round);
        if self.is_calm() {
            let isolated = self.set_silent(round, None);
            self.detect(round, true);
            return Verdict { facts: self.judge_backends(round), isolated };
        }
        let since_ns = self.silent_since[round.group].unwrap_or(round.since_ns).min(round.since_ns);
        let Explanation::Domains(failing) = explain(&self.topology, &self.tally(since_ns, &held)) else {
            self.detect(round, false);
            return Verdict { facts: Vec::new(), isolated: self.set_silent(round, Some(since_ns)) };
        };
        let isolated = self.set_silent(round, None);
        self.detect(round, true);
        let tallies = self.tally(since_ns, &held);
        let mut facts = self.fail_domains(round, &failing, &tallies);
        let recovered = self.recover_domains(round, &tallies);
        let backends = self.judge_backends(round);
        let (down, up): (Vec<_>, Vec<_>) = backends.into_iter().partition(|fact| fact.state == State::Down);
        facts.extend(down);
        facts.extend(recovered);
        facts.extend(up);
        Verdict { facts, isolated }
    }

    /// What is probed.
    #[must_use]
    pub const fn targets(&self) -> &Arc<Targets> {
        &self.targets
    }

    /// What is known of each target, in the order of [`Targets::targets`].
    #[must_use]
    pub fn target_states(&self) -> &[TargetState] {
        &self.states
    }

    /// Whether misses count for nothing at present, because nobody testifies that this host is connected.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.silent_since.iter().any(Option::is_some)
    }

    /// Whether every target answered, or missed as many probes as it takes to call it DOWN; BFD sessions count only if somebody here has
    /// them.
    #[must_use]
    pub fn is_everyone_judged(&self, has_sessions: bool) -> bool {
        self.states.iter().zip(&self.targets.targets).all(|(state, target)| {
            let group = &self.targets.groups[target.group];
            let is_elsewhere = !has_sessions && matches!(group.kind, CheckKind::Bfd(_));
            is_elsewhere || state.answered > 0 || state.missed >= u64::from(group.fall.max(1))
        })
    }

    fn record(&mut self, round: &Round<'_>) {
        let group = &self.targets.groups[round.group];
        let timeout_ns = as_ns(group.timeout);
        for (&target, &outcome) in group.targets.iter().zip(round.outcomes) {
            self.states[target].record(outcome);
            if let Outcome::Missed { how, due_ns } = outcome
                && !how.is_answer()
                && due_ns.saturating_sub(timeout_ns) < self.heard_again_ns
            {
                self.states[target].excuse();
            }
        }
    }

    /// Counts for fall and rise; misses only if they are evidence.
    fn detect(&mut self, round: &Round<'_>, misses_count: bool) {
        for (&target, &outcome) in self.targets.groups[round.group].targets.iter().zip(round.outcomes) {
            self.states[target].detect(outcome, misses_count);
        }
    }

    /// Nobody is missing and no domain is under suspicion: there is nothing to explain.
    fn is_calm(&self) -> bool {
        self.domains.iter().all(|&state| state == State::Up)
            && !self.states.iter().any(TargetState::is_silent)
    }

    /// Returns whether this host is isolated if that changed.
    fn set_silent(&mut self, round: &Round<'_>, since: Option<u64>) -> Option<bool> {
        let before = self.is_isolated();
        let was = std::mem::replace(&mut self.silent_since[round.group], since);
        // The first group that hears somebody ends it for all.
        if since.is_none() && was.is_some_and(|was_ns| self.heard_again_ns <= was_ns) {
            self.heard_again_ns = round.due_ns;
        }
        let after = self.is_isolated();
        (before != after).then_some(after)
    }

    fn tally(&self, since_ns: u64, held: &impl Fn(Subject) -> bool) -> Vec<Tally> {
        let checked = self.targets.of_backend.iter().enumerate().filter(|(_, targets)| !targets.is_empty());
        let members = checked.map(|(index, targets)| {
            let states = || targets.iter().map(|&target| &self.states[target]);
            let id = BackendId::from_index(index).expect("the number of backends is limited");
            let missing = states().any(TargetState::is_missing);
            let first_miss = states().filter(|s| s.is_missing()).map(|s| s.detector.first_miss_ns()).min();
            let passes = |s: &TargetState| s.detector.is_up() && matches!(s.last, Outcome::Answered { .. });
            let steady = states().all(passes);
            Member {
                rack: self.racks[index],
                counts: (self.backends[index] != State::Down || steady) && !held(Subject::Backend(id)),
                missing,
                silent: states().any(TargetState::is_silent),
                confirmed: states().any(TargetState::is_confirmed),
                steady,
                answered: states().any(|s| s.last_answer_ns >= since_ns),
                first_miss_ns: first_miss.unwrap_or(u64::MAX),
            }
        });
        tally(&self.topology, members, |domain| held(Subject::Domain(domain)))
    }

    /// UP to SUSPECT for what explains the misses, SUSPECT to DOWN for what is confirmed; larger domains first.
    fn fail_domains(&mut self, round: &Round<'_>, failing: &[DomainId], tallies: &[Tally]) -> Vec<Fact> {
        let fall = self.targets.groups[round.group].fall.max(1);
        let mut facts = Vec::new();
        for id in self.topology.ids() {
            let tally = &tallies[id.index()];
            let suspected = match self.domains[id.index()] {
                State::Up => failing.contains(&id) && self.is_released(self.topology[id].parent),
                State::Suspect => tally.is_confirmed(),
                State::Down | State::Draining | State::Ramp => false,
            };
            if !suspected {
                continue;
            }
            let (state, rounds) =
                if tally.is_confirmed() { (State::Down, fall) } else { (State::Suspect, 1) };
            self.domains[id.index()] = state;
            self.calm[id.index()] = 0;
            let evidence_ns = tally.first_miss_ns.min(round.due_ns);
            let missing = if state == State::Down { tally.confirmed } else { tally.missing };
            let cause = Cause::Silent { missing, members: tally.members, rounds };
            facts.push(Fact { subject: Subject::Domain(id), state, cause, evidence_ns: Some(evidence_ns) });
        }
        facts
    }

    /// Back to UP for domains whose members answer.
    fn recover_domains(&mut self, round: &Round<'_>, tallies: &[Tally]) -> Vec<Fact> {
        let group = &self.targets.groups[round.group];
        let mut facts = Vec::new();
        for id in self.topology.ids().filter(|id| self.touches[round.group][id.index()]) {
            let tally = &tallies[id.index()];
            let calm = &mut self.calm[id.index()];
            *calm = if tally.is_failing() { 0 } else { calm.saturating_add(1) };
            let (back, answering) = match self.domains[id.index()] {
                State::Suspect => {
                    (tally.is_answering() || *calm >= group.fall.max(1), tally.members - tally.missing)
                }
                State::Down => {
                    let patience = PARTIAL_RECOVERY_FACTOR * group.rise.max(1);
                    (tally.is_recovered() || *calm >= patience, tally.steady)
                }
                State::Up | State::Draining | State::Ramp => continue,
            };
            if back {
                self.domains[id.index()] = State::Up;
                let cause = Cause::Answering { answering, members: tally.members };
                let subject = Subject::Domain(id);
                facts.push(Fact { subject, state: State::Up, cause, evidence_ns: Some(round.due_ns) });
            }
        }
        facts
    }

    /// UP or DOWN for backends that no domain holds.
    fn judge_backends(&mut self, round: &Round<'_>) -> Vec<Fact> {
        let mut facts = Vec::new();
        for (index, targets) in self.targets.of_backend.iter().enumerate() {
            let failed = targets.iter().find(|&&target| !self.states[target].detector.is_up());
            let answers = targets.iter().all(|&t| matches!(self.states[t].last, Outcome::Answered { .. }));
            let state = match (failed, self.backends[index]) {
                (Some(_), _) => State::Down,
                // Adopted in suspicion: one good round shows that it was a false alarm.
                (None, State::Suspect) if !answers => State::Suspect,
                (None, _) => State::Up,
            };
            if targets.is_empty()
                || state == self.backends[index]
                || !self.is_released(Some(self.racks[index]))
            {
                continue;
            }
            self.backends[index] = state;
            let subject =
                Subject::Backend(BackendId::from_index(index).expect("the number of backends is limited"));
            facts.push(match failed {
                Some(&target) => self.missed(subject, target),
                None => Fact { subject, state, cause: Cause::Passed, evidence_ns: Some(round.due_ns) },
            });
        }
        facts
    }

    fn missed(&self, subject: Subject, target: usize) -> Fact {
        let known = &self.states[target];
        let how = match known.last {
            Outcome::Missed { how, .. } => how,
            Outcome::Answered { .. } | Outcome::Unknown => Miss::Silent,
        };
        let check = self.targets.groups[self.targets.targets[target].group].check.clone();
        let cause = Cause::Missed { check, how: how.to_string(), streak: known.detector.misses() };
        Fact { subject, state: State::Down, cause, evidence_ns: Some(known.detector.first_miss_ns()) }
    }

    /// Whether the domain and all above it are UP, so that what lies in it speaks for itself.
    fn is_released(&self, mut domain: Option<DomainId>) -> bool {
        // Three levels, so at most three steps.
        while let Some(id) = domain {
            if self.domains[id.index()] != State::Up {
                return false;
            }
            domain = self.topology[id].parent;
        }
        true
    }

    /// Without checks there is no evidence: what was adopted as SUSPECT or DOWN under an older configuration is UP.
    fn forget_unchecked(&mut self) -> Vec<Fact> {
        let mut facts = Vec::new();
        let mut fact = |subject, state: &mut State| {
            if *state != State::Up {
                *state = State::Up;
                facts.push(Fact { subject, state: State::Up, cause: Cause::Unchecked, evidence_ns: None });
            }
        };
        for (index, state) in self.backends.iter_mut().enumerate() {
            if self.targets.of_backend[index].is_empty() {
                fact(Subject::Backend(BackendId::from_index(index).expect("limited")), state);
            }
        }
        for (index, state) in self.domains.iter_mut().enumerate() {
            if !self.touches.iter().any(|touched| touched[index]) {
                fact(Subject::Domain(DomainId::from_index(index).expect("limited")), state);
            }
        }
        facts
    }
}

#[cfg(test)]
#[path = "judge_edge_tests.rs"]
mod edge_tests;
#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
