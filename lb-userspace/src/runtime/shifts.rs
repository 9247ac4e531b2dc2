//! Shifts and overrides as the API sees them: what stands, and whether a shift may begin or end.

use std::sync::PoisonError;

use super::{
    control::{ShiftActed, Snapshot},
    service::{Service, not_recorded, refused},
    steering::Steering,
    views::{self, Facts, left_s},
};
use crate::{
    api::{
        ShiftChange,
        problem::{Problem, ProblemKind},
        types::{OverrideView, ShiftRequest, ShiftView, SubjectName},
    },
    config::{Config, DomainId},
    plan::{
        capacity::{Lack, MIN_REMAINING_PERCENT, MIN_RETURN_PERCENT, Readiness, Shortage, readiness},
        shift::{MAX_SHIFT_TIME, Origin, ShiftOrder, share},
        state::Override,
    },
};

/// Plans that a refusal names; the others are counted.
const NAMED_SHORTAGES: usize = 3;

impl Service {
    /// The operators' words that stand.
    pub(super) fn override_views(&self, facts: &Facts<'_>) -> Vec<OverrideView> {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let drains = self.drains.lock().unwrap_or_else(PoisonError::into_inner);
        let view = |(subject, word): (&SubjectName, &Override)| OverrideView {
            subject: subject.clone(),
            word: word.clone(),
            active: Self::subject(facts.config, subject).is_some(),
            left_s: word.until.map(left_s),
            drain: drains.view(subject, Some(word)),
        };
        words.iter().map(view).collect()
    }

    /// The shifts that stand, and those that wait for their domain.
    pub(super) fn shift_views(&self, facts: &Facts<'_>) -> Vec<ShiftView> {
        let mut all: Vec<_> = facts.snapshot.domains.iter().filter_map(views::shift).collect();
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = words.shifts().filter(|(domain, _)| facts.config.topology.find(domain).is_none());
        all.extend(waiting.map(|(domain, shift)| ShiftView {
            domain: domain.clone(),
            level: None,
            left_s: left_s(shift.until),
            shift: shift.clone(),
            active: false,
            stored_ns: None,
        }));
        all
    }

    /// Does what an operator says about the shift of a domain.
    pub(super) async fn shift_now(&self, change: ShiftChange) -> Result<ShiftView, Problem> {
        let _in_order = self.in_order.lock().await;
        let tenure = self.tenure();
        let (ShiftChange::Set(ShiftRequest { domain, .. })
        | ShiftChange::Extend(crate::api::types::ShiftExtendRequest { domain, .. })
        | ShiftChange::Cancel(crate::api::types::ShiftCancelRequest { domain, .. })) = &change;
        let path = domain.clone();
        let Some(domain) = tenure.config.topology.find(&path) else {
            return self.cancel_waiting(&path, &change);
        };
        let snapshot = tenure.control.snapshot().await.map_err(refused)?;
        let (order, reason) = check(&tenure.config, &tenure.steering, &snapshot, domain, change)?;
        let acted = tenure.control.shift(domain, order.clone(), reason.clone()).await.map_err(refused)?;
        let coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((config, control)) = coming
            && let Some(domain) = config.topology.find(&path)
        {
            control.shift(domain, order, reason).await.map_err(refused)?;
        }
        let ShiftActed { before, now, stored_ns, .. } = acted;
        let recorded = tokio::task::block_in_place(|| {
            self.words.lock().unwrap_or_else(PoisonError::into_inner).set_shift(&path, now.clone())
        });
        recorded.map_err(|error| not_recorded(&error))?;
        let level = Some(tenure.config.topology[domain].level);
        let shift = now.or(before).ok_or_else(|| Problem::not_found("shift", &path))?;
        let (left_s, stored_ns) = (left_s(shift.until), Some(stored_ns));
        Ok(ShiftView { domain: path, level, shift, left_s, active: true, stored_ns })
    }

    /// A shift that waits for its domain can be cancelled and nothing else.
    fn cancel_waiting(&self, path: &str, change: &ShiftChange) -> Result<ShiftView, Problem> {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = words.shifts().find(|(domain, _)| *domain == path).map(|(_, shift)| shift.clone());
        let (ShiftChange::Cancel(_), Some(shift)) = (change, waiting) else {
            return Err(Problem::not_found("domain", path));
        };
        tokio::task::block_in_place(|| words.set_shift(path, None)).map_err(|error| not_recorded(&error))?;
        let left_s = left_s(shift.until);
        Ok(ShiftView { domain: path.to_owned(), level: None, shift, left_s, active: false, stored_ns: None })
    }
}

/// Whether it may be done, and what that is for the control thread.
fn check(
    config: &Config,
    steering: &Steering,
    snapshot: &Snapshot,
    domain: DomainId,
    change: ShiftChange,
) -> Result<(ShiftOrder, String), Problem> {
    let invalid = |detail: String| Problem::new(ProblemKind::Invalid, detail, "see `weir shift --help`");
    let until = |for_s: u64| {
        if for_s == 0 || for_s > MAX_SHIFT_TIME.as_secs() {
            let days = MAX_SHIFT_TIME.as_secs() / 86_400;
            return Err(invalid(format!(
                "a shift of {for_s} s is out of range: it stands for 1 s to {days} d"
            )));
        }
        let after = std::time::Duration::from_secs(for_s);
        jiff::Timestamp::now().checked_add(after).map_err(|error| invalid(error.to_string()))
    };
    let stands = snapshot.domains.get(domain.index()).and_then(|status| status.standing.shift.as_ref());
    match change {
        ShiftChange::Set(ShiftRequest { domain: path, level, keep_percent, for_s, reason, force }) => {
            let is = config.topology[domain].level;
            if let Some(level) = level.filter(|level| *level != is) {
                return Err(invalid(format!("{path} is a {is}, not a {level}")));
            }
            if keep_percent > 99 {
                return Err(invalid(format!(
                    "it would keep {keep_percent} % of its new flows; 0 to 99 is a shift"
                )));
            }
            if !force && stands.is_some_and(|stands| stands.keep_percent < keep_percent) {
                ready(config, snapshot, domain)?;
            }
            if !force {
                enough(config, steering, domain, keep_percent)?;
            }
            let origin = Origin::Operator;
            Ok((
                ShiftOrder::Set { keep_percent, origin, reason: reason.clone(), until: until(for_s)? },
                reason,
            ))
        }
        ShiftChange::Extend(request) => {
            Ok((ShiftOrder::Extend { until: until(request.for_s)? }, request.reason))
        }
        ShiftChange::Cancel(request) => {
            if !request.force && stands.is_some() {
                ready(config, snapshot, domain)?;
            }
            Ok((ShiftOrder::Cancel { origin: Origin::Operator }, request.reason))
        }
    }
}

/// Whether enough of a domain is well that its traffic may return.
fn ready(config: &Config, snapshot: &Snapshot, domain: DomainId) -> Result<(), Problem> {
    let members = snapshot.backends.iter().map(|status| {
        let backend = &config[status.id];
        (backend.weight, config.topology.ancestors(backend.rack), status.standing.state.is_well())
    });
    let is_well = |id: DomainId| snapshot.domains.get(id.index()).is_some_and(|d| d.standing.state.is_well());
    let ready @ Readiness { well, all } = readiness(members, is_well, domain);
    if ready.is_enough() {
        return Ok(());
    }
    Err(Problem::new(
        ProblemKind::Conflict,
        format!(
            "only {} % of the weight of {} ({well} of {all}) is well; traffic returns from {MIN_RETURN_PERCENT} % on",
            ready.percent(),
            config.topology[domain].path,
        ),
        "`weir backend list` shows what is not; say --force to let the traffic return all the same",
    ))
}

/// Whether what remains can carry what a domain gives away.
fn enough(config: &Config, steering: &Steering, domain: DomainId, keep_percent: u8) -> Result<(), Problem> {
    let short = tokio::task::block_in_place(|| steering.shortages(domain, share(keep_percent)));
    if short.is_empty() {
        return Ok(());
    }
    let told: Vec<_> = short.iter().take(NAMED_SHORTAGES).map(tell).collect();
    let more = match short.len().saturating_sub(NAMED_SHORTAGES) {
        0 => String::new(),
        more => format!("; and {more} more plans"),
    };
    Err(Problem::new(
        ProblemKind::Conflict,
        format!(
            "what remains without {} could not carry its flows: {}{more}",
            config.topology[domain].path,
            told.join("; ")
        ),
        "shift less away, bring back what is down or drained first, or say --force to shift all the same",
    ))
}

fn tell(short: &Shortage) -> String {
    let Shortage { service, client_region, lack } = short;
    let plan = format!("{service} (client region {client_region})");
    match lack {
        Lack::Room { demand, unfit, unfit_now, room } => {
            let rooms: Vec<_> = room.iter().map(|(pool, flows)| format!("pool {pool} for {flows}")).collect();
            format!(
                "{plan}: of {demand} new flows a second {unfit} would fit nowhere, now {unfit_now}; there would be room in {}",
                rooms.join(", ")
            )
        }
        Lack::Weight { pool: Some(pool), before_percent, after_percent } => format!(
            "{plan}: pool {pool} would have {after_percent} % of what it has to carry, now {before_percent} %, and must have \
             {MIN_REMAINING_PERCENT} %"
        ),
        Lack::Weight { pool: None, .. } => format!("{plan}: no pool would be left"),
    }
}
