//! Where flows that no table of flows knows are at home.

use lb_common::abi::{plan::PoolEntry, service::ServiceEntry};
use lb_maglev::{SLOT_MARK, is_marked, member_id};

use super::Running;
use crate::plan::ids::{BackendIndex, ServiceIndex};

/// The tables in which an untracked flow of one service and client region is at home.
///
/// "Untracked" is an established flow that the flow table does not know. Its home is, in each slot, the member of `PREVIOUS`
/// where the slot is marked and the service is in transition, else the table's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Home {
    base: u32,
    pub(super) slots: u32,
    /// The table of `PREVIOUS`, if it counts.
    earlier: Option<u32>,
}

impl Home {
    pub(super) fn member(self, slots: &[u16], slot: u32) -> u16 {
        let own = slots[(self.base + slot) as usize];
        match self.earlier {
            Some(earlier) if is_marked(own) => member_id(slots[(earlier + slot) as usize]),
            _ => member_id(own),
        }
    }

    fn marked(self, slots: &[u16], slot: u32) -> bool {
        is_marked(slots[(self.base + slot) as usize])
    }
}

/// Client regions that a service tells apart, now or in the transition that runs.
pub(super) fn regions(service: &ServiceEntry) -> u32 {
    if service.previous_base == 0 { service.plans } else { service.plans.max(service.previous_plans.into()) }
}

/// Whether flows of before the transition that runs are at home by other client regions than those of now.
pub(super) fn by_other_regions(running: &Running) -> bool {
    running.root.previous_clients != running.root.clients
}

/// The home of untracked flows, and whether an earlier transition could not be taken along.
pub(super) fn home(running: &Running, service: &ServiceEntry, region: u32) -> (Home, bool) {
    let own = if region < service.plans { region } else { 0 };
    let pool = running.plans[(service.plan_base + own) as usize].first;
    let plain = Home { base: pool.table_base, slots: pool.table_slots, earlier: None };
    let Some(first) = service.previous_base.checked_sub(1) else { return (plain, false) };
    let at = first + if region < u32::from(service.previous_plans) { region } else { 0 };
    let Some(previous) = running.previous.get(at as usize) else { return (plain, true) };
    let by_other_regions = by_other_regions(running) && (service.plans > 1 || service.previous_plans > 1);
    if previous.table_slots != pool.table_slots || by_other_regions {
        return (plain, true);
    }
    (Home { earlier: Some(previous.table_base), ..plain }, false)
}

/// The backend at which an untracked flow of a service is at home. `None` without members.
///
/// `region` is the flow's client region, `before` that by the client regions before the last change. This is what the data
/// plane does with an established packet that the flow table does not know, if everything is open.
#[must_use]
pub fn untracked(
    running: &Running,
    service: ServiceIndex,
    (region, before): (u32, u32),
    h: u64,
) -> Option<BackendIndex> {
    let entry = running.services.get(service.position())?;
    let within = |region: u32, count: u32| if region < count { region } else { 0 };
    if entry.plans == 0 {
        return None;
    }
    let pool = running.plans.get((entry.plan_base + within(region, entry.plans)) as usize)?.first;
    let slot = |pool: &PoolEntry| {
        let at = pool.table_base + lb_maglev::reduce(h, pool.table_slots);
        running.slots.get(at as usize).copied().filter(|_| pool.table_slots != 0)
    };
    let own = slot(&pool)?;
    let previous = entry.previous_base.checked_sub(1).filter(|_| is_marked(own));
    let previous = previous
        .and_then(|first| {
            running.previous.get((first + within(before, entry.previous_plans.into())) as usize)
        })
        .and_then(slot);
    Some(BackendIndex(u32::from(member_id(previous.unwrap_or(own)))))
}

/// Marks the slots of a table whose member is not where untracked flows were at home, and those that were marked. Returns
/// whether any member differs.
pub(super) fn mark(now: &mut [u16], before: &[u16], home: Home, base: u32, slots: u32) -> bool {
    let table = &mut now[base as usize..(base + slots) as usize];
    if home.slots != slots {
        table.iter_mut().for_each(|slot| *slot |= SLOT_MARK);
        return home.slots != 0 && slots != 0;
    }
    let mut differs = false;
    for (at, slot) in (0..).zip(table) {
        let moved = home.member(before, at) != member_id(*slot);
        differs |= moved;
        if moved || home.marked(before, at) {
            *slot |= SLOT_MARK;
        }
    }
    differs
}
