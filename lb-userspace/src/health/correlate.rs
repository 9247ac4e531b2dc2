//! Which domains explain the misses of a moment, and whether it is this host that is cut off.
//!
//! Pure and without memory: it looks at who is missing now. What follows from it over several rounds is
//! [`judge`](super::judge)'s part.

use crate::config::{DomainId, Level, Topology};

/// A domain fails when at least this share of its members, in percent, misses.
pub const CORRELATION_PERCENT: u32 = 80;
/// A domain has recovered when at least this share of its members, in percent, answers steadily.
pub const RECOVERY_PERCENT: u32 = 80;
/// With fewer members, their misses say nothing about the domain.
pub const MIN_CORRELATED_MEMBERS: u32 = 2;
/// With members in fewer racks, silence of all of them says nothing about this host.
pub const MIN_ISOLATION_RACKS: u32 = 2;

/// What is known of one checked backend at the end of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Where it stands.
    pub rack: DomainId,
    /// Whether it is evidence about its domains: not while it is DOWN on its own account, nor if an operator took it
    /// out.
    pub counts: bool,
    /// Its last probe of some check was missed, and that is evidence.
    pub missing: bool,
    /// Its last probe of some check was missed, be it because this host was isolated.
    pub silent: bool,
    /// It missed `fall` probes in a row of some check.
    pub confirmed: bool,
    /// It passes all its checks, and did so `rise` times in a row if it was down.
    pub steady: bool,
    /// It answered something lately, be it that it is unwell, which proves that this host is connected.
    pub answered: bool,
    /// When the first answer that is missing now was due.
    pub first_miss_ns: u64,
}

/// Sums over the members of a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Members that count.
    pub members: u32,
    /// Of these, those whose last probe was missed, as far as that is evidence.
    pub missing: u32,
    /// Of these, those whose last probe was missed.
    pub silent: u32,
    /// Of these, those that missed `fall` probes in a row.
    pub confirmed: u32,
    /// Of these, those that pass.
    pub steady: u32,
    /// Checked backends, whether they count or not.
    pub checked: u32,
    /// Of these, those that answered: an answer proves this host's connection, whoever gives it.
    pub answered: u32,
    /// The earliest [`Member::first_miss_ns`] of those missing; `u64::MAX` if none is.
    pub first_miss_ns: u64,
}

impl Tally {
    const NONE: Self = Self {
        members: 0,
        missing: 0,
        silent: 0,
        confirmed: 0,
        steady: 0,
        checked: 0,
        answered: 0,
        first_miss_ns: u64::MAX,
    };

    /// Whether so many members miss that the domain must be the reason.
    #[must_use]
    pub const fn is_failing(&self) -> bool {
        self.members >= MIN_CORRELATED_MEMBERS && at_least(self.missing, CORRELATION_PERCENT, self.members)
    }

    /// Whether the failure has lasted for `fall` rounds.
    #[must_use]
    pub const fn is_confirmed(&self) -> bool {
        self.is_failing() && at_least(self.confirmed, CORRELATION_PERCENT, self.members)
    }

    /// Whether enough members answered their last probe to call the suspicion a false alarm.
    #[must_use]
    pub const fn is_answering(&self) -> bool {
        self.members > 0 && at_least(self.members - self.missing, RECOVERY_PERCENT, self.members)
    }

    /// Whether enough members pass their checks to take the domain back.
    #[must_use]
    pub const fn is_recovered(&self) -> bool {
        self.members > 0 && at_least(self.steady, RECOVERY_PERCENT, self.members)
    }

    fn add_counted(&mut self, other: &Self) {
        self.members += other.members;
        self.missing += other.missing;
        self.silent += other.silent;
        self.confirmed += other.confirmed;
        self.steady += other.steady;
        self.first_miss_ns = self.first_miss_ns.min(other.first_miss_ns);
    }
}

const fn at_least(part: u32, percent: u32, whole: u32) -> bool {
    part as u64 * 100 >= whole as u64 * percent as u64
}

/// What explains the misses of a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Explanation {
    /// These domains fail while others answer; none lies in another. Empty: the misses are single backends'.
    Domains(Vec<DomainId>),
    /// Nobody outside failing domains answers: it may as well be this host, so nothing can be said of the others.
    Isolated,
}

/// Sums the members up for each domain, in the order of [`Topology::domains`].
///
/// What an operator took out (`held`) is counted for itself, but its silence is no evidence about the domains above it.
pub fn tally(
    topology: &Topology,
    members: impl Iterator<Item = Member>,
    held: impl Fn(DomainId) -> bool,
) -> Vec<Tally> {
    let mut tallies = vec![Tally::NONE; topology.domains.len()];
    for member in members {
        let rack = &mut tallies[member.rack.index()];
        rack.checked += 1;
        rack.answered += u32::from(member.answered);
        if member.counts {
            rack.members += 1;
            rack.missing += u32::from(member.missing);
            rack.silent += u32::from(member.silent);
            rack.confirmed += u32::from(member.confirmed);
            rack.steady += u32::from(member.steady);
            if member.missing {
                rack.first_miss_ns = rack.first_miss_ns.min(member.first_miss_ns);
            }
        }
    }
    // A domain stands before those below it, so from the end every sum is complete before it is passed on.
    for (index, domain) in topology.domains.iter().enumerate().rev() {
        let Some(parent) = domain.parent else { continue };
        let sum = tallies[index];
        let above = &mut tallies[parent.index()];
        above.checked += sum.checked;
        above.answered += sum.answered;
        if !DomainId::from_index(index).is_some_and(&held) {
            above.add_counted(&sum);
        }
    }
    tallies
}

/// The largest domains that explain who is missing, by the tallies of [`tally`].
///
/// Looked for among regions and below, then zones and below, then racks, until somebody outside of what is found
/// answers: what nobody can testify against may be this host's own fault. If nobody can, but members all over say
/// themselves that they are unwell, they are believed.
#[must_use]
pub fn explain(topology: &Topology, tallies: &[Tally]) -> Explanation {
    let racks = || topology.domains.iter().zip(tallies).filter(|(domain, _)| domain.level == Level::Rack);
    let checked: u32 = racks().map(|(_, tally)| tally.checked).sum();
    let answered: u32 = racks().map(|(_, tally)| tally.answered).sum();
    let can_be_isolated =
        racks().filter(|(_, tally)| tally.members > 0).count() >= MIN_ISOLATION_RACKS as usize;
    let nobody = answered == 0 && racks().all(|(_, tally)| tally.silent == tally.members);
    if can_be_isolated && nobody {
        return Explanation::Isolated;
    }
    let mut any = false;
    for level in [Level::Region, Level::Zone, Level::Rack] {
        let failing = largest_failing(topology, tallies, level);
        let inside: u32 = failing.iter().map(|id| tallies[id.index()].answered).sum();
        if answered > inside {
            return Explanation::Domains(failing);
        }
        any |= !failing.is_empty();
    }
    if !any || !can_be_isolated {
        return Explanation::Domains(Vec::new());
    }
    if at_least(checked - answered, CORRELATION_PERCENT, checked) {
        return Explanation::Isolated;
    }
    Explanation::Domains(largest_failing(topology, tallies, Level::Region))
}

/// Failing domains at `highest` or below that lie in no other such domain.
fn largest_failing(topology: &Topology, tallies: &[Tally], highest: Level) -> Vec<DomainId> {
    let failing = |id: DomainId| topology[id].level >= highest && tallies[id.index()].is_failing();
    let covered = |id: DomainId| {
        let mut above = topology[id].parent;
        while let Some(parent) = above {
            if failing(parent) {
                return true;
            }
            above = topology[parent].parent;
        }
        false
    };
    topology.ids().filter(|&id| failing(id) && !covered(id)).collect()
}

#[cfg(test)]
#[path = "correlate_tests.rs"]
mod tests;
