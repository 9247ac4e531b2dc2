//! QUIC connections over a change of the configuration. Pure.
//!
//! A connection whose client changed its address is found by the server id in its connection id alone: no table of flows knows it, and its
//! tuple leads elsewhere. So the server ids of what left the configuration go on to name it for as long as it stays.

use std::collections::{HashMap, HashSet};

use lb_common::abi::{
    backend::BACKEND_LEAVING,
    plan::PlanEntry,
    quic::{QuicServer, QuicServerKey},
    service::{SERVICE_LEAVING, ServiceEntry},
};
use lb_maglev::member_id;

use super::ids::{Endpoint, Front};
use super::image::Image;
use super::transition::Running;

/// Where the pools of services that left lie now, by service and pool as they ran.
pub(super) type TakenPools = HashMap<(u32, u32), u32>;

/// Keeps the server ids of backends and services that are leaving, and of backends that no longer belong to their service. What the new
/// configuration says about a server id goes before.
pub(super) fn keep(image: &mut Image, running: &Running, taken: &TakenPools) {
    let known: HashSet<QuicServerKey> = image.quic.iter().map(|(key, _)| *key).collect();
    let current: HashSet<(u32, u32)> =
        image.quic.iter().map(|(k, server)| (k.service, server.backend)).collect();
    let kept = running.quic.iter().filter(|(key, _)| !known.contains(key));
    let kept: Vec<_> =
        kept.filter_map(|(key, server)| go_on(image, running, taken, &current, key, server)).collect();
    image.quic.extend(kept);
    image.quic.sort_unstable_by_key(|(key, _)| *key);
}

fn go_on(
    image: &Image,
    running: &Running,
    taken: &TakenPools,
    current: &HashSet<(u32, u32)>,
    key: &QuicServerKey,
    server: &QuicServer,
) -> Option<(QuicServerKey, QuicServer)> {
    let (service, at) = (key.service as usize, server.backend as usize);
    let (entry, before) = (image.services.get(service)?, running.services.get(service)?);
    let (backend, backend_before) = (image.backends.get(at)?, running.backends.get(at)?);
    let is_same = Front::of(entry) == Front::of(before)
        && Endpoint::of(backend).is_some()
        && Endpoint::of(backend) == Endpoint::of(backend_before);
    if !is_same || !entry.quic.contains(&key.config) {
        return None;
    }
    if entry.flags & SERVICE_LEAVING != 0 {
        let pool = *taken.get(&(key.service, server.pool))?;
        return Some((*key, QuicServer { pool, ..*server }));
    }
    let has_left = backend.flags & BACKEND_LEAVING != 0
        || !current.contains(&(key.service, server.backend)) && was_member(running, server);
    let pool = pool_for(image, running, entry, before, server.pool).filter(|_| has_left)?;
    Some((*key, QuicServer { pool, ..*server }))
}

/// Whether a server's backend was in the table of its pool: else it left a while ago.
fn was_member(running: &Running, server: &QuicServer) -> bool {
    running.pools.get(server.pool as usize).is_some_and(|pool| {
        let table = pool.table_base as usize..(pool.table_base + pool.table_slots) as usize;
        let slots = running.slots.get(table).unwrap_or_default();
        slots.iter().any(|&slot| u32::from(member_id(slot)) == server.backend)
    })
}

/// A pool in whose name a server that left is reached: one that no plan names whose clients could not reach the server before. Of
/// several, that with the most plans; none if there is none.
fn pool_for(
    image: &Image,
    running: &Running,
    now: &ServiceEntry,
    before: &ServiceEntry,
    pool: u32,
) -> Option<u32> {
    let regions = now.plans.max(before.plans);
    let allowed: Vec<bool> = (0..regions).map(|region| names(&running.plans, before, region, pool)).collect();
    // Regions that are other ones now are not to be told from each other by number.
    let other_regions = regions > 1 && image.root.clients_digest != running.root.clients_digest;
    if other_regions && !allowed.iter().all(|&allowed| allowed) {
        return None;
    }
    let plans = &image.plans[now.plan_base as usize..(now.plan_base + now.plans) as usize];
    let candidates: HashSet<u32> = plans.iter().flat_map(steps).collect();
    let reach = |candidate: u32| {
        let named = (0..regions).map(|region| names(&image.plans, now, region, candidate));
        let (mut count, mut widens) = (0, false);
        for (named, &allowed) in named.zip(&allowed) {
            count += usize::from(named);
            widens |= named && !allowed;
        }
        (!widens).then_some((count, std::cmp::Reverse(candidate)))
    };
    candidates.into_iter().filter_map(reach).max().map(|(_, std::cmp::Reverse(candidate))| candidate)
}

/// Whether the plan of a client region names a pool.
fn names(plans: &[PlanEntry], service: &ServiceEntry, region: u32, pool: u32) -> bool {
    let at = service.plan_base + if region < service.plans { region } else { 0 };
    plans.get(at as usize).is_some_and(|plan| steps(plan).any(|step| step == pool))
}

fn steps(plan: &PlanEntry) -> impl Iterator<Item = u32> + '_ {
    plan.pools.iter().take(plan.steps as usize).map(|&pool| u32::from(pool))
}

#[cfg(test)]
#[path = "quic_tests.rs"]
mod tests;
