//! The failure-domain tree: regions, zones and racks.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::DomainId;

/// The failure-domain tree, flattened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Sorted by path; a domain stands before those below it.
    pub domains: Vec<Domain>,
}

/// A region, zone or rack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// `west`, `west/w1` or `west/w1/r1`.
    pub path: String,
    /// What it is.
    pub level: Level,
    /// The domain above; none for a region.
    pub parent: Option<DomainId>,
    /// The domains directly below, ascending.
    pub children: Vec<DomainId>,
}

/// The level of a domain in the tree.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The top.
    Region,
    /// Below a region.
    Zone,
    /// Below a zone; backends stand here.
    Rack,
}

impl Topology {
    /// The domain with this path.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<DomainId> {
        let index = self.domains.binary_search_by(|domain| domain.path.as_str().cmp(path)).ok()?;
        DomainId::from_index(index)
    }

    /// All ids, in the order of the paths.
    pub fn ids(&self) -> impl Iterator<Item = DomainId> + use<> {
        (0..self.domains.len()).filter_map(DomainId::from_index)
    }

    /// `[rack, zone, region]` of a rack.
    ///
    /// # Panics
    /// If `rack` is not a rack; the racks of a [`Config`]'s backends are.
    #[must_use]
    pub fn ancestors(&self, rack: DomainId) -> [DomainId; 3] {
        let above = |id: DomainId| self[id].parent.expect("only a rack has a zone and a region above it");
        let zone = above(rack);
        [rack, zone, above(zone)]
    }

    /// Whether `inner` is `outer` or lies below it.
    #[must_use]
    pub fn is_within(&self, inner: DomainId, outer: DomainId) -> bool {
        let mut at = Some(inner);
        // Three levels, so at most three steps.
        while let Some(id) = at {
            if id == outer {
                return true;
            }
            at = self[id].parent;
        }
        false
    }
}

impl Level {
    /// `region`, `zone` or `rack`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Zone => "zone",
            Self::Rack => "rack",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
