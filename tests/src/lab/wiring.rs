//! Turns a [`Topology`] into namespaces, links, addresses, routes and sysctls.
//!
//! The settings that are easy to get wrong, and what goes wrong without them:
//! - MTU 1600 from the edge to the backends: a tunnelled full-size packet does not fit otherwise, and uploads hang.
//! - `tx off` on the router's side of each host that runs XDP: else a packet with an unfinished checksum reaches the
//!   edge, is tunnelled so, and the backend's stack drops it.
//! - `rp_filter` 0: answers of a backend have the VIP as source, which the router would not route to the rack.
//! - No duplicate address detection: an address is usable at once. Bridges do not snoop multicast: neighbour
//!   solicitations pass from the first one on.
//! - `keep_addr_on_down`: a bridge that was down has its v6 address back when it is up.
use super::{
    netns::{Netns, ip_batch, making},
    topology::{
        Backend, Client, Edge, INTERFACE, Rack, Topology, VIP_PREFIX_V4, VIP_PREFIX_V6, VIP_V4, VIP_V6,
    },
    topology::{gateway_v4, gateway_v6},
};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    process::Command,
};

/// Bytes on the inner path: 1500, and room for the largest tunnel header.
const INNER_MTU: u16 = 1600;
/// Addresses, protocol and ports, to spread flows over edges by. Policy 1 ("layer 4") would take the hash that the client's
/// socket left in the packet, which another connection of the same 5-tuple does not share.
const FIVE_TUPLE: &str = "55";
/// First and last port that sockets without a chosen source port take in a client: all below are free for flow maps.
const EPHEMERAL_PORTS: &str = "50000 60999";
/// Connections that a backend's listener may have waiting.
const LISTEN_BACKLOG_MAX: &str = "16384";

/// The namespaces of one lab.
#[derive(Debug)]
pub(crate) struct Namespaces {
    pub(crate) router: Netns,
    /// By client region.
    pub(crate) clients: BTreeMap<String, Netns>,
    /// By edge name.
    pub(crate) edges: BTreeMap<String, Netns>,
    /// By backend name.
    pub(crate) backends: BTreeMap<String, Netns>,
}

/// Names of all namespaces of a lab, router first.
pub(crate) fn namespace_names(id: &str, topology: &Topology) -> Vec<String> {
    let mut names = vec![router_name(id)];
    names.extend(topology.clients.iter().map(|client| client_name(id, client)));
    names.extend(topology.edges.iter().map(|edge| format!("{id}-{}", edge.name)));
    names.extend(topology.backends.iter().map(|backend| format!("{id}-{}", backend.name)));
    names
}

fn router_name(id: &str) -> String {
    format!("{id}-router")
}

fn client_name(id: &str, client: &Client) -> String {
    format!("{id}-client-{}", client.region)
}

/// The router's port towards a backend.
pub(crate) fn backend_port(backend: &Backend) -> String {
    format!("p-{}", backend.name)
}

/// The router's port towards a client.
pub(crate) fn client_port(client: &Client) -> String {
    format!("c-{}", client.region)
}

/// Makes all namespaces and wires them. Whoever calls has recorded the names, so that a failure half-way is cleaned.
pub(crate) fn raise(id: &str, topology: &Topology) -> Result<Namespaces> {
    let names = namespace_names(id, topology);
    ip_batch(&[], &names.iter().map(|name| format!("netns add {name}")).collect::<Vec<_>>())?;
    let open_all = |pairs: Vec<(String, String)>| -> Result<BTreeMap<String, Netns>> {
        pairs.into_iter().map(|(key, name)| Ok((key, Netns::open(&name)?))).collect()
    };
    let namespaces = Namespaces {
        router: Netns::open(&router_name(id))?,
        clients: open_all(topology.clients.iter().map(|c| (c.region.clone(), client_name(id, c))).collect())?,
        edges: open_all(
            topology.edges.iter().map(|e| (e.name.clone(), format!("{id}-{}", e.name))).collect(),
        )?,
        backends: open_all(
            topology.backends.iter().map(|b| (b.name.clone(), format!("{id}-{}", b.name))).collect(),
        )?,
    };
    set_sysctls(&namespaces)?;
    namespaces.router.ip(&router_links(topology, &namespaces))?;
    set_offloads(topology, &namespaces)?;
    for client in &topology.clients {
        namespaces.clients[&client.region].ip(&host_commands(client.v4, client.v6, &[]))?;
    }
    for edge in &topology.edges {
        namespaces.edges[&edge.name].ip(&host_commands(edge.v4, edge.v6, &[]))?;
    }
    let vips = [format!("addr add {VIP_V4}/32 dev lo"), format!("addr add {VIP_V6}/128 dev lo nodad")];
    for backend in &topology.backends {
        namespaces.backends[&backend.name].ip(&host_commands(backend.v4, backend.v6, &vips))?;
    }
    route_vips(topology, &namespaces.router)?;
    Ok(namespaces)
}

/// Before there is any interface: those inherit `default`.
fn set_sysctls(namespaces: &Namespaces) -> Result<()> {
    const COMMON: [(&str, &str); 8] = [
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/dad_transmits", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv4/conf/all/accept_redirects", "0"),
    ];
    const ROUTER: [(&str, &str); 13] = [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/default/forwarding", "1"),
        ("ipv6/conf/all/keep_addr_on_down", "1"),
        ("ipv6/conf/default/keep_addr_on_down", "1"),
        ("ipv4/fib_multipath_hash_policy", "3"),
        ("ipv6/fib_multipath_hash_policy", "3"),
        ("ipv4/fib_multipath_hash_fields", FIVE_TUPLE),
        ("ipv6/fib_multipath_hash_fields", FIVE_TUPLE),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
        ("ipv4/icmp_ratelimit", "0"),
        ("ipv6/icmp/ratelimit", "0"),
    ];
    const BACKEND: [(&str, &str); 6] = [
        ("ipv4/conf/all/arp_ignore", "1"),
        ("ipv4/conf/default/arp_ignore", "1"),
        ("ipv4/conf/all/arp_announce", "2"),
        ("ipv4/conf/default/arp_announce", "2"),
        ("core/somaxconn", LISTEN_BACKLOG_MAX),
        ("ipv4/tcp_max_syn_backlog", LISTEN_BACKLOG_MAX),
    ];
    const CLIENT: [(&str, &str); 1] = [("ipv4/ip_local_port_range", EPHEMERAL_PORTS)];
    let set = |netns: &Netns, own: &[(&str, &str)]| {
        netns.run(|| {
            Netns::sysctl_here(&COMMON)?;
            Netns::sysctl_here(own)
        })
    };
    set(&namespaces.router, &ROUTER)?;
    namespaces.clients.values().try_for_each(|netns| set(netns, &CLIENT))?;
    namespaces.edges.values().try_for_each(|netns| set(netns, &[]))?;
    namespaces.backends.values().try_for_each(|netns| set(netns, &BACKEND))
}

fn router_links(topology: &Topology, namespaces: &Namespaces) -> Vec<String> {
    let mut commands = vec!["link set lo up".to_owned()];
    for (index, rack) in topology.racks.iter().enumerate() {
        commands.extend(rack_links(index, rack));
    }
    for backend in &topology.backends {
        let rack =
            topology.racks.iter().find(|rack| rack.path == backend.rack).expect("made from the same shape");
        let (port, netns) = (backend_port(backend), namespaces.backends[&backend.name].name());
        commands.push(veth(&port, INNER_MTU, netns));
        commands.push(format!("link set {port} master {} up", rack.bridge));
    }
    for edge in &topology.edges {
        commands.push(veth(&edge.name, INNER_MTU, namespaces.edges[&edge.name].name()));
        commands.extend(gateway(&edge.name, gateway_v4(edge.v4, 1), gateway_v6(edge.v6, 1)));
    }
    for client in &topology.clients {
        let port = client_port(client);
        commands.push(veth(&port, 1500, namespaces.clients[&client.region].name()));
        commands.extend(gateway(&port, gateway_v4(client.v4, 1), gateway_v6(client.v6, 1)));
    }
    commands
}

fn veth(port: &str, mtu: u16, peer_netns: &str) -> String {
    format!("link add {port} mtu {mtu} type veth peer name {INTERFACE} mtu {mtu} netns {peer_netns}")
}

fn gateway(device: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> [String; 3] {
    [
        format!("addr add {v4}/24 dev {device}"),
        format!("addr add {v6}/64 dev {device} nodad"),
        format!("link set {device} up"),
    ]
}

fn rack_links(index: usize, rack: &Rack) -> Vec<String> {
    // A fixed address: a bridge otherwise takes over the lowest of its ports, and changes it with them.
    let mac = format!("02:00:00:00:{:02x}:{:02x}", (index + 1) >> 8, (index + 1) & 0xff);
    let bridge = &rack.bridge;
    let mut commands = vec![format!(
        "link add {bridge} mtu {INNER_MTU} address {mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
    )];
    commands.extend(gateway(bridge, rack.gateway_v4, rack.gateway_v6));
    commands
}

fn host_commands(v4: Ipv4Addr, v6: Ipv6Addr, extra: &[String]) -> Vec<String> {
    let mut commands = vec!["link set lo up".to_owned()];
    commands.extend_from_slice(extra);
    commands.extend([
        format!("addr add {v4}/24 dev {INTERFACE}"),
        format!("addr add {v6}/64 dev {INTERFACE} nodad"),
        format!("link set {INTERFACE} up"),
        format!("route add default via {}", gateway_v4(v4, 1)),
        format!("route add default via {}", gateway_v6(v6, 1)),
    ]);
    commands
}

/// VIPs are routed to the edges; where regions have edges of their own, those of each client's region.
fn route_vips(topology: &Topology, router: &Netns) -> Result<()> {
    if !topology.shape.regional_edges {
        return router.ip(&vip_routes(&topology.edges.iter().collect::<Vec<_>>(), ""));
    }
    for (number, client) in (100..).zip(&topology.clients) {
        let edges: Vec<_> = topology.edges.iter().filter(|edge| edge.region == client.region).collect();
        router.ip(&vip_routes(&edges, &format!(" table {number}")))?;
        let rule = format!("rule add iif {} lookup {number} priority {number}", client_port(client));
        for family in ["-4", "-6"] {
            ip_batch(&["-n", router.name(), family], &[&rule])?;
        }
    }
    Ok(())
}

fn vip_routes(edges: &[&Edge], table: &str) -> [String; 2] {
    let hops = |via: &dyn Fn(&Edge) -> String| {
        edges.iter().map(|edge| format!(" nexthop via {}", via(edge))).collect::<String>()
    };
    [
        format!("route add {VIP_PREFIX_V4}{table}{}", hops(&|edge| edge.v4.to_string())),
        format!("route add {VIP_PREFIX_V6}{table}{}", hops(&|edge| edge.v6.to_string())),
    ]
}

fn set_offloads(topology: &Topology, namespaces: &Namespaces) -> Result<()> {
    let ports = (topology.edges.iter().map(|edge| edge.name.clone()))
        .chain(topology.backends.iter().map(backend_port))
        .collect::<Vec<_>>();
    namespaces.router.run(|| {
        for port in &ports {
            let _making = making();
            let output = (Command::new("ethtool").args(["-K", port, "tx", "off"]).output())
                .context("cannot run `ethtool`: install ethtool")?;
            if !output.status.success() {
                bail!("ethtool -K {port} tx off: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
        }
        Ok(())
    })
}
