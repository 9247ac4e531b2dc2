//! Stage 4: is the flow known to live away from home?
//!
//! Invariant: a TCP flow is in the flow table if and only if it was opened away from home. The table is consulted only
//! once a word on the flow's way is not [`Admission::CLEAN`], so on a healthy day no packet touches it. UDP has no opening
//! packet: each datagram is placed afresh and leaves no entry.

use super::{
    hash::share_byte,
    parse::Transport,
    ports::Tables,
    select,
    steer::{Origin, Placement},
    trace::{Step, Trace},
};
use crate::{
    abi::{admission::Admission, flow::{FlowEntry, FlowKey}, reason::Reason},
    net::protocol,
};

/// What is known of a packet's flow while its plan is walked.
pub struct State {
    key: FlowKey,
    opening: bool,
    /// Whether the flow table holds flows of this protocol.
    tracked: bool,
    /// Whether the table was asked already, or must not be.
    asked: bool,
    /// Whether a word on the way was not clean.
    dirty: bool,
    /// Whether the placement came from the table.
    known: bool,
}

impl State {
    /// Nothing known yet.
    #[inline(always)]
    #[must_use]
    pub const fn new(transport: &Transport, origin: Origin) -> Self {
        let tracked = transport.tuple.protocol == protocol::TCP;
        Self {
            key: transport.tuple.flow_key(origin),
            opening: transport.opening,
            tracked,
            asked: !tracked || transport.opening,
            dirty: false,
            known: false,
        }
    }

    /// Takes note of an admission word on the flow's way, and asks the table the first time that it can matter.
    ///
    /// # Errors
    /// [`Reason::Inconsistent`] when the table names a backend that does not exist.
    #[inline(always)]
    pub fn consult<'a, T: Tables>(
        &mut self,
        tables: &'a T,
        word: Admission,
        h: u64,
        trace: &mut impl Trace,
    ) -> Result<Option<Placement<'a>>, Reason> {
        if word.is_clean() {
            return Ok(None);
        }
        self.dirty = true;
        if self.asked {
            return Ok(None);
        }
        self.asked = true;
        let entry = tables.flow(&self.key);
        trace.step(Step::FlowTable { backend: entry.map(|e| e.backend) });
        let Some(FlowEntry { backend, .. }) = entry else {
            return Ok(None);
        };
        let entry = tables.backend(backend).ok_or(Reason::Inconsistent)?;
        let share = select::combined(tables, entry)?.share(false);
        if share == 255 || share_byte(h, select::subject(entry)) < share {
            self.known = true;
            return Ok(Some(Placement { backend, entry, home: false }));
        }
        Ok(None)
    }

    /// Keeps the invariant once the flow is placed: an opening away from home is written down, an opening at home wipes
    /// out what an earlier flow with the same tuple left.
    #[inline(always)]
    pub fn settle<T: Tables>(&self, tables: &T, service: u32, placement: &Placement<'_>, trace: &mut impl Trace) {
        if !self.tracked || !self.opening || self.known {
            return;
        }
        if !placement.home {
            tables.remember(&self.key, FlowEntry { backend: placement.backend, service });
            trace.step(Step::Remembered);
        } else if self.dirty && tables.flow(&self.key).is_some() {
            tables.forget(&self.key);
        }
    }
}
