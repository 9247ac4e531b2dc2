//! Another configuration: what it would change, and what came of putting it in force.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answer of `POST /v1/reload`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// The file that was read.
    pub file: PathBuf,
    /// Whether anything is different now. A file that says the same changes nothing.
    pub changed: bool,
    /// Digest of the data plane in force, hexadecimal.
    pub digest: String,
    /// Services whose flows have another home now, in whole or in part.
    pub moved_services: u64,
    /// Backends that left the configuration and stay in the data plane for their flows.
    pub leaving_backends: u64,
    /// Services that left the configuration and stay in the data plane for their flows.
    pub leaving_services: u64,
    /// What is different.
    pub differences: Differences,
}

/// Answer of `GET /v1/diff`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Differences {
    /// Services by name.
    pub services: Changes,
    /// Backends by name.
    pub backends: Changes,
    /// Pools by `service/pool`.
    pub pools: Changes,
    /// Domains by path.
    pub domains: Changes,
    /// What becomes of the tables of pools that are in both and change.
    pub tables: Vec<TableChange>,
    /// Other settings that change, by key.
    pub settings: Vec<String>,
    /// Keys whose change needs a restart of the daemon; a reload refuses them.
    pub restart: Vec<String>,
    /// Canaries that the new configuration has no place for, and why, by service. The others go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub canaries: Vec<String>,
}

/// Names that come, go and change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Changes {
    /// Only in the new configuration.
    pub added: Vec<String>,
    /// Only in the old one.
    pub removed: Vec<String>,
    /// In both, but not the same.
    pub changed: Vec<String>,
}

/// See [`Differences::tables`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TableChange {
    /// `service/pool`.
    pub pool: String,
    /// Slots of its table now.
    pub slots: u32,
    /// Slots that get another backend; all of them if the table's size changes.
    pub moved: u32,
    /// Members that gain or lose slots, those with the most first.
    pub members: Vec<MemberShare>,
}

/// See [`TableChange::members`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MemberShare {
    /// The backend.
    pub backend: String,
    /// Slots that it has only in the new table.
    pub gained: u32,
    /// Slots that it had only in the old one.
    pub lost: u32,
}

impl Changes {
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl Differences {
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.backends.is_empty()
            && self.pools.is_empty()
            && self.domains.is_empty()
            && self.tables.is_empty()
            && self.settings.is_empty()
            && self.restart.is_empty()
            && self.canaries.is_empty()
    }
}
