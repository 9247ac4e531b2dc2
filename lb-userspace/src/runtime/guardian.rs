//! The guardian: throws emergency switches and takes them back, and runs the overload controllers.
//!
//! The data plane knows the end of each switch and of each share that is shed, and compares it with its own clock. So a switch goes off at its
//! time even when no daemon runs, and what the controllers shed ends [`SHED_HOLD`] after the last one who renewed it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lb_common::abi::{
    guard::{ALL, CLASSES, FIRST_REASON, GUARD_REASONS, UNTIL_SHIFT, until},
    limits::MAX_BLOCKED,
    reason::Reason,
};

use super::{
    clock::{as_ns, monotonic_ns},
    steering::Fits,
    switches::{Held, Switches},
};
use crate::{
    api::{
        problem::{Problem, ProblemKind},
        types::{GuardView, PerSourceView, SwitchView, ThrowRequest},
    },
    config::{Config, Service},
    dataplane::guard::GuardPort,
    plan::{
        shed::{Shedder, Step},
        switches::{MAX_SWITCH_TIME, MAX_SWITCHES, Switch, SwitchWords, Thrown},
    },
    telemetry::{
        event::{EventKind, NewEvent},
        journal::Journal,
    },
};

/// Time between two steps of the overload controllers, and between two looks for switches whose time is over.
const STEP: Duration = Duration::from_millis(500);
/// How long a share that the controllers shed holds if nobody renews it.
pub(super) const SHED_HOLD: Duration = Duration::from_secs(10);
/// The place of [`Reason::Shed`] among what a guard counts.
const SHED: usize = (Reason::Shed as u32 - FIRST_REASON) as usize;

/// See the module's documentation.
pub(super) struct Guardian {
    journal: Journal,
    state: Mutex<State>,
}

struct State {
    config: Arc<Config>,
    guards: GuardPort,
    switches: Switches,
    overload: Overload,
}

/// The overload controllers with what they measured last.
struct Overload {
    node: Option<Shedder>,
    /// For services with a capacity of their own, or whose pools have one: index and controller.
    services: Vec<(usize, Shedder)>,
    /// New flows a second of each service that fit into its pools, where not all do.
    fits: Fits,
    /// New flows of each service, let in and shed, at the last step.
    last: Vec<(u64, u64)>,
    last_ns: u64,
    /// Whether the node's controller sheds anything now.
    is_shedding: bool,
}

impl Guardian {
    /// Puts the switches that stand into a data plane that is ready, before its first packet.
    pub(super) fn new(
        config: Arc<Config>,
        guards: GuardPort,
        switches: Switches,
        fits: Fits,
        journal: Journal,
    ) -> Self {
        let overload = Overload::new(&config, &guards, fits);
        let state = Mutex::new(State { config, guards, switches, overload });
        let guardian = Self { journal, state };
        guardian.expire();
        complain(guardian.state().apply());
        guardian
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All switches that are on.
    pub(super) fn switches(&self) -> Vec<SwitchView> {
        let state = self.state();
        state.switches.iter().map(|(name, held)| state.view(name, held)).collect()
    }

    /// Throws a switch. The reason has been checked. Blocks while the switch is written down.
    pub(super) fn throw(&self, request: ThrowRequest) -> Result<SwitchView, Problem> {
        let ThrowRequest { switch, for_s, reason } = request;
        let invalid = |detail| Problem::new(ProblemKind::Invalid, detail, "see `weir emergency --help`");
        switch.check().map_err(invalid)?;
        if for_s == 0 || for_s > MAX_SWITCH_TIME.as_secs() {
            let most = MAX_SWITCH_TIME.as_secs();
            return Err(invalid(format!("for_s is {for_s}; a switch is on for 1 to {most} s")));
        }
        let name = switch.name();
        let mut state = self.state();
        if let Some(service) = switch.service()
            && state.config.find_service(service).is_none()
        {
            return Err(Problem::not_found("service", service));
        }
        let is_new_block = matches!(switch, Switch::Block { .. }) && state.switches.get(&name).is_none();
        if is_new_block && state.switches.blocks() >= MAX_BLOCKED {
            return Err(full(format!("{MAX_BLOCKED} prefixes are blocked already")));
        }
        if !state.switches.has_room(&name) {
            return Err(full(format!("{MAX_SWITCHES} switches are on already")));
        }
        let decided_ns = monotonic_ns();
        let since = jiff::Timestamp::now();
        let end = since + jiff::SignedDuration::from_secs(i64::try_from(for_s).unwrap_or(i64::MAX));
        let held = Held::new(Thrown { switch, reason, since, until: end });
        let cause =
            format!("operator: {} for {for_s} s: {}", held.thrown.switch.effect(), held.thrown.reason);
        let view = state.view(&name, &held);
        state.switches.insert(held);
        let applied = state.apply();
        self.record(&name, cause, Some(decided_ns));
        let saved = state.switches.save();
        drop(state);
        applied.map_err(|problem| not_applied(&problem))?;
        saved.map_err(|error| not_saved(&error))?;
        Ok(view)
    }

    /// Takes a switch back. The reason has been checked. Blocks while that is written down.
    pub(super) fn clear(&self, name: &str, reason: &str) -> Result<SwitchView, Problem> {
        let mut state = self.state();
        let decided_ns = monotonic_ns();
        let Some(held) = state.switches.remove(name) else {
            let detail = format!("there is no emergency switch \"{}\"", name.escape_debug());
            return Err(Problem::new(ProblemKind::NotFound, detail, "`weir emergency list` shows the names"));
        };
        let applied = state.apply();
        self.record(name, format!("operator: taken back: {reason}"), Some(decided_ns));
        let saved = state.switches.save();
        let view = state.view(name, &held);
        drop(state);
        applied.map_err(|problem| not_applied(&problem))?;
        saved.map_err(|error| not_saved(&error))?;
        Ok(view)
    }

    /// Takes back the switches whose time is over.
    fn expire(&self) {
        let mut state = self.state();
        let expired = state.switches.expired(monotonic_ns());
        if expired.is_empty() {
            return;
        }
        for name in &expired {
            state.switches.remove(name);
            self.record(name, "its time is over".to_owned(), None);
        }
        complain(state.apply());
        if let Err(error) = state.switches.save() {
            tracing::error!(%error, "cannot write down that emergency switches went off");
        }
    }

    fn record(&self, subject: &str, cause: String, decided_ns: Option<u64>) {
        let stored_ns = monotonic_ns();
        self.journal.record(NewEvent {
            kind: EventKind::Emergency,
            subject: subject.to_owned(),
            from: None,
            to: None,
            cause,
            evidence_ns: None,
            decided_ns,
            stored_ns: decided_ns.map(|_| stored_ns),
            monotonic_ns: stored_ns,
        });
    }

    /// Goes on until it is dropped: switches go off, controllers take their steps.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(STEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            tokio::task::block_in_place(|| {
                self.expire();
                self.control();
            });
        }
    }

    /// One step of all overload controllers.
    fn control(&self) {
        let mut state = self.state();
        let now_ns = monotonic_ns();
        let held_until = until(now_ns + as_ns(SHED_HOLD));
        let State { config, guards, overload, .. } = &mut *state;
        if overload.node.is_none() && overload.services.is_empty() {
            return;
        }
        let (offered, seconds) = overload.measure(config, guards, now_ns);
        let mut turned = Vec::new();
        let was_shedding = overload.is_shedding;
        overload.is_shedding = false;
        let fits = overload.fits.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (index, shedder) in &mut overload.services {
            let service = &config.services[*index];
            let most = service.protection.limits.max_new_flows.unwrap_or(u64::MAX);
            shedder.set_capacity(fits.get(*index).copied().flatten().unwrap_or(u64::MAX).min(most));
            let mut by_class = [0.0; CLASSES];
            let class = service.protection.priority as usize;
            by_class[class] = offered[*index];
            let step = shedder.step(by_class, seconds);
            let until = if step.shares[class] == 0 { 0 } else { held_until };
            guards.shed_service(*index, step.shares[class], until);
            // Who has no protection of its own is looked at only in an emergency.
            overload.is_shedding |= step.shares[class] != 0 && !service.protection.is_guarded();
            turned.extend(step.turned.map(|began| (service.name.clone(), began, offered[*index])));
        }
        if let Some(shedder) = &mut overload.node {
            let mut by_class = [0.0; CLASSES];
            for (service, offered) in config.services.iter().zip(&offered) {
                by_class[service.protection.priority as usize] += offered;
            }
            let Step { shares, turned: node_turned } = shedder.step(by_class, seconds);
            let sheds = shares != [0; CLASSES];
            overload.is_shedding |= sheds;
            guards.shed(shares, if sheds { held_until } else { 0 });
            let total = by_class.iter().sum::<f64>();
            turned.extend(node_turned.map(|began| (config.node.name.clone(), began, total)));
        }
        if state.overload.is_shedding != was_shedding {
            complain(state.apply());
        }
        drop(state);
        for (subject, began, offered) in turned {
            self.tell(subject, began, offered, now_ns);
        }
    }

    fn tell(&self, subject: String, began: bool, offered: f64, now_ns: u64) {
        let cause = if began {
            format!("{offered:.0} new flows a second are more than its capacity: some are shed")
        } else {
            format!("{offered:.0} new flows a second are well below its capacity: nothing is shed any more")
        };
        self.journal.record(NewEvent {
            kind: EventKind::Shed,
            subject,
            from: None,
            to: None,
            cause,
            evidence_ns: None,
            decided_ns: Some(now_ns),
            stored_ns: None,
            monotonic_ns: now_ns,
        });
    }

    /// How each service is protected.
    pub(super) fn guards(&self) -> Vec<GuardView> {
        let state = self.state();
        let services = state.config.services.iter().enumerate();
        services.map(|(index, service)| state.guard(index, service)).collect()
    }
}

impl State {
    /// Makes the data plane do what the switches and controllers say.
    fn apply(&self) -> Result<(), String> {
        let thrown = self.switches.iter().map(|(_, held)| (&held.thrown.switch, until(held.until_ns)));
        let words = SwitchWords::new(&self.config, thrown);
        // Those who look come before what is to be seen, and go after it.
        let any = words.any() || self.overload.is_shedding;
        if any {
            self.guards.set_emergency(true);
        }
        let applied = self.guards.apply(&words);
        if !any {
            self.guards.set_emergency(false);
        }
        applied
    }

    fn view(&self, name: &str, held: &Held) -> SwitchView {
        let switch = &held.thrown.switch;
        SwitchView {
            name: name.to_owned(),
            effect: switch.effect(),
            thrown: held.thrown.clone(),
            left_s: held.left_s(),
            active: switch.service().is_none_or(|service| self.config.find_service(service).is_some()),
        }
    }

    fn guard(&self, index: usize, service: &Service) -> GuardView {
        let protection = &service.protection;
        let limits = &protection.limits;
        let counts = self.guards.counts(index);
        let reasons = Reason::ALL.iter().skip(FIRST_REASON as usize).take(GUARD_REASONS as usize);
        let (shed, switch_shed) = self.shares(index, protection.priority as usize);
        let percent = |share: u32| f64::from(share) * 100.0 / f64::from(ALL);
        let about = |held: &Held| held.thrown.switch.service() == Some(service.name.as_str());
        GuardView {
            service: service.name.clone(),
            priority: protection.priority,
            allowed_prefixes: protection.access.allow.len() as u64,
            denied_prefixes: protection.access.deny.len() as u64,
            packets: limits.packets,
            new_flows: limits.new_flows,
            max_new_flows: limits.max_new_flows,
            per_source: limits.per_source.map(|source| PerSourceView {
                v4: source.v4,
                v6: source.v6,
                packets: source.packets,
                new_flows: source.new_flows,
            }),
            shed_percent: percent(shed),
            switch_shed_percent: percent(switch_shed),
            switches: self.switches.iter().filter(|(_, held)| about(held)).map(|(n, _)| n.clone()).collect(),
            refused: reasons.zip(counts.packets).map(|(r, packets)| (r.name().to_owned(), packets)).collect(),
        }
    }

    /// The shares of a service's new flows that controllers and switches shed now, as the data plane judges.
    fn shares(&self, index: usize, class: usize) -> (u32, u32) {
        let moment = (monotonic_ns() >> UNTIL_SHIFT) as u32;
        let now = |share: u32, until: u32| if until > moment { share } else { 0 };
        let (Some(guard), Some(node)) = (self.guards.guard(index), self.guards.node()) else {
            return (0, 0);
        };
        (
            now(guard.shed, guard.shed_until).max(now(node.shed[class], node.shed_until)),
            now(guard.switch_shed, guard.switch_shed_until)
                .max(now(node.switch_shed[class], node.switch_shed_until[class])),
        )
    }
}

impl Overload {
    fn new(config: &Config, guards: &GuardPort, fits: Fits) -> Self {
        let capacity = |service: &Service| {
            let of_pools = service.pools.iter().any(|pool| pool.capacity.is_some()).then_some(u64::MAX);
            service.protection.limits.max_new_flows.or(of_pools)
        };
        let capacities = config.services.iter().map(capacity);
        let services =
            capacities.enumerate().filter_map(|(i, most)| most.map(|most| (i, Shedder::new(most))));
        Self {
            node: config.node.max_new_flows.map(Shedder::new),
            services: services.collect(),
            fits,
            last: (0..config.services.len()).map(|index| flows(guards, index)).collect(),
            last_ns: monotonic_ns(),
            is_shedding: false,
        }
    }

    /// New flows a second that were offered to each service since the last step: those that were let in, and those that were shed.
    fn measure(&mut self, config: &Config, guards: &GuardPort, now_ns: u64) -> (Vec<f64>, f64) {
        let seconds = (now_ns.saturating_sub(self.last_ns) as f64 / 1e9).max(1e-3);
        let now: Vec<_> = (0..config.services.len()).map(|index| flows(guards, index)).collect();
        let since = |(now, last): (&(u64, u64), &(u64, u64))| {
            (now.0.saturating_sub(last.0) + now.1.saturating_sub(last.1)) as f64 / seconds
        };
        let offered = now.iter().zip(&self.last).map(since).collect();
        self.last = now;
        self.last_ns = now_ns;
        (offered, seconds)
    }
}

/// New flows of a service since counting began: those that were let in, those that were shed.
fn flows(guards: &GuardPort, index: usize) -> (u64, u64) {
    (guards.opened(index), guards.counts(index).packets[SHED])
}

/// The daemon itself asked: there is nobody else to tell.
fn complain(applied: Result<(), String>) {
    if let Err(problem) = applied {
        tracing::error!(%problem, "the data plane does not have the emergency switches as they should be");
    }
}

fn full(detail: String) -> Problem {
    Problem::new(ProblemKind::Conflict, detail, "take some back first: `weir emergency list` shows them")
}

fn not_applied(problem: &str) -> Problem {
    let detail = format!("it is not in the data plane as a whole: {problem}");
    Problem::new(ProblemKind::Internal, detail, "look into the daemon's log, then give the command again")
}

fn not_saved(error: &super::switches::SwitchesError) -> Problem {
    let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    Problem::new(
        ProblemKind::Internal,
        format!("it is done, but will not outlive the daemon: {error}{cause}"),
        "free space or mend the permissions there, then give the command again",
    )
}
