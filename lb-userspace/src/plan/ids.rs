//! Two numberings of backends and services, kept apart by types.
//!
//! A [`Config`](crate::config::Config) numbers its backends and services by name ([`BackendId`], [`ServiceId`]): equal files
//! give equal ids. The data plane numbers them by *index*, the position in the `BACKENDS` and `SERVICES` maps. An index belongs
//! to a tunnel endpoint, or to a VIP with protocol and port, for as long as flows may name it: it stays the same when the
//! configuration changes. [`Ids`] leads from one numbering to the other.

use lb_common::abi::backend::BackendEntry;
use lb_common::abi::service::{SERVICE_VIP_ONLY, SERVICE_WIDE_PORTS, ServiceEntry};

use crate::config::{BackendId, ServiceId};

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// The position in the map.
            #[must_use]
            pub const fn position(self) -> usize {
                self.0 as usize
            }
        }
    };
}

index! {
    /// Index into the `BACKENDS` map.
    BackendIndex
}
index! {
    /// Index into the `SERVICES` map.
    ServiceIndex
}

/// Which index each backend and service of a configuration has in the data plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    backends: Vec<BackendIndex>,
    services: Vec<ServiceIndex>,
    backend_ids: Vec<Option<BackendId>>,
    service_ids: Vec<Option<ServiceId>>,
}

impl Ids {
    /// Index and id are the same number, for so many backends and services.
    #[must_use]
    pub fn equal(backends: usize, services: usize) -> Self {
        let backends = (0..backends as u32).map(BackendIndex).collect();
        let services = (0..services as u32).map(ServiceIndex).collect();
        Self::new(backends, services)
    }

    /// The indices in the order of the ids. No index may be there twice.
    #[must_use]
    pub fn new(backends: Vec<BackendIndex>, services: Vec<ServiceIndex>) -> Self {
        let mut backend_ids = Vec::new();
        for (id, index) in backends.iter().enumerate() {
            set(&mut backend_ids, index.position(), BackendId::from_index(id));
        }
        let mut service_ids = Vec::new();
        for (id, index) in services.iter().enumerate() {
            set(&mut service_ids, index.position(), ServiceId::from_index(id));
        }
        Self { backends, services, backend_ids, service_ids }
    }

    /// The index of a backend.
    ///
    /// # Panics
    /// If the id is not of the configuration that this was made for.
    #[must_use]
    pub fn backend(&self, id: BackendId) -> BackendIndex {
        self.backends[id.index()]
    }

    /// The index of a service.
    ///
    /// # Panics
    /// If the id is not of the configuration that this was made for.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> ServiceIndex {
        self.services[id.index()]
    }

    /// The indices of all backends of the configuration, in the order of their ids.
    #[must_use]
    pub fn backends(&self) -> &[BackendIndex] {
        &self.backends
    }

    /// The indices of all services of the configuration, in the order of their ids.
    #[must_use]
    pub fn services(&self) -> &[ServiceIndex] {
        &self.services
    }

    /// The configuration's backend at an index; `None` where there is none or one that left the configuration.
    #[must_use]
    pub fn backend_id(&self, index: BackendIndex) -> Option<BackendId> {
        self.backend_ids.get(index.position()).copied().flatten()
    }

    /// The configuration's service at an index; `None` for the entries of VIPs, and where there is none or one that left.
    #[must_use]
    pub fn service_id(&self, index: ServiceIndex) -> Option<ServiceId> {
        self.service_ids.get(index.position()).copied().flatten()
    }
}

fn set<T>(list: &mut Vec<Option<T>>, position: usize, value: Option<T>) {
    if list.len() <= position {
        list.resize_with(position + 1, || None);
    }
    list[position] = value;
}

/// What a backend's index belongs to: its tunnel endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Endpoint([u8; 16], bool);

impl Endpoint {
    /// The endpoint of an entry; `None` where there is no backend.
    pub(super) const fn of(entry: &BackendEntry) -> Option<Self> {
        // The EtherType is written for every backend, and with it only.
        if entry.ethernet[12] == 0 && entry.ethernet[13] == 0 {
            return None;
        }
        Some(Self(entry.outer_destination, entry.is_outer_ipv6()))
    }
}

/// What a service's index belongs to: its VIP, port and protocol, and whether it is the VIP itself or matches many ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Front([u8; 16], [u8; 2], u8, u32);

impl Front {
    /// The front of an entry; `None` where there is no service.
    pub(super) fn of(entry: &ServiceEntry) -> Option<Self> {
        let kind = entry.flags & (SERVICE_VIP_ONLY | SERVICE_WIDE_PORTS);
        if entry.protocol == 0 && kind == 0 {
            return None;
        }
        Some(Self(entry.address, entry.port, entry.protocol, kind))
    }
}
