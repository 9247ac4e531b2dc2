//! Emergency switches: what an operator may throw for a while, and what that means in the data plane's words. Pure.

use std::time::Duration;

use lb_common::abi::{
    guard::{ALL, CLASSES, Limit, SCOPE_ALL},
    limits::MAX_BLOCKED,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::guard::{Blocked, limit};
use crate::config::limits::MAX_RATE;
use crate::config::{Config, IpPrefix, Priority, Rate};

/// Switches that are on at once: as many prefixes as can be blocked, and some more of the other kinds.
pub const MAX_SWITCHES: usize = 2 * MAX_BLOCKED;
/// The longest time for which a switch is on. What is needed for longer belongs into the configuration.
pub const MAX_SWITCH_TIME: Duration = Duration::from_secs(7 * 86_400);
/// Where a limit's burst is not said, it is what comes in this part of a second.
const BURST_PART: u64 = 10;

/// An emergency switch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Switch {
    /// Every packet from a source prefix is dropped: those for services, and, unless it is for one service, pings and other ICMP for their
    /// VIPs. Questions of the link (ARP, neighbour discovery) are answered.
    Block {
        /// The prefix.
        prefix: IpPrefix,
        /// The one service for which; all of them if it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
    /// A service takes no new flows; established ones stay.
    Stop {
        /// The service.
        service: String,
    },
    /// A share of the new flows of a priority class is dropped, at random.
    Shed {
        /// The class.
        class: Priority,
        /// The share in percent, 1 to 100.
        percent: u32,
    },
    /// A service takes no more than this, besides its configured limits.
    Limit {
        /// The service.
        service: String,
        /// Packets a second.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        packets_per_second: Option<u64>,
        /// New flows a second.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        new_flows_per_second: Option<u64>,
    },
}

impl Switch {
    /// What the switch is called. One that is thrown again with the same name replaces the first.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Block { prefix, service: None } => format!("block:{prefix}"),
            Self::Block { prefix, service: Some(service) } => format!("block:{prefix}@{service}"),
            Self::Stop { service } => format!("stop:{service}"),
            Self::Shed { class, .. } => format!("shed:{class}"),
            Self::Limit { service, .. } => format!("limit:{service}"),
        }
    }

    /// What it does, in words.
    #[must_use]
    pub fn effect(&self) -> String {
        match self {
            Self::Block { prefix, service: None } => {
                format!("drops every packet from {prefix} to all services and pings of their VIPs")
            }
            Self::Block { prefix, service: Some(service) } => {
                format!("drops every packet from {prefix} to {service}")
            }
            Self::Stop { service } => format!("drops every new flow to {service}"),
            Self::Shed { class, percent } => format!("drops {percent} % of the new flows of class {class}"),
            Self::Limit { service, packets_per_second, new_flows_per_second } => {
                let limits = [(packets_per_second, "packets"), (new_flows_per_second, "new flows")];
                let said: Vec<_> =
                    limits.iter().filter_map(|(n, what)| n.map(|n| format!("{n} {what}"))).collect();
                format!("limits {service} to {} a second", said.join(" and "))
            }
        }
    }

    /// The one service that it is about.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Block { service, .. } => service.as_deref(),
            Self::Stop { service } | Self::Limit { service, .. } => Some(service),
            Self::Shed { .. } => None,
        }
    }

    /// Checks what types do not.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Shed { percent, .. } if !(1..=100).contains(percent) => {
                Err(format!("a share of {percent} % is out of range; it goes from 1 to 100"))
            }
            Self::Limit { packets_per_second: None, new_flows_per_second: None, .. } => {
                Err("a limit needs packets_per_second or new_flows_per_second".to_owned())
            }
            Self::Limit { packets_per_second, new_flows_per_second, .. } => {
                let both = [packets_per_second, new_flows_per_second];
                match both.into_iter().flatten().find(|rate| !(1..=MAX_RATE).contains(*rate)) {
                    Some(rate) => {
                        Err(format!("a limit of {rate} is out of range; it goes from 1 to {MAX_RATE}"))
                    }
                    None => Ok(()),
                }
            }
            Self::Block { prefix: IpPrefix::V6(prefix), .. }
                if prefix.address().to_ipv4_mapped().is_some() && prefix.length() >= 96 =>
            {
                Err(format!("{prefix} is IPv4-mapped; write it as an IPv4 prefix"))
            }
            _ => Ok(()),
        }
    }
}

/// A switch that is on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Thrown {
    /// The switch.
    pub switch: Switch,
    /// Why, as the operator gave it.
    pub reason: String,
    /// When it was thrown.
    pub since: jiff::Timestamp,
    /// When it goes off by itself.
    pub until: jiff::Timestamp,
}

/// What all switches together come to: the words of the data plane that belong to them.
#[derive(Clone, Debug, PartialEq)]
pub struct SwitchWords {
    /// For each class the share of new flows that is dropped, of 65,536, and until when.
    pub shed: [(u32, u32); CLASSES],
    /// Until when some source prefix is blocked for all services.
    pub blocks_until: u32,
    /// For each service.
    pub services: Vec<ServiceWords>,
    /// Blocked source prefixes.
    pub blocked: Vec<Blocked>,
}

/// See [`SwitchWords::services`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceWords {
    /// The share of new flows that is dropped, of 65,536, and until when.
    pub shed: (u32, u32),
    /// Until when some source prefix is blocked.
    pub blocks_until: u32,
    /// Until when the limits hold.
    pub limit_until: u32,
    /// The limit on packets.
    pub packets: Limit,
    /// The limit on new flows.
    pub new_flows: Limit,
}

impl SwitchWords {
    /// The words for the switches that are on, each with the moment at which it goes off in the unit of
    /// [`until`](lb_common::abi::guard::until). Those on services that the configuration does not have wait for it.
    #[must_use]
    pub fn new<'a>(config: &Config, thrown: impl IntoIterator<Item = (&'a Switch, u32)>) -> Self {
        let mut words = Self {
            shed: [(0, 0); CLASSES],
            blocks_until: 0,
            services: vec![ServiceWords::default(); config.services.len()],
            blocked: Vec::new(),
        };
        for (switch, until) in thrown {
            let index = switch.service().map(|name| config.find_service(name).map(|id| id.index()));
            if index != Some(None) {
                words.add(switch, index.flatten(), until);
            }
        }
        words
    }

    fn add(&mut self, switch: &Switch, service: Option<usize>, until: u32) {
        match (switch, service) {
            (Switch::Block { prefix, .. }, None) => {
                self.blocks_until = self.blocks_until.max(until);
                self.blocked.push(Blocked { prefix: *prefix, scope: SCOPE_ALL, until });
            }
            (Switch::Block { prefix, .. }, Some(index)) => {
                let words = &mut self.services[index];
                words.blocks_until = words.blocks_until.max(until);
                self.blocked.push(Blocked { prefix: *prefix, scope: index as u32, until });
            }
            (Switch::Stop { .. }, Some(index)) => self.services[index].shed = (ALL, until),
            (Switch::Shed { class, percent }, _) => {
                self.shed[*class as usize] = (ALL * (*percent).min(100) / 100, until);
            }
            (Switch::Limit { packets_per_second, new_flows_per_second, .. }, Some(index)) => {
                let rate = |per_second: Option<u64>| {
                    limit(
                        per_second
                            .map(|per_second| Rate { per_second, burst: (per_second / BURST_PART).max(1) }),
                    )
                };
                let words = &mut self.services[index];
                words.limit_until = until;
                words.packets = rate(*packets_per_second);
                words.new_flows = rate(*new_flows_per_second);
            }
            (Switch::Stop { .. } | Switch::Limit { .. }, None) => {}
        }
    }

    /// Whether any switch is on.
    #[must_use]
    pub fn any(&self) -> bool {
        self.shed.iter().any(|(_, until)| *until != 0)
            || self.blocks_until != 0
            || self.services.iter().any(|words| *words != ServiceWords::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> IpPrefix {
        IpPrefix::parse(text).unwrap()
    }

    #[test]
    fn names_tell_switches_apart_and_say_what_is_replaced() {
        let block = |service: Option<&str>| Switch::Block {
            prefix: prefix("203.0.113.0/24"),
            service: service.map(str::to_owned),
        };
        assert_eq!(block(None).name(), "block:203.0.113.0/24");
        assert_eq!(block(Some("web")).name(), "block:203.0.113.0/24@web");
        let shed = |percent| Switch::Shed { class: Priority::P3, percent };
        assert_eq!(shed(10).name(), shed(90).name());
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        let limit = |packets, flows| Switch::Limit {
            service: "web".to_owned(),
            packets_per_second: packets,
            new_flows_per_second: flows,
        };
        assert!(limit(Some(1), None).check().is_ok());
        for bad in [
            limit(None, None),
            limit(Some(0), None),
            limit(Some(1), Some(MAX_RATE + 1)),
            Switch::Shed { class: Priority::P3, percent: 0 },
            Switch::Shed { class: Priority::P3, percent: 101 },
            Switch::Block { prefix: prefix("::ffff:10.0.0.0/104"), service: None },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn json_is_what_the_api_documents() {
        let switch: Switch =
            serde_json::from_str(r#"{"kind": "block", "prefix": "203.0.113.0/24", "service": "web"}"#)
                .unwrap();
        assert_eq!(switch.name(), "block:203.0.113.0/24@web");
        for bad in [
            r#"{"kind": "block", "prefix": "203.0.113.1/24"}"#,
            r#"{"kind": "stop", "service": "web", "more": 1}"#,
            r#"{"kind": "burn", "service": "web"}"#,
        ] {
            assert!(serde_json::from_str::<Switch>(bad).is_err(), "{bad}");
        }
    }
}
