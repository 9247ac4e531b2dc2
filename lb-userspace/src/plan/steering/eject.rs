//! How much of a pool checks of single backends may take out.
//!
//! Whom it takes out is a function of who is believed down, not of the order in which that was learnt: backends that are down are
//! gone through in the order of their names, and each one leaves if all its pools can spare it. Whom they cannot spare stays in.
//! Domains that fail as a whole, and operators, are not bounded.

use std::collections::BTreeMap;

use crate::config::{BackendId, Config};
use crate::plan::planner::{Cause, Fact, Subject};
use crate::plan::state::State;

/// See the [module's description](self).
#[derive(Clone, Debug)]
pub struct Ejector {
    percent: u8,
    /// Name and weight of each pool, and of what is out of it in the last round.
    pools: Vec<(String, u64)>,
    /// Pools of each backend, with its weight there.
    of_backend: Vec<Vec<(usize, u64)>>,
    /// Who is believed down by checks of its own, with what was said of it; and whether it is out.
    down: BTreeMap<BackendId, (Fact, bool)>,
}

/// What to believe instead of what checks said.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ruling {
    /// In this order.
    pub facts: Vec<Fact>,
    /// Whom its pool cannot spare, with the pool's name.
    pub spared: Vec<(BackendId, String)>,
}

impl Ejector {
    /// Everybody is in. `is_down` says who is down already.
    pub fn new(config: &Config, is_down: impl Fn(BackendId) -> bool) -> Self {
        let mut ejector = Self {
            percent: config.node.max_ejected,
            pools: Vec::new(),
            of_backend: vec![Vec::new(); config.backends.len()],
            down: BTreeMap::new(),
        };
        for service in &config.services {
            for pool in &service.pools {
                let members = config.weights(pool);
                let total = members.iter().map(|(_, weight)| u64::from(*weight)).sum();
                for (id, weight) in members {
                    ejector.of_backend[id.index()].push((ejector.pools.len(), u64::from(weight)));
                }
                ejector.pools.push((format!("{}/{}", service.name, pool.name), total));
            }
        }
        for id in (0..config.backends.len()).filter_map(BackendId::from_index).filter(|&id| is_down(id)) {
            let cause = Cause::Reconciled;
            let fact = Fact { subject: Subject::Backend(id), state: State::Down, cause, evidence_ns: None };
            ejector.down.insert(id, (fact, true));
        }
        ejector
    }

    /// Whether there is a bound at all.
    #[must_use]
    pub const fn is_bounded(&self) -> bool {
        self.percent < 100
    }

    /// Whom checks believe down and whose pools cannot spare it, in the order of ids.
    pub fn spared(&self) -> impl Iterator<Item = BackendId> + '_ {
        self.down.iter().filter(|(_, (_, is_out))| !is_out).map(|(id, _)| *id)
    }

    /// Takes in what checks say, and tells what is to be believed.
    pub fn rule(&mut self, fact: Fact) -> Ruling {
        let Subject::Backend(backend) = fact.subject else {
            return Ruling { facts: vec![fact], ..Ruling::default() };
        };
        let mut ruling = Ruling::default();
        let was = self.down.remove(&backend);
        if fact.state == State::Down {
            let is_out = was.is_some_and(|(_, is_out)| is_out);
            self.down.insert(backend, (fact, is_out));
            self.choose(Some(backend), &mut ruling);
        } else {
            ruling.facts.push(fact);
            self.choose(None, &mut ruling);
        }
        ruling
    }

    /// Says who is out and who is not, as far as that changed; of `newly` in any case.
    fn choose(&mut self, newly: Option<BackendId>, ruling: &mut Ruling) {
        let mut out = vec![0; self.pools.len()];
        let (mut leaving, mut returning) = (Vec::new(), Vec::new());
        for (&id, (fact, is_out)) in &mut self.down {
            let full = self.of_backend[id.index()].iter().find(|&&(pool, weight)| {
                (out[pool] + weight) * 100 > u64::from(self.percent) * self.pools[pool].1
            });
            let was_out = std::mem::replace(is_out, full.is_none());
            match full {
                None => {
                    self.of_backend[id.index()].iter().for_each(|&(pool, weight)| out[pool] += weight);
                    if !was_out || newly == Some(id) {
                        leaving.push(fact.clone());
                    }
                }
                Some(&(pool, _)) if was_out || newly == Some(id) => {
                    ruling.spared.push((id, self.pools[pool].0.clone()));
                    if was_out {
                        let cause = Cause::Spared;
                        returning.push(Fact { state: State::Up, cause, ..fact.clone() });
                    }
                }
                Some(_) => {}
            }
        }
        // Nobody more is out for a moment than may be.
        ruling.facts.extend(returning);
        ruling.facts.extend(leaving);
    }
}
