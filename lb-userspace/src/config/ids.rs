//! Indices into the tables of a [`Config`](super::Config).
//!
//! Every table of a `Config` is sorted by name, so an id is a pure function of the set of names in the file: neither
//! the order of the file's tables nor anything that happened before changes it.

use serde::Serialize;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(pub u16);

        impl $name {
            /// The position in the table.
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }

            /// The id of a position, or `None` if no table of this kind is that long.
            #[must_use]
            pub fn from_index(index: usize) -> Option<Self> {
                u16::try_from(index).ok().map(Self)
            }
        }
    };
}

id! {
    /// A region, zone or rack: index into [`Topology::domains`](super::Topology::domains).
    DomainId
}
id! {
    /// Index into [`Config::client_regions`](super::Config::client_regions); 0 is the region `default`.
    ClientRegionId
}
id! {
    /// Index into [`Config::checks`](super::Config::checks).
    CheckId
}
id! {
    /// Index into [`Config::sets`](super::Config::sets).
    SetId
}
id! {
    /// Index into [`Config::backends`](super::Config::backends).
    BackendId
}
id! {
    /// Index into [`Config::services`](super::Config::services).
    ServiceId
}
id! {
    /// Index into [`Service::pools`](super::Service::pools) of one service.
    PoolIndex
}
