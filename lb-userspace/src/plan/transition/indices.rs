//! Which index each backend and service of the next image has: that of what runs, if it is the same, else a gap.

use std::collections::{BTreeSet, HashMap};

use lb_common::abi::{
    backend::{BACKEND_LEAVING, BackendEntry},
    service::{SERVICE_LEAVING, ServiceEntry},
};

use super::Running;
use crate::plan::ids::{BackendIndex, Endpoint, Front, Ids, ServiceIndex};
use crate::plan::image::Image;

/// Gives an image that was compiled from the configuration of what runs the indices that run; `None` if they are not of one
/// configuration.
#[must_use]
pub fn recover(image: &Image, running: &Running) -> Option<Ids> {
    let backends = backend_indices(image, running);
    let services = service_indices(image, running);
    let is_same_backend = |(entry, &at): (&BackendEntry, &u32)| {
        let old = running.backends.get(at as usize);
        old.is_some_and(|old| old.flags & BACKEND_LEAVING == 0 && Endpoint::of(old) == Endpoint::of(entry))
    };
    let is_same_service = |(entry, &at): (&ServiceEntry, &u32)| {
        let old = running.services.get(at as usize);
        old.is_some_and(|old| old.flags & SERVICE_LEAVING == 0 && Front::of(old) == Front::of(entry))
    };
    let good = image.backends.iter().zip(&backends).all(is_same_backend)
        && image.services.iter().zip(&services).all(is_same_service);
    good.then(|| ids(image, &backends, &services))
}

pub(super) fn ids(image: &Image, backends: &[u32], services: &[u32]) -> Ids {
    let services = services[..image.names.services.len()].iter().copied().map(ServiceIndex).collect();
    Ids::new(backends.iter().copied().map(BackendIndex).collect(), services)
}

/// The index of each backend of a compiled image, in its order.
pub(super) fn backend_indices(image: &Image, running: &Running) -> Vec<u32> {
    assign(
        &image.backends.iter().map(Endpoint::of).collect::<Vec<_>>(),
        &running.backends.iter().map(Endpoint::of).collect::<Vec<_>>(),
        |at| running.backends[at].flags & BACKEND_LEAVING != 0,
    )
}

/// The index of each service entry of a compiled image, in its order.
pub(super) fn service_indices(image: &Image, running: &Running) -> Vec<u32> {
    assign(
        &image.services.iter().map(Front::of).collect::<Vec<_>>(),
        &running.services.iter().map(Front::of).collect::<Vec<_>>(),
        |at| running.services[at].flags & SERVICE_LEAVING != 0,
    )
}

/// The index of each of `wanted`: that of the same identity in `present` if there is one, those that are not leaving first,
/// else the lowest gap. Where several share an identity they get its indices in ascending order, so that the same assignment
/// can be found again from what is in the maps.
fn assign<K: Copy + Eq + std::hash::Hash>(
    wanted: &[Option<K>],
    present: &[Option<K>],
    leaving: impl Fn(usize) -> bool,
) -> Vec<u32> {
    let mut known: HashMap<K, Vec<u32>> = HashMap::new();
    for (at, key) in present.iter().enumerate() {
        if let Some(key) = key {
            known.entry(*key).or_default().push(at as u32);
        }
    }
    for indices in known.values_mut() {
        indices.sort_by_key(|&at| (leaving(at as usize), at));
    }
    let mut gaps = (0..).filter(|&at: &u32| present.get(at as usize).is_none_or(Option::is_none));
    let mut of_key: HashMap<Option<K>, Vec<usize>> = HashMap::new();
    for (position, key) in wanted.iter().enumerate() {
        of_key.entry(*key).or_default().push(position);
    }
    let mut indices = vec![u32::MAX; wanted.len()];
    let mut done = BTreeSet::new();
    // In the order of `wanted`, so that gaps are filled in that order too.
    for key in wanted {
        let positions = &of_key[key];
        if !done.insert(positions[0]) {
            continue;
        }
        let mut own: Vec<u32> = key
            .and_then(|key| known.get(&key))
            .map(|own| own.iter().copied().take(positions.len()).collect())
            .unwrap_or_default();
        while own.len() < positions.len() {
            own.extend(gaps.next());
        }
        own.sort_unstable();
        for (&position, at) in positions.iter().zip(own) {
            indices[position] = at;
        }
    }
    indices
}
