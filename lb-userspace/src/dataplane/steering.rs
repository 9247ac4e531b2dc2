//! The live words of plans, and what steering looks at.

use std::mem::offset_of;
use std::sync::Arc;

use lb_common::abi::admission::Admission;
use lb_common::abi::plan::{PLAN_PANIC, PlanEntry};
use lb_common::abi::service::ServiceEntry;

use super::counters::CounterReader;
use super::generation::Generation;
use super::writer::AdmissionWriter;
use crate::config::BackendId;
use crate::plan::ids::Ids;
use crate::plan::planner::{AdmissionStore, Cell};
use crate::plan::steering::PlanWords;

const SHARES_AT: usize = offset_of!(PlanEntry, shares);
const EASED_AT: usize = offset_of!(PlanEntry, eased);
const LEAVES_AT: usize = offset_of!(PlanEntry, leaves);
const SERVICE_FLAGS_AT: usize = offset_of!(ServiceEntry, flags);

const _: () =
    assert!(SHARES_AT.is_multiple_of(4) && EASED_AT.is_multiple_of(4) && LEAVES_AT.is_multiple_of(4));

/// Stores what plans do by single words, and reads admission words and counters.
#[derive(Clone, Debug)]
pub struct SteeringPort {
    generation: Arc<Generation>,
    ids: Arc<Ids>,
    words: AdmissionWriter,
    counters: CounterReader,
}

impl SteeringPort {
    pub(super) fn new(generation: Arc<Generation>, ids: Arc<Ids>) -> Self {
        Self {
            words: AdmissionWriter::new(Arc::clone(&generation), Arc::clone(&ids)),
            counters: CounterReader::new(Arc::clone(&generation), Arc::clone(&ids)),
            generation,
            ids,
        }
    }

    /// An admission word as it stands.
    #[must_use]
    pub fn word(&self, cell: Cell) -> Admission {
        self.words.load(cell)
    }

    /// The words of a service's plan; `None` when there is no such plan.
    #[must_use]
    pub fn plan(&self, service: usize, number: usize) -> Option<PlanWords> {
        self.generation.plans.read(self.plan_index(service, number)?).map(|entry| PlanWords::of(&entry))
    }

    /// Stores the words of a service's plan, one by one; `None` when there is no such plan.
    pub fn store(&self, service: usize, number: usize, words: &PlanWords) -> Option<()> {
        let (plans, at) = (&self.generation.plans, self.plan_index(service, number)?);
        for (word, pair) in words.shares.chunks_exact(2).enumerate() {
            let ([a, b], [c, d]) = (pair[0].to_ne_bytes(), pair[1].to_ne_bytes());
            plans.store_u32(at, SHARES_AT + 4 * word, u32::from_ne_bytes([a, b, c, d]))?;
        }
        for (word, bytes) in words.leaves.chunks_exact(4).enumerate() {
            plans.store_u32(at, LEAVES_AT + 4 * word, u32::from_ne_bytes(bytes.try_into().ok()?))?;
        }
        plans.store_u32(at, EASED_AT, if words.panic { PLAN_PANIC } else { 0 })
    }

    /// The flags of a service; 0 when there is no such service.
    #[must_use]
    pub fn flags(&self, service: usize) -> u32 {
        let at = self.service_index(service);
        at.and_then(|at| self.generation.services.load_u32(at, SERVICE_FLAGS_AT)).unwrap_or(0)
    }

    /// Sets or clears flags of a service; `None` when there is no such service.
    pub fn set_flags(&self, service: usize, flags: u32, on: bool) -> Option<()> {
        let change = |now: u32| if on { now | flags } else { now & !flags };
        self.generation.services.update_u32(self.service_index(service)?, SERVICE_FLAGS_AT, change)
    }

    /// Packets to a backend that may have opened a flow, so far, on all CPUs.
    #[must_use]
    pub fn opened(&self, backend: BackendId) -> u64 {
        self.counters.backend(self.ids.backend(backend)).opening
    }

    fn service_index(&self, service: usize) -> Option<usize> {
        Some(self.ids.services().get(service)?.position())
    }

    fn plan_index(&self, service: usize, number: usize) -> Option<usize> {
        let entry = self.generation.services.read(self.service_index(service)?)?;
        let number = u32::try_from(number).ok().filter(|&number| number < entry.plans)?;
        Some((entry.plan_base + number) as usize)
    }
}
