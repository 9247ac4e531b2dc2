//! Interfaces, and the ways to backends.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use netlink_packet_route::{neighbour::NeighbourState, route::RouteType};

use super::{Finding, host::read};
use crate::{
    config::{Config, Forwarding, XdpMode},
    dataplane::netlink::{Interface, Neighbour, Netlink, Route},
    runtime::host,
};

/// Bytes of an IPv4 and of an IPv6 header, and of the UDP header of GUE.
const HEADER_V4: u32 = 20;
const HEADER_V6: u32 = 40;
const HEADER_UDP: u32 = 8;
/// What clients send at most where nobody says otherwise.
const USUAL_MTU: u32 = 1_500;

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let mut netlink = match Netlink::new() {
        Ok(netlink) => netlink,
        Err(error) => {
            let seen = format!("cannot be asked: {error}");
            return vec![Finding::error("network", "netlink", seen).help("run it as root: sudo weir doctor")];
        }
    };
    let interfaces = netlink.interfaces().unwrap_or_default();
    let neighbours = netlink.neighbours().unwrap_or_default();
    let mut findings = Vec::new();
    for name in &config.node.interfaces {
        match interfaces.iter().find(|interface| interface.name == *name) {
            Some(interface) => of_interface(interface, config, &mut findings),
            None => findings.push(
                Finding::error("interface", name, "is not there")
                    .help("correct `interfaces` of [node]: `ip link` lists them"),
            ),
        }
    }
    findings.extend(rp_filter(&config.node.interfaces));
    findings.extend(ways(config, &mut netlink, &interfaces, &neighbours));
    findings
}

fn of_interface(interface: &Interface, config: &Config, findings: &mut Vec<Finding>) {
    let Interface { name, .. } = interface;
    findings.push(match (interface.up, interface.running) {
        (true, true) => Finding::ok("interface", name, "is up"),
        (true, false) => {
            Finding::error("interface", name, "has no carrier").help("look at the cable and the switch")
        }
        (false, _) => {
            Finding::error("interface", name, "is switched off").help(format!("ip link set {name} up"))
        }
    });
    let wanted = match config.node.mode {
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
    };
    findings.push(match interface.xdp {
        None => Finding::note("xdp.mode", name, "runs no XDP program")
            .help("the daemon attaches it when it starts"),
        Some((_, native)) if native != (wanted == "native") => {
            Finding::warning("xdp.mode", name, format!("its XDP program is not attached in {wanted} mode"))
                .help("restart the daemon: systemctl restart weir")
        }
        Some((_, false)) => {
            Finding::warning("xdp.mode", name, "runs its XDP program in generic mode: several times slower")
                .help("write mode = \"native\" if the driver can")
        }
        Some((_, true)) => Finding::ok("xdp.mode", name, "runs its XDP program in native mode"),
    });
    match host::driver(name) {
        Err(error) => findings.push(
            Finding::note("driver", name, format!("cannot be asked: {error}"))
                .help(format!("ethtool -k {name} shows its offloads: LRO has to be off")),
        ),
        Ok(driver) => findings.extend(of_driver(name, driver)),
    }
}

/// The driver, and what it does to packets before XDP sees them.
fn of_driver(name: &str, driver: host::Driver) -> [Finding; 3] {
    let lro = if driver.joins {
        Finding::error("offload.lro", name, "joins packets (LRO): native XDP is refused, and sizes are wrong")
            .help(format!("ethtool -K {name} lro off"))
    } else {
        Finding::ok("offload.lro", name, "is off")
    };
    let tags = if driver.takes_tags {
        Finding::note(
            "offload.rxvlan",
            name,
            "takes VLAN tags off: XDP sees tagged packets as if they had none",
        )
        .help(format!("where VIPs are reached by VLANs: ethtool -K {name} rxvlan off"))
    } else {
        Finding::ok("offload.rxvlan", name, "is off")
    };
    [Finding::ok("driver", name, driver.name), lro, tags]
}

fn rp_filter(interfaces: &[String]) -> Vec<Finding> {
    let filter = |name: &str| {
        read(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).and_then(|value| value.parse::<u8>().ok())
    };
    let all = filter("all").unwrap_or(0);
    interfaces.iter().filter_map(|name| Some(strictness(name, filter(name)?, all))).collect()
}

/// By the settings of an interface and of all: the kernel takes the larger one.
fn strictness(name: &str, own: u8, all: u8) -> Finding {
    match own.max(all) {
        1 => Finding::warning(
            "rp_filter",
            name,
            "is strict: answers to checks that come another way are dropped silently",
        )
        .help(format!("sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{name}.rp_filter=2")),
        _ => Finding::ok("rp_filter", name, "is not strict"),
    }
}

/// Bytes that tunnels to this address put in front of packets.
fn overhead(config: &Config, address: IpAddr) -> u32 {
    let header = if address.is_ipv4() { HEADER_V4 } else { HEADER_V6 };
    let of = |forwarding| match forwarding {
        Forwarding::L2 => 0,
        Forwarding::Ipip => header,
        Forwarding::Gue { .. } => header + HEADER_UDP,
    };
    let services = config.services.iter().filter(|service| {
        let mut members = service.pools.iter().flat_map(|pool| config.members(pool));
        members.any(|id| config[id].address == address)
    });
    services.map(|service| of(service.forwarding)).max().unwrap_or(header)
}

/// What is found the same for many backends is one finding, with their names.
#[derive(Default)]
struct Many(BTreeMap<(Cow<'static, str>, u8, String, String), Vec<String>>);

/// Names that a finding shows before it only counts.
const MAX_NAMES: usize = 5;

impl Many {
    fn add(&mut self, name: &str, finding: Finding) {
        let key = (finding.check, finding.severity as u8, finding.seen, finding.remedy);
        self.0.entry(key).or_default().push(name.to_owned());
    }

    fn findings(self) -> impl Iterator<Item = Finding> {
        use super::Severity::{Error, Note, Ok, Warning};
        self.0.into_iter().map(|((check, severity, seen, remedy), names)| {
            let mut subject = names[..names.len().min(MAX_NAMES)].join(", ");
            if names.len() > MAX_NAMES {
                subject.push_str(&format!(" and {} more", names.len() - MAX_NAMES));
            }
            let severity = [Ok, Note, Warning, Error][usize::from(severity)];
            Finding { check, severity, subject, seen, remedy }
        })
    }
}

/// The way to each backend: a route, room for the tunnel, a neighbour.
fn ways(
    config: &Config,
    netlink: &mut Netlink,
    interfaces: &[Interface],
    neighbours: &[Neighbour],
) -> Vec<Finding> {
    let by_index: HashMap<u32, &Interface> = interfaces.iter().map(|i| (i.index, i)).collect();
    let mut found = Many::default();
    for backend in &config.backends {
        let address = backend.address;
        let route = match netlink.route(address) {
            Ok(route) if route.kind == RouteType::Unicast => route,
            Ok(route) => {
                let seen = format!("the route is {:?}", route.kind).to_lowercase();
                found.add(
                    &backend.name,
                    Finding::error("route", "", seen)
                        .help("add a route to the backend: ip route get shows it"),
                );
                continue;
            }
            Err(error) => {
                found.add(
                    &backend.name,
                    Finding::error("route", "", format!("there is none: {error}"))
                        .help("add a route to the backend"),
                );
                continue;
            }
        };
        let Some(interface) = by_index.get(&route.ifindex) else { continue };
        found.add(&backend.name, mtu(&route, interface, overhead(config, address)));
        let hop = route.gateway.unwrap_or(address);
        found.add(&backend.name, neighbour(hop, interface, neighbours));
    }
    found.findings().collect()
}

fn mtu(route: &Route, interface: &Interface, overhead: u32) -> Finding {
    let mtu = route.mtu.map_or(interface.mtu, |mtu| mtu.min(interface.mtu));
    let needed = USUAL_MTU + overhead;
    if mtu >= needed {
        return Finding::ok("mtu", "", format!("{mtu} by {}, {needed} needed", interface.name));
    }
    let seen = format!("{mtu} by {}, too little for {USUAL_MTU} and {overhead} in front", interface.name);
    Finding::warning("mtu", "", seen).help(format!(
        "ip link set {} mtu {needed} or more, and so on all links to the backends; else senders of large packets are told to send \
         smaller ones, or lose them",
        interface.name
    ))
}

fn neighbour(hop: IpAddr, interface: &Interface, neighbours: &[Neighbour]) -> Finding {
    let known = neighbours.iter().find(|n| n.ifindex == interface.index && n.address == hop);
    match known.map(|neighbour| neighbour.state) {
        Some(NeighbourState::Failed | NeighbourState::Incomplete) => {
            Finding::error("neighbour", "", format!("{hop} on {} does not answer", interface.name))
                .help("look at the next hop, its cable and its VLAN: ip neighbour")
        }
        Some(_) => Finding::ok("neighbour", "", format!("{hop} on {} is known", interface.name)),
        None => Finding::note("neighbour", "", format!("{hop} on {} was not asked for yet", interface.name))
            .help("the daemon asks when it starts"),
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
