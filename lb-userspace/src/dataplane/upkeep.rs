//! What is tidied up while programs run: the tables of flows and their filter, marks of slots, and transitions.
//!
//! Everything here happens beside the programs. Slots and the words of a transition have this one writer only; bytes of the flow
//! filter are exchanged, as programs store them at the same time.

use std::io;
use std::mem::offset_of;
use std::sync::Arc;

use lb_common::abi::flow::{FlowEntry, FlowKey};
use lb_common::abi::root::Root;
use lb_common::abi::service::ServiceEntry;
use lb_common::datapath::flow::FlowTable;
use lb_maglev::SLOT_MARK;

use super::flow_tables;
use super::generation::{FLOWS, Generation};
use super::opening_table::Openings;

/// Entries of one page of a table of flows, and where the next page begins, if there is one.
pub type Page = (Vec<(FlowKey, FlowEntry)>, Option<u32>);

/// Tidies up one generation.
#[derive(Clone, Debug)]
pub struct Upkeep {
    generation: Arc<Generation>,
}

impl Upkeep {
    pub(super) const fn new(generation: Arc<Generation>) -> Self {
        Self { generation }
    }

    /// Whether flows that are not in the flow table may still have another home than the tables say.
    #[must_use]
    pub fn is_in_transition(&self) -> bool {
        let services = &self.generation.services;
        let at = offset_of!(ServiceEntry, previous_base);
        (0..services.len()).any(|index| services.load_u32(index, at).is_some_and(|base| base != 0))
    }

    /// Ends the transition: from the next packet on, flows that are not in the flow table are at home where the tables say.
    pub fn end_transition(&self) {
        let services = &self.generation.services;
        for index in 0..services.len() {
            let _ = services.store_u32(index, offset_of!(ServiceEntry, previous_base), 0);
        }
        let root = &self.generation.root;
        let _ = root.store_u32(0, offset_of!(Root, previous_clients), self.generation.root().clients);
    }

    /// Calls `each` for every entry of a table of flows.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn walk(&self, table: FlowTable, each: impl FnMut(&FlowKey, &FlowEntry)) -> io::Result<()> {
        match table {
            FlowTable::Flows => flow_tables::walk(self.generation.fd(FLOWS), each),
            FlowTable::Openings => {
                Openings::of(&self.generation).walk(each);
                Ok(())
            }
        }
    }

    /// Some entries of a table of flows, and where to go on for more; from the beginning without `from`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn page(&self, table: FlowTable, from: Option<u32>) -> io::Result<Page> {
        match table {
            FlowTable::Flows => flow_tables::page(self.generation.fd(FLOWS), from),
            FlowTable::Openings => Ok(Openings::of(&self.generation).page(from)),
        }
    }

    /// Removes a flow from a table of flows.
    ///
    /// # Errors
    /// What the kernel says; that it is gone already is no error.
    pub fn remove(&self, table: FlowTable, key: &FlowKey) -> io::Result<()> {
        match table {
            FlowTable::Flows => flow_tables::remove(self.generation.fd(FLOWS), key),
            FlowTable::Openings => {
                Openings::of(&self.generation).remove(key);
                Ok(())
            }
        }
    }

    /// The numbers of all marked slots.
    #[must_use]
    pub fn marked(&self) -> Vec<u32> {
        let slots = &self.generation.slots;
        let is_marked = |&at: &u32| slots.read(at as usize).is_some_and(lb_maglev::is_marked);
        (0..slots.len() as u32).filter(is_marked).collect()
    }

    /// Marks a slot.
    pub fn mark(&self, slot: u32) {
        let _ = self.generation.slots.update_u16(slot as usize, |member| Some(member | SLOT_MARK));
    }

    /// Takes the mark off a slot.
    pub fn unmark(&self, slot: u32) {
        let _ = self.generation.slots.update_u16(slot as usize, |member| Some(member & !SLOT_MARK));
    }

    /// Begins a new epoch of the flow filter and returns it. Entries that are written from some moments later on carry it.
    #[must_use]
    pub fn next_epoch(&self) -> u8 {
        let epoch = self.generation.root().flow_filter_epoch;
        let next = if epoch >= u32::from(u8::MAX) { 1 } else { epoch + 1 };
        let _ = self.generation.root.store_u32(0, offset_of!(Root, flow_filter_epoch), next);
        next as u8
    }

    /// Says that there may be an entry for a byte of the filter.
    pub fn set_filter(&self, index: u32, epoch: u8) {
        let at = index as usize % 2;
        let _ = self.generation.filter.update_u16(index as usize / 2, |pair| {
            let mut bytes = pair.to_ne_bytes();
            bytes[at] = epoch;
            Some(u16::from_ne_bytes(bytes))
        });
    }

    /// Clears all bytes of the filter that are of another epoch. Returns how many are left.
    pub fn sweep_filter(&self, epoch: u8) -> u64 {
        let filter = &self.generation.filter;
        let mut left = 0;
        for index in 0..filter.len() {
            let keep = |pair: u16| pair.to_ne_bytes().map(|byte| if byte == epoch { byte } else { 0 });
            let _ = filter.update_u16(index, |pair| {
                let kept = u16::from_ne_bytes(keep(pair));
                (kept != pair).then_some(kept)
            });
            let pair = filter.read(index).unwrap_or(0).to_ne_bytes();
            left += pair.iter().filter(|&&byte| byte != 0).count() as u64;
        }
        left
    }
}
