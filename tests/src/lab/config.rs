//! Renders the daemon's configuration for a lab.
use super::topology::{ECHO_PORT, Edge, INTERFACE, Topology, VIP_V4, VIP_V6, WEB_PORT};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::Path,
    time::Duration,
};

/// What checks the backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// UDP heartbeats, answered by the agent.
    Heartbeat,
    /// TCP connects to the web port.
    Tcp,
    /// What the text says: all lines of the check but its name. The options' timing means nothing for it.
    Text(String),
    /// Nothing: all are believed up.
    None,
}

/// What of the daemon's configuration a test may choose. The services are always these:
///
/// | service | VIP | protocol |
/// |---|---|---|
/// | `web` | [`VIP_V4`]:80 | tcp |
/// | `web6` | [`VIP_V6`]:80 | tcp |
/// | `echo` | [`VIP_V4`]:7 | udp |
/// | `echo6` | [`VIP_V6`]:7 | udp |
///
/// Each has one pool per region, named like it, of the sets `web-<zone>`; a plan per client region that begins with its
/// own region; and the plan `default` in the order of the regions.
#[derive(Clone, Debug)]
pub struct ConfigOptions {
    /// Index of the edge whose configuration this is.
    pub edge: usize,
    /// What checks the backends.
    pub check: Check,
    /// Time between two checks of a backend.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Consecutive misses until DOWN.
    pub fall: u32,
    /// Consecutive successes until UP.
    pub rise: u32,
    /// Weights other than 100, by backend.
    pub weights: BTreeMap<String, u16>,
    /// Backends that are left out.
    pub without: BTreeSet<String>,
    /// Use the backends' v6 addresses as tunnel endpoints.
    pub v6_endpoints: bool,
    /// Slots of each pool's table.
    pub table_size: u32,
    /// `drop` or `fail-open`.
    pub on_all_down: String,
    /// `native` or `generic`.
    pub mode: String,
    /// Give every backend the server id that [`LiveUdpServers`](crate::load::LiveUdpServers) puts into connection ids.
    pub quic_server_ids: bool,
    /// Other regions' backends are unknown: their edges stand for them, as relays. For labs with edges in each region.
    pub relay: bool,
    /// Lines added to `[node]`.
    pub node: String,
    /// Lines added to every service, such as how it forwards.
    pub every_service: String,
    /// Text added at the end.
    pub extra: String,
}

impl Default for ConfigOptions {
    /// Heartbeats every 3 ms, DOWN after two misses, UP after three answers, native XDP, tables of 65537 slots.
    fn default() -> Self {
        ConfigOptions {
            edge: 0,
            check: Check::Heartbeat,
            interval: Duration::from_millis(3),
            timeout: Duration::from_millis(3),
            fall: 2,
            rise: 3,
            weights: BTreeMap::new(),
            without: BTreeSet::new(),
            v6_endpoints: false,
            table_size: 65537,
            on_all_down: "drop".into(),
            quic_server_ids: false,
            relay: false,
            node: String::new(),
            every_service: String::new(),
            mode: "native".into(),
            extra: String::new(),
        }
    }
}

/// The TOML text. Paths are those of the lab's folder.
pub(crate) fn render(topology: &Topology, directory: &Path, options: &ConfigOptions) -> String {
    let edge = &topology.edges[options.edge];
    let mut text = node(topology, directory, edge, options);
    push(&mut text, domains(topology, edge, options));
    push(&mut text, check(options));
    push(&mut text, sets(topology, edge, options));
    if options.relay {
        push(&mut text, relays(topology, edge, options));
    }
    let services = [
        ("web", VIP_V4.to_string(), WEB_PORT, "tcp"),
        ("web6", VIP_V6.to_string(), WEB_PORT, "tcp"),
        ("echo", VIP_V4.to_string(), ECHO_PORT, "udp"),
        ("echo6", VIP_V6.to_string(), ECHO_PORT, "udp"),
    ];
    for (name, address, port, protocol) in services {
        text += &format!(
            "\n[[service]]\nname = \"{name}\"\naddress = \"{address}\"\nport = {port}\nprotocol = \"{protocol}\"\n\
             on_all_down = \"{}\"\n{}\n",
            options.on_all_down, options.every_service
        );
        push(&mut text, pools_and_plans(topology, edge, options));
    }
    text + &options.extra
}

fn push(text: &mut String, lines: Vec<String>) {
    for line in lines {
        writeln!(text, "{line}").expect("writing to a String");
    }
}

/// Outer sources of an edge's tunnels.
fn tunnel_source(topology: &Topology, edge: &Edge) -> String {
    let number = topology.edges.iter().position(|other| other.name == edge.name).unwrap_or_default();
    format!("10.255.{number}.0/24")
}

fn node(topology: &Topology, directory: &Path, edge: &Edge, options: &ConfigOptions) -> String {
    let (name, region, files, mode) = (&edge.name, &edge.region, directory.display(), &options.mode);
    let more = &options.node;
    let relay = if options.relay {
        let peers = topology.edges.iter().filter(|other| other.region != edge.region);
        let peers =
            peers.flat_map(|peer| [peer.v4.to_string(), peer.v6.to_string(), tunnel_source(topology, peer)]);
        format!("relay_addresses = [\"{}\", \"{}\"]\nrelay_peers = [{}]\n", edge.v4, edge.v6, quoted(peers))
    } else {
        String::new()
    };
    let tunnel_source =
        if options.relay { tunnel_source(topology, edge) } else { "10.255.0.0/16".to_owned() };
    format!(
        r#"[node]
name = "{name}"
region = "{region}"
interfaces = ["{INTERFACE}"]
mode = "{mode}"
hash_key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
tunnel_source_v4 = "{tunnel_source}"
tunnel_source_v6 = "fd00:ff::/64"
state_dir = "{files}/{name}"
socket = "{files}/{name}.sock"
bpffs = "{files}/bpf/{name}"
{more}
{relay}"#
    )
}

/// Whether an edge's configuration has the backends of a region, or of a zone or rack in it.
fn is_known(domain: &str, edge: &Edge, options: &ConfigOptions) -> bool {
    !options.relay || domain == edge.region || is_below(domain, &edge.region)
}

/// The other regions' edges.
fn relays(topology: &Topology, edge: &Edge, options: &ConfigOptions) -> Vec<String> {
    let mut lines = Vec::new();
    let checks = if options.check == Check::None { "" } else { "\"alive\"" };
    for region in topology.shape.regions.iter().filter(|region| **region != edge.region) {
        lines.push(format!("\n[[relay]]\nname = \"{region}\"\nregion = \"{region}\"\nchecks = [{checks}]"));
        for host in topology.edges.iter().filter(|host| host.region == *region) {
            let address = if options.v6_endpoints { host.v6.to_string() } else { host.v4.to_string() };
            lines.push(format!("[[relay.host]]\nname = \"{}\"\naddress = \"{address}\"", host.name));
        }
    }
    lines
}

fn domains(topology: &Topology, edge: &Edge, options: &ConfigOptions) -> Vec<String> {
    let mut lines = Vec::new();
    for region in &topology.shape.regions {
        lines.push(format!("\n[topology.{region}]"));
        let zones = topology.zones();
        let known = |zone: &&String| is_below(zone, region) && is_known(zone, edge, options);
        for zone in zones.iter().filter(known) {
            let racks = topology.racks.iter().filter(|rack| is_below(&rack.path, zone));
            lines.push(format!("{} = [{}]", last(zone), quoted(racks.map(|rack| last(&rack.path)))));
        }
    }
    lines.push("\n[client_regions]".into());
    for client in &topology.clients {
        lines.push(format!("{} = [\"{}\", \"{}\"]", client.region, client.prefix_v4(), client.prefix_v6()));
    }
    lines
}

fn check(options: &ConfigOptions) -> Vec<String> {
    let kind = match &options.check {
        Check::Text(text) => return vec![format!("\n[[check]]\nname = \"alive\"\n{text}")],
        Check::Heartbeat => "kind = \"heartbeat\"".to_owned(),
        Check::Tcp => format!("kind = \"tcp\"\nport = {WEB_PORT}"),
        Check::None => return Vec::new(),
    };
    vec![
        format!("\n[[check]]\nname = \"alive\"\n{kind}"),
        format!(
            "interval = \"{}us\"\ntimeout = \"{}us\"",
            options.interval.as_micros(),
            options.timeout.as_micros()
        ),
        format!("fall = {}\nrise = {}", options.fall, options.rise),
    ]
}

fn sets(topology: &Topology, edge: &Edge, options: &ConfigOptions) -> Vec<String> {
    let checks = if options.check == Check::None { "" } else { "\"alive\"" };
    let mut lines = Vec::new();
    for zone in topology.zones().into_iter().filter(|zone| is_known(zone, edge, options)) {
        lines.push(format!(
            "\n[[set]]\nname = \"web-{}\"\ndomain = \"{zone}\"\nchecks = [{checks}]",
            last(&zone)
        ));
        let backends = topology.backends.iter().filter(|backend| backend.zone == zone);
        for backend in backends.filter(|backend| !options.without.contains(&backend.name)) {
            let address = if options.v6_endpoints { backend.v6.to_string() } else { backend.v4.to_string() };
            let weight = options.weights.get(&backend.name).unwrap_or(&100);
            lines.push(format!(
                "[[set.backend]]\nname = \"{}\"\nrack = \"{}\"\naddress = \"{address}\"\nweight = {weight}",
                backend.name, backend.rack
            ));
            if options.quic_server_ids {
                let position = topology.backends.iter().position(|other| other.name == backend.name);
                let id = crate::load::quic_server_id(position.unwrap_or(0));
                lines.push(format!("quic_server_id = \"{:02x}{:02x}\"", id[0], id[1]));
            }
        }
    }
    lines
}

fn pools_and_plans(topology: &Topology, edge: &Edge, options: &ConfigOptions) -> Vec<String> {
    let regions = &topology.shape.regions;
    let mut lines = Vec::new();
    for region in regions {
        let zones = topology.zones();
        let sets =
            zones.iter().filter(|zone| is_below(zone, region)).map(|zone| format!("web-{}", last(zone)));
        let size = options.table_size;
        let members = if is_known(region, edge, options) {
            format!("sets = [{}]", quoted(sets))
        } else {
            format!("relay = \"{region}\"")
        };
        lines.push(format!("[[service.pool]]\nname = \"{region}\"\n{members}\ntable_size = {size}"));
    }
    if options.relay {
        // Whosever clients they are, those that come here are served here if that can be.
        let others = regions.iter().filter(|region| **region != edge.region);
        let plan = quoted(std::iter::once(&edge.region).chain(others));
        lines.push(format!("[service.plan]\ndefault = [{plan}]"));
        return lines;
    }
    lines.push(format!("[service.plan]\ndefault = [{}]", quoted(regions)));
    for own in regions {
        let others = regions.iter().filter(|region| *region != own);
        lines.push(format!("{own} = [{}]", quoted(std::iter::once(own).chain(others))));
    }
    lines
}

fn quoted<S: std::fmt::Display>(items: impl IntoIterator<Item = S>) -> String {
    items.into_iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ")
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_below(path: &str, domain: &str) -> bool {
    path.strip_prefix(domain).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::topology::Shape;

    #[test]
    fn default_configuration_names_every_backend_once() {
        let topology = Topology::new(Shape::default()).unwrap();
        let text = render(&topology, Path::new("/run/x"), &ConfigOptions::default());
        for name in topology.backend_names() {
            assert_eq!(text.matches(&format!("name = \"{name}\"")).count(), 1, "{name}");
        }
        assert!(text.contains("[topology.west]\nw1 = [\"r1\", \"r2\"]\nw2 = [\"r1\", \"r2\"]"), "{text}");
        assert!(text.contains("west = [\"198.51.100.0/24\", \"2001:db8:a::/48\"]"), "{text}");
        assert!(text.contains("sets = [\"web-e1\", \"web-e2\"]"), "{text}");
        assert!(text.contains("east = [\"east\", \"west\"]"), "{text}");
    }

    #[test]
    fn knobs_reach_the_text() {
        let topology = Topology::new(Shape::default()).unwrap();
        let options = ConfigOptions {
            weights: [("w1r1b1".into(), 7)].into(),
            without: ["e2r2b2".into()].into(),
            v6_endpoints: true,
            check: Check::Tcp,
            ..ConfigOptions::default()
        };
        let text = render(&topology, Path::new("/run/x"), &options);
        assert!(text.contains("address = \"fd00:1:1:1::b\"\nweight = 7"), "{text}");
        assert!(!text.contains("e2r2b2") && text.contains("kind = \"tcp\"\nport = 80"), "{text}");
    }
}
