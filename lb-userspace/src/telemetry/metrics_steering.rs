//! Metrics of what steers: plans, pools, shifts, operators' words; and of the API itself.

use std::collections::BTreeSet;

use super::{
    metrics::Snapshot,
    metrics_text::{
        Kind::{Counter, Gauge},
        Text,
    },
};
use crate::api::types::{OverrideView, SteeredPlan, SteeredPool};

/// What the API counts of itself.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Api {
    /// How often somebody was refused over TCP, by cause.
    pub refused: Vec<(&'static str, u64)>,
    /// When the certificate of the TCP listener ends to be good.
    pub certificate_expires: Option<jiff::Timestamp>,
}

pub(super) fn steering(text: &mut Text, snapshot: &Snapshot) {
    plans(text, &snapshot.plans);
    shares(text, &snapshot.plans);
    pools(text, &snapshot.plans);
    words(text, snapshot);
}

fn plans(text: &mut Text, plans: &[SteeredPlan]) {
    type Value = fn(&SteeredPlan) -> f64;
    let families: [(&str, &str, Value); 5] = [
        (
            "weir_plan_demand_flows_per_second",
            "New flows that want to follow the plan; of a service with several plans an estimate.",
            |plan| plan.demand,
        ),
        (
            "weir_plan_healthy_ratio",
            "Healthy part of what operators let in, over all pools of the plan.",
            |plan| plan.healthy_percent / 100.0,
        ),
        ("weir_plan_panic", "Whether the plan has stopped believing health.", |plan| f64::from(plan.panic)),
        (
            "weir_plan_spilled_ratio",
            "Part of the plan's new flows that do not come to its first pool.",
            |plan| plan.spilled_percent / 100.0,
        ),
        ("weir_plan_unfit_ratio", "Part of the plan's new flows that no pool has room for.", |plan| {
            plan.unfit_percent / 100.0
        }),
    ];
    for (name, help, value) in families {
        let mut family = text.family(name, Gauge, help);
        for plan in plans {
            family.sample(&[("service", &plan.service), ("client_region", &plan.client_region)], value(plan));
        }
    }
}

fn shares(text: &mut Text, plans: &[SteeredPlan]) {
    let help = "Part of the plan's new flows that comes to the pool.";
    let mut shares = text.family("weir_plan_pool_share_ratio", Gauge, help);
    for plan in plans {
        for pool in &plan.pools {
            let labels = [
                ("service", plan.service.as_str()),
                ("client_region", &plan.client_region),
                ("pool", &pool.pool),
            ];
            shares.sample(&labels, pool.share_percent / 100.0);
        }
    }
}

/// Each pool once, in whichever plan it stands first.
fn pools(text: &mut Text, plans: &[SteeredPlan]) {
    let mut seen = BTreeSet::new();
    let pools: Vec<(&str, &SteeredPool)> = plans
        .iter()
        .flat_map(|plan| plan.pools.iter().map(|pool| (plan.service.as_str(), pool)))
        .filter(|(service, pool)| seen.insert((*service, pool.pool.as_str())))
        .collect();
    type Value = fn(&SteeredPool) -> Option<f64>;
    let families: [(&str, &str, Value); 3] = [
        ("weir_pool_healthy_ratio", "Part of the pool's weight that takes new flows.", |pool| {
            Some(pool.healthy_percent / 100.0)
        }),
        (
            "weir_pool_new_flows_per_second",
            "New flows that came to the pool's members lately, whatever their plan.",
            |pool| Some(pool.arrivals),
        ),
        (
            "weir_pool_capacity_flows_per_second",
            "New flows that all members of the pool together take, where that was said.",
            |pool| pool.capacity.map(|capacity| capacity as f64),
        ),
    ];
    for (name, help, value) in families {
        let mut family = text.family(name, Gauge, help);
        for (service, pool) in &pools {
            if let Some(value) = value(pool) {
                family.sample(&[("service", service), ("pool", &pool.pool)], value);
            }
        }
    }
}

fn words(text: &mut Text, snapshot: &Snapshot) {
    let status = &snapshot.status;
    let help = "Part of its new flows that a shifted domain keeps.";
    let mut kept = text.family("weir_shift_kept_ratio", Gauge, help);
    for view in &status.shifts {
        kept.sample(&[("domain", &view.domain)], f64::from(view.shift.keep_percent) / 100.0);
    }
    let help = "Time until the shift of a domain ends.";
    let mut left = text.family("weir_shift_remaining_seconds", Gauge, help);
    for view in &status.shifts {
        left.sample(&[("domain", &view.domain)], view.left_s);
    }
    let labels = |view: &OverrideView| {
        let subject = &view.subject;
        [subject.kind.name().to_owned(), subject.name.clone(), view.word.action.name().to_owned()]
    };
    let help =
        "Whether an operator's word stands: 1, or 0 while the configuration does not have what it is about.";
    let mut active = text.family("weir_override_active", Gauge, help);
    for view in &status.overrides {
        let [kind, name, action] = labels(view);
        active.sample(&[("kind", &kind), ("subject", &name), ("action", &action)], view.active);
    }
    let help = "Time until an operator's word ends, of those that end.";
    let mut left = text.family("weir_override_remaining_seconds", Gauge, help);
    for (view, left_s) in status.overrides.iter().filter_map(|view| Some((view, view.left_s?))) {
        let [kind, name, action] = labels(view);
        left.sample(&[("kind", &kind), ("subject", &name), ("action", &action)], left_s);
    }
}

pub(super) fn api(text: &mut Text, api: &Api) {
    let help = "Connections and requests over TCP that were refused, by cause: too many connections of an address, the TLS \
                handshake, too many requests of an address, the role of the certificate.";
    let mut refused = text.family("weir_api_refused_total", Counter, help);
    api.refused.iter().for_each(|&(cause, count)| refused.sample(&[("cause", cause)], count));
    if let Some(expires) = api.certificate_expires {
        let help = "When the certificate of the TCP listener expires, in Unix time.";
        let seconds = expires.as_millisecond() as f64 / 1e3;
        text.single("weir_api_certificate_expiry_seconds", Gauge, help, seconds);
    }
}
