//! Stage 7: what is done with the packet, and how is it counted?

use super::ports::Tables;
use crate::abi::{
    counter::{backend_slot, reason_slot, service_slot},
    reason::Reason,
    watch::{VERDICT_ANSWER, VERDICT_DROP, VERDICT_FORWARD, VERDICT_PASS},
};

/// What the program does with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Hand it to the kernel's stack.
    Pass,
    /// Drop it.
    Drop,
    /// Send it out where it came in.
    Tx,
    /// Send it out of this interface.
    Redirect(u32),
    /// It is for no VIP, but may have been relayed to this host: [`relay::arrive`](super::relay::arrive) decides, and counts.
    Arrival,
}

/// "No index" in [`Outcome`].
const NONE: u32 = u32::MAX;

/// A verdict with what is counted for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What to do.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    service: u32,
    backend: u32,
    opening: bool,
}

impl Outcome {
    /// Hand the frame to the stack.
    #[inline(always)]
    #[must_use]
    pub const fn pass(reason: Reason) -> Self {
        Self { verdict: Verdict::Pass, reason, service: NONE, backend: NONE, opening: false }
    }

    /// Look at the frame again: it may have been relayed to this host. If it was not, it is passed.
    #[inline(always)]
    #[must_use]
    pub(super) const fn arrival() -> Self {
        Self { verdict: Verdict::Arrival, ..Self::pass(Reason::PassNotVip) }
    }

    /// Drop a frame whose service is not known.
    #[inline(always)]
    #[must_use]
    pub const fn refuse(reason: Reason) -> Self {
        Self { verdict: Verdict::Drop, reason, service: NONE, backend: NONE, opening: false }
    }

    /// Send the frame, now an answer, back where it came from.
    #[inline(always)]
    #[must_use]
    pub const fn answer(reason: Reason) -> Self {
        Self { verdict: Verdict::Tx, reason, service: NONE, backend: NONE, opening: false }
    }

    /// The service is known; the rest follows.
    #[inline(always)]
    #[must_use]
    pub(super) const fn for_service(service: u32, opening: bool) -> Self {
        Self { verdict: Verdict::Drop, reason: Reason::Inconsistent, service, backend: NONE, opening }
    }

    #[inline(always)]
    #[must_use]
    pub(super) const fn to_backend(self, backend: u32) -> Self {
        Self { backend, ..self }
    }

    #[inline(always)]
    #[must_use]
    pub(super) const fn drop(self, reason: Reason) -> Self {
        Self { verdict: Verdict::Drop, reason, ..self }
    }

    /// Drops the frame, or, if it became an answer, sends it back where it came from.
    #[inline(always)]
    #[must_use]
    pub(super) const fn refuse_or_answer(self, reason: Reason) -> Self {
        match reason {
            Reason::TooBigAnswered => Self { verdict: Verdict::Tx, reason, ..self },
            _ => self.drop(reason),
        }
    }

    /// The packet has no place: passed if its service is leaving, else dropped.
    #[inline(always)]
    #[must_use]
    pub(super) const fn unplaced(self, reason: Reason) -> Self {
        if reason as u32 == Reason::PassLeaving as u32 { Self::pass(reason) } else { self.drop(reason) }
    }

    #[inline(always)]
    #[must_use]
    pub(super) const fn forward(self, egress: u32, ingress: u32) -> Self {
        let verdict = if egress == ingress { Verdict::Tx } else { Verdict::Redirect(egress) };
        Self { verdict, reason: Reason::Forwarded, ..self }
    }

    /// All of it but the interface of a redirect in two words, as one BPF function hands it to another: see
    /// [`watch::conclude`](super::watch::conclude).
    #[must_use]
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        let kind = match self.verdict {
            Verdict::Pass | Verdict::Arrival => VERDICT_PASS,
            Verdict::Drop => VERDICT_DROP,
            Verdict::Tx if self.reason as u32 != Reason::Forwarded as u32 => VERDICT_ANSWER,
            Verdict::Tx | Verdict::Redirect(_) => VERDICT_FORWARD,
        };
        let what = self.reason as u64 & 0xff | (kind as u64) << 8 | (self.opening as u64) << 16;
        [what, self.service as u64 | (self.backend as u64) << 32]
    }

    /// The service, where it is known.
    #[must_use]
    pub const fn service(&self) -> Option<u32> {
        if self.service == NONE { None } else { Some(self.service) }
    }

    /// The backend that was chosen, also when the packet was dropped after that.
    #[must_use]
    pub const fn backend(&self) -> Option<u32> {
        if self.backend == NONE { None } else { Some(self.backend) }
    }
}

/// Counts an outcome: a forwarded packet for its service and its backend, any other one for its reason, and, where the
/// service is known, as dropped by it. An arrival is counted by whoever looks at it next.
#[inline(always)]
pub fn count<T: Tables>(tables: &T, outcome: &Outcome, length: usize) {
    let Some(root) = tables.root() else {
        return;
    };
    let bytes = length as u64;
    if outcome.reason as u32 == Reason::Forwarded as u32 {
        tables.count(service_slot(outcome.service), bytes, outcome.opening, false);
        tables.count(backend_slot(root.counter_services, outcome.backend), bytes, outcome.opening, false);
        return;
    }
    if matches!(outcome.verdict, Verdict::Arrival) {
        return;
    }
    tables.count(reason_slot(outcome.reason), bytes, outcome.opening, false);
    if outcome.service != NONE {
        tables.count(service_slot(outcome.service), bytes, outcome.opening, true);
    }
}
