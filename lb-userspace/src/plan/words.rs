//! How admission words go on from one generation to the next, without names.
//!
//! Backends are known by their tunnel endpoints, domains by the backends that stand in them: a domain of the new
//! configuration is the old one in which most of those backends stood that are in both. What an operator said of a domain,
//! the daemon knows by name and says again.

use std::collections::HashMap;

use lb_common::abi::admission::Admission;
use lb_common::abi::backend::{BACKEND_LEAVING, BackendEntry};

use super::image::Image;
use super::transition::Running;

/// Which domain of before is which of now.
#[derive(Debug)]
pub(super) struct DomainMap {
    /// Of before, by index of now.
    before: HashMap<u16, u16>,
    /// Of now, by index of before.
    now: HashMap<u16, u16>,
}

impl DomainMap {
    /// `indices` are those of the image's backends in what runs.
    pub(super) fn new(image: &Image, running: &Running, indices: &[u32]) -> Self {
        let mut votes: HashMap<(u16, u16), usize> = HashMap::new();
        for (entry, &at) in image.backends.iter().zip(indices) {
            let Some(old) = running.backends.get(at as usize) else { continue };
            if old.outer_destination != entry.outer_destination || old.flags & BACKEND_LEAVING != 0 {
                continue;
            }
            for (now, before) in domains(entry).into_iter().zip(domains(old)) {
                *votes.entry((now, before)).or_default() += 1;
            }
        }
        let mut ordered: Vec<_> = votes.into_iter().collect();
        // The most votes first; the order of the rest only has to be the same each time.
        ordered.sort_by_key(|&(pair, count)| (std::cmp::Reverse(count), pair));
        let mut map = Self { before: HashMap::new(), now: HashMap::new() };
        for ((now, before), _) in ordered {
            map.before.entry(now).or_insert(before);
            map.now.entry(before).or_insert(now);
        }
        map
    }

    /// Writes the words of all domains that were there before.
    pub(super) fn carry(&self, admission: &mut [Admission], running: &Running) {
        for (&now, &before) in &self.before {
            admission[usize::from(now)] = running.admission[usize::from(before)];
        }
    }
}

const fn domains(entry: &BackendEntry) -> [u16; 3] {
    [entry.rack, entry.zone, entry.region]
}

/// The entry of a backend that stays: its word, its next hop.
///
/// Where it stood in a domain whose word is not clean, and the domain above it now has another word, its own word is not
/// clean: flows may be in the flow table because of it.
pub(super) fn go_on(
    entry: &BackendEntry,
    old: &BackendEntry,
    running: &Running,
    map: &DomainMap,
) -> BackendEntry {
    let unclean = domains(old).into_iter().zip(domains(entry)).any(|(before, now)| {
        !running.admission[usize::from(before)].is_clean() && map.before.get(&now) != Some(&before)
    });
    let clean = if unclean { !Admission::CLEAN } else { u32::MAX };
    let mut ethernet = entry.ethernet;
    ethernet[..12].copy_from_slice(&old.ethernet[..12]);
    BackendEntry {
        // A backend that left and came back begins anew, but for flows that went elsewhere meanwhile.
        admission: if old.flags & BACKEND_LEAVING == 0 {
            Admission(old.admission.0 & clean)
        } else {
            Admission::new(255, 255)
        },
        ifindex: old.ifindex,
        mtu: old.mtu,
        ethernet,
        vlan: old.vlan,
        flags: entry.flags | old.flags & !BACKEND_LEAVING,
        ..*entry
    }
}

/// The entry of a backend that left the configuration: it stands where it stood, or, where its domains left as well, bears
/// their words itself and hangs on `spare`.
pub(super) fn leave(old: &BackendEntry, running: &Running, map: &DomainMap, spare: u16) -> BackendEntry {
    let mut own = old.admission;
    let mut place = |before: u16| {
        map.now.get(&before).copied().unwrap_or_else(|| {
            own = least(own, running.admission[usize::from(before)]);
            spare
        })
    };
    let [rack, zone, region] = domains(old).map(&mut place);
    BackendEntry { admission: own, rack, zone, region, flags: old.flags | BACKEND_LEAVING, ..*old }
}

/// What passes both; clean if both are, held if one is.
fn least(a: Admission, b: Admission) -> Admission {
    let shares = Admission::new(a.new_share().min(b.new_share()), a.old_share().min(b.old_share()));
    Admission(shares.0 | (a.0 & b.0 & Admission::CLEAN) | ((a.0 | b.0) & Admission::HELD))
}
