//! What hands out the parts of a data plane that others read and write, be it in place or about to be.

use std::sync::Arc;

use super::generation::Generation;
use super::guard::GuardPort;
use super::steering::SteeringPort;
use super::writer::{AdmissionWriter, NextHopWriter};
use crate::plan::ids::Ids;
use crate::plan::transition::Report;

/// What installing found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// Nothing ran.
    Fresh,
    /// The same configuration ran.
    Adopted {
        /// Whether its program was replaced by this binary's.
        program_replaced: bool,
    },
    /// Another configuration ran, and flows go on.
    Replaced,
    /// Another version ran, whose maps this one cannot read: its links are taken over, its flows away from home are not.
    TakenOver {
        /// The version of its binary interface.
        version: u32,
    },
}

/// A generation, the numbers that its configuration's names have in it, and what became of the one before.
#[derive(Debug)]
pub struct Handles {
    generation: Arc<Generation>,
    ids: Arc<Ids>,
    start: Start,
    report: Report,
}

impl Handles {
    pub(super) fn new(generation: Arc<Generation>, ids: Ids, start: Start, report: Report) -> Self {
        Self { generation, ids: Arc::new(ids), start, report }
    }

    pub(super) const fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// What installing found.
    #[must_use]
    pub const fn start(&self) -> Start {
        self.start
    }

    /// What the transition from what ran before comes to; empty if nothing was replaced.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// Which index each backend and service has.
    #[must_use]
    pub const fn ids(&self) -> &Arc<Ids> {
        &self.ids
    }

    /// Writes admission words.
    #[must_use]
    pub fn admission_writer(&self) -> AdmissionWriter {
        AdmissionWriter::new(Arc::clone(&self.generation), Arc::clone(&self.ids))
    }

    /// Writes the live words of guards.
    #[must_use]
    pub fn guards(&self) -> GuardPort {
        GuardPort::new(Arc::clone(&self.generation), Arc::clone(&self.ids))
    }

    /// Writes next hops.
    #[must_use]
    pub fn next_hop_writer(&self) -> NextHopWriter {
        NextHopWriter::new(Arc::clone(&self.generation), Arc::clone(&self.ids))
    }

    /// Writes what steers flows, and reads what that takes.
    #[must_use]
    pub fn steering(&self) -> SteeringPort {
        SteeringPort::new(Arc::clone(&self.generation), Arc::clone(&self.ids))
    }
}
