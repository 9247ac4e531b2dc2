//! What a service that left takes along: its plans, pools and tables.

use std::collections::{BTreeMap, HashMap};

use lb_common::abi::{
    limits::{MAX_PLANS, MAX_POOLS},
    plan::PoolEntry,
    service::{SERVICE_GUARDED, SERVICE_LEAVING, SERVICE_STEERED, ServiceEntry},
};

use super::{MAX_SLOTS, Running, Successor, TransitionError, plans_of};
use crate::plan::image::pool_admission_index;

impl<'a> Successor<'a> {
    /// A service that left, over copies of its plans, pools and tables. `bases` says where a running table lies now.
    pub(super) fn take_along(
        &mut self,
        at: u32,
        service: &ServiceEntry,
        bases: &mut HashMap<(u32, u32), u32>,
    ) -> Result<ServiceEntry, TransitionError> {
        let mut entry = ServiceEntry {
            flags: (service.flags | SERVICE_LEAVING) & !(SERVICE_GUARDED | SERVICE_STEERED),
            // None: neither limits nor switches of a service are for what is left of another one.
            guard: u16::MAX,
            plan_base: self.image.plans.len() as u32,
            ..*service
        };
        let mut pools: BTreeMap<u16, PoolEntry> = BTreeMap::new();
        for plan in plans_of(service) {
            let mut plan = self.running.plans[plan];
            for step in plan.pools.iter_mut().take(plan.steps as usize) {
                let pool = match pools.get(step) {
                    Some(pool) => *pool,
                    None => self.take_pool(&self.running.pools[usize::from(*step)].clone(), bases)?,
                };
                pools.insert(*step, pool);
                self.taken.insert((at, u32::from(*step)), pool.pool);
                *step = pool.pool as u16;
            }
            plan.first = self.image.pools[usize::from(plan.pools[0])];
            self.image.plans.push(plan);
        }
        if self.image.plans.len() > MAX_PLANS {
            return Err(TransitionError::TooManyPools);
        }
        if entry.plans > 0 {
            entry.first = self.image.plans[entry.plan_base as usize].first;
        }
        if let Some(first) = service.previous_base.checked_sub(1) {
            let range = first as usize..(first + u32::from(service.previous_plans)) as usize;
            entry.previous_base = self.image.previous.len() as u32 + 1;
            let running: &'a Running = self.running;
            for &previous in &running.previous[range] {
                let table_base = self.take_table(previous.table_base, previous.table_slots, bases)?;
                self.image.previous.push(PoolEntry { table_base, ..previous });
            }
        }
        Ok(entry)
    }

    fn take_pool(
        &mut self,
        pool: &PoolEntry,
        bases: &mut HashMap<(u32, u32), u32>,
    ) -> Result<PoolEntry, TransitionError> {
        let number = self.image.pools.len();
        if number >= MAX_POOLS {
            return Err(TransitionError::TooManyPools);
        }
        let table_base = self.take_table(pool.table_base, pool.table_slots, bases)?;
        let admission = pool_admission_index(number);
        self.image.admission[admission] = self.running.admission[usize::from(pool.admission)];
        let entry = PoolEntry { table_base, admission: admission as u16, pool: number as u32, ..*pool };
        self.image.pools.push(entry);
        Ok(entry)
    }

    fn take_table(
        &mut self,
        base: u32,
        slots: u32,
        bases: &mut HashMap<(u32, u32), u32>,
    ) -> Result<u32, TransitionError> {
        if let Some(&known) = bases.get(&(base, slots)) {
            return Ok(known);
        }
        let table: Vec<_> = self.running.slots[base as usize..(base + slots) as usize].to_vec();
        let at = self.append(&table)?;
        bases.insert((base, slots), at);
        Ok(at)
    }

    pub(super) fn append(&mut self, table: &[u16]) -> Result<u32, TransitionError> {
        let base = self.image.slots.len();
        let count = base + table.len();
        if count > MAX_SLOTS {
            return Err(TransitionError::TooManySlots { count });
        }
        self.image.slots.extend_from_slice(table);
        Ok(base as u32)
    }
}
