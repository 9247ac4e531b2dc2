//! Canaries: one set of a service takes a share of its pool's flows, whatever the weights say, moved by steps. Pure.
//!
//! A canary is laid over the configuration before it is compiled: the weights of the pool's members are scaled so that the set's
//! share is as said, and among the set's members, and among the others, everything stays in proportion. A table follows from
//! names and weights alone, so taking the canary away brings back exactly the tables from before.

use serde::{Deserialize, Serialize};

use crate::config::{Config, Pool, SetId, SetShare, smallest_share_fits};

/// All flows, in permille.
pub const ALL: u32 = 1_000;
/// The steps of a canary if nobody says: 1, 5, 10, 25, 50 and 100 percent.
pub const DEFAULT_STEPS: [u32; 6] = [10, 50, 100, 250, 500, ALL];
/// Steps that a canary has at most.
pub const MAX_STEPS: usize = 32;

/// A canary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// The service.
    pub service: String,
    /// The set, of one of the service's pools.
    pub set: String,
    /// Share of the pool's flows that the set takes, in permille, 0 to 1000.
    pub permille: u32,
    /// The shares that it goes through, ascending.
    pub steps: Vec<u32>,
    /// Why, as the operator gave it last.
    pub reason: String,
    /// When its share became this.
    pub since: jiff::Timestamp,
}

/// What is to be done about the canary of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CanaryOrder {
    /// Begin, or go to a share.
    Set {
        /// The set.
        set: String,
        /// Its share.
        permille: u32,
        /// The shares that it goes through; as before, or [`DEFAULT_STEPS`], if none are said.
        steps: Option<Vec<u32>>,
    },
    /// Go to the next step, or to the one before.
    Step {
        /// To the one before.
        back: bool,
    },
    /// The set takes everything.
    Promote,
    /// Everything is as the configuration says.
    Abort,
}

/// Why an order was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// There is nothing to step, promote or abort.
    #[error("service {0} has no canary")]
    None(String),
    /// Another set is the service's canary.
    #[error("set {set} is the canary of service {service} already: promote or abort it first")]
    Another {
        /// The service.
        service: String,
        /// Its canary.
        set: String,
    },
    /// It has taken its last step.
    #[error("set {set} takes {share} already: there is no further step")]
    NoStep {
        /// The set.
        set: String,
        /// Its share.
        share: String,
    },
    /// Shares that do not ascend, are too many, or out of range.
    #[error("steps are 1 to {MAX_STEPS} shares that ascend, from 0.1% to 100%")]
    Steps,
    /// A share out of range.
    #[error("a share of {0} permille is out of range: it goes from 0 to {ALL}")]
    Share(u32),
    /// It does not go with the configuration.
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// The table has too few slots for so small a share.
    #[error("{}", coarse(.set, .pool, *.permille, *.slots, *.achievable))]
    Coarse {
        /// The set.
        set: String,
        /// Its pool.
        pool: String,
        /// The share.
        permille: u32,
        /// Slots of the pool's table.
        slots: u32,
        /// The next larger share that would do.
        achievable: Option<u32>,
    },
}

fn coarse(set: &str, pool: &str, permille: u32, slots: u32, achievable: Option<u32>) -> String {
    let next = achievable.map_or_else(
        || "no share of this set would do: give the pool a larger table_size".to_owned(),
        |next| format!("the next share that would do is {}", percent(next)),
    );
    format!(
        "with {} for set {set}, some member of pool {pool} would be more than 10 % off its share in a table of {slots} slots; {next}",
        percent(permille)
    )
}

/// Why a canary does not go with a configuration.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Misfit {
    /// There is no such service.
    #[error("there is no service {0} any more")]
    NoService(String),
    /// None of the service's pools has the set.
    #[error("no pool of service {service} has set {set}, neither in sets nor in standby")]
    NoSet {
        /// The service.
        service: String,
        /// The set.
        set: String,
    },
    /// It is the only set of its pool.
    #[error("set {set} is all that pool {pool} has: there is nothing to share with")]
    Alone {
        /// The set.
        set: String,
        /// Its pool.
        pool: String,
    },
    /// The table of its pool, as it is now, is too coarse for its share.
    #[error("the table of pool {pool}, {slots} slots, is too coarse now for {} of its flows", percent(*permille))]
    Coarse {
        /// The pool.
        pool: String,
        /// Slots of its table.
        slots: u32,
        /// The share.
        permille: u32,
    },
    /// The configuration says the same.
    #[error("the configuration itself gives set {0} all flows of its pool now")]
    Fulfilled(String),
}

/// A share in permille, as percent.
#[must_use]
pub fn percent(permille: u32) -> String {
    match permille % 10 {
        0 => format!("{} %", permille / 10),
        rest => format!("{}.{rest} %", permille / 10),
    }
}

/// Carries out an order about the canary of `service`: the canaries after it.
///
/// # Errors
/// [`Refusal`]; then nothing is to change.
pub fn order(
    canaries: &[Canary],
    service: &str,
    order: CanaryOrder,
    reason: &str,
    now: jiff::Timestamp,
) -> Result<Vec<Canary>, Refusal> {
    let stands = canaries.iter().find(|canary| canary.service == service);
    let none = || Refusal::None(service.to_owned());
    let canary = match order {
        CanaryOrder::Abort => {
            stands.ok_or_else(none)?;
            None
        }
        CanaryOrder::Set { set, permille, steps } => {
            if let Some(other) = stands.filter(|canary| canary.set != set) {
                return Err(Refusal::Another { service: service.to_owned(), set: other.set.clone() });
            }
            if permille > ALL {
                return Err(Refusal::Share(permille));
            }
            let steps = steps.or_else(|| stands.map(|canary| canary.steps.clone()));
            let steps = steps.unwrap_or_else(|| DEFAULT_STEPS.to_vec());
            let ascend = steps.windows(2).all(|pair| pair[0] < pair[1]);
            if steps.is_empty()
                || steps.len() > MAX_STEPS
                || !ascend
                || steps[0] == 0
                || steps[steps.len() - 1] > ALL
            {
                return Err(Refusal::Steps);
            }
            let (service, reason) = (service.to_owned(), reason.to_owned());
            Some(Canary { service, set, permille, steps, reason, since: now })
        }
        CanaryOrder::Step { back } => {
            let canary = stands.ok_or_else(none)?;
            let mut steps = canary.steps.iter().copied();
            let next = if back {
                steps.rfind(|step| *step < canary.permille)
            } else {
                steps.find(|step| *step > canary.permille)
            };
            let no_step = || Refusal::NoStep { set: canary.set.clone(), share: percent(canary.permille) };
            Some(Canary {
                permille: next.ok_or_else(no_step)?,
                reason: reason.to_owned(),
                since: now,
                ..canary.clone()
            })
        }
        CanaryOrder::Promote => {
            let canary = stands.ok_or_else(none)?;
            Some(Canary { permille: ALL, reason: reason.to_owned(), since: now, ..canary.clone() })
        }
    };
    let others = canaries.iter().filter(|canary| canary.service != service).cloned();
    let mut all: Vec<_> = others.chain(canary).collect();
    all.sort_by(|a, b| a.service.cmp(&b.service));
    Ok(all)
}

/// Lays canaries over a configuration. The second value names those that do not go with it, and were left out: what comes out can be
/// compiled if the configuration can, so no canary keeps a daemon from starting.
#[must_use]
pub fn apply(base: &Config, canaries: &[Canary]) -> (Config, Vec<(Canary, Misfit)>) {
    let mut config = base.clone();
    let mut misfits = Vec::new();
    for canary in canaries {
        match place(base, canary) {
            Ok((_, _, changed)) if is_too_coarse(base, &changed) => {
                let Pool { name: pool, table_size: slots, .. } = changed;
                misfits.push((canary.clone(), Misfit::Coarse { pool, slots, permille: canary.permille }));
            }
            Ok((service, pool, changed)) => config.services[service].pools[pool] = changed,
            Err(misfit) => misfits.push((canary.clone(), misfit)),
        }
    }
    (config, misfits)
}

/// Whether a canary's share can be had, exactly enough.
///
/// # Errors
/// [`Refusal::Misfit`], and [`Refusal::Coarse`] with the share that can be had instead.
pub fn check(base: &Config, canary: &Canary) -> Result<(), Refusal> {
    let fits = |permille: u32| {
        let (_, _, pool) = place(base, &Canary { permille, ..canary.clone() })?;
        Ok::<_, Misfit>((!is_too_coarse(base, &pool), pool))
    };
    let (does, pool) = match fits(canary.permille) {
        Err(Misfit::Fulfilled(_)) => return Ok(()),
        other => other?,
    };
    if does {
        return Ok(());
    }
    let achievable = (canary.permille + 1..=ALL).find(|&more| fits(more).is_ok_and(|(does, _)| does));
    let (set, permille, slots) = (canary.set.clone(), canary.permille, pool.table_size);
    Err(Refusal::Coarse { set, pool: pool.name, permille, slots, achievable })
}

/// Whether some member of a pool would get too few slots of its table.
fn is_too_coarse(base: &Config, pool: &Pool) -> bool {
    let weights = base.weights(pool).into_iter().map(|(_, weight)| weight).collect();
    !smallest_share_fits(weights, pool.table_size)
}

/// The pool that a canary changes: indices of service and pool, and what the pool becomes.
fn place(base: &Config, canary: &Canary) -> Result<(usize, usize, Pool), Misfit> {
    let (service, set) = (canary.service.clone(), canary.set.clone());
    let Some(id) = base.find_service(&service) else {
        return Err(Misfit::NoService(service));
    };
    let found = base.sets.iter().position(|known| known.name == set).and_then(SetId::from_index);
    let pools = base[id].pools.iter().enumerate();
    let found = found.and_then(|set| {
        let has = |(_, pool): &(usize, &Pool)| pool.sets.contains(&set) || pool.standby.contains(&set);
        pools.into_iter().find(has).map(|(at, pool)| (at, pool, set))
    });
    let Some((at, pool, set_id)) = found else {
        return Err(Misfit::NoSet { service, set });
    };
    let mut others = pool.sets.clone();
    others.retain(|other| *other != set_id);
    if others.is_empty() && canary.permille == ALL {
        return Err(Misfit::Fulfilled(set));
    }
    if others.is_empty() {
        return Err(Misfit::Alone { set, pool: pool.name.clone() });
    }
    let mut changed = pool.clone();
    (changed.sets, changed.canary) = match canary.permille {
        0 => (others, None),
        ALL.. => (vec![set_id], None),
        permille => {
            others.push(set_id);
            others.sort_unstable();
            (others, Some(SetShare { set: set_id, permille }))
        }
    };
    // Whoever takes nothing stands by: its flows and connection ids are still its own.
    let all = pool.sets.iter().chain(&pool.standby).copied();
    changed.standby = all.filter(|set| !changed.sets.contains(set)).collect();
    changed.standby.sort_unstable();
    Ok((id.index(), at, changed))
}

#[cfg(test)]
#[path = "canary_tests.rs"]
mod tests;
