//! What stands where, and under which name and address. Pure: nothing here touches the machine.
//!
//! Addresses follow from the position, so that a packet dump can be read without a table:
//!
//! | who | v4 | v6 |
//! |---|---|---|
//! | backend b of rack a, zone z, region r (from 1) | `10.r.(16z+a).(10+b)` | `fd00:r:z:a::(10+b)` |
//! | edge e (from 1) | `10.0.e.2` | `fd00:0:0:e::2` |
//! | client of region r | `198.51.100.10`, `203.0.113.10`, then `100.64.r.10` | `2001:db8:a::10`, `b`, `c`.. |
//!
//! The router's end of every link is `.1` or `::1`.
use anyhow::{Result, bail};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Most regions, zones per region and racks per zone: the addresses have four bits for each.
pub const DOMAINS_MAX: usize = 15;
/// Most backends in one rack.
pub const BACKENDS_PER_RACK_MAX: usize = 200;
/// Most edge hosts.
pub const EDGES_MAX: usize = 8;
/// Most characters in a region's name: interface names have 15 in all.
pub const REGION_NAME_MAX: usize = 8;

/// The v4 VIP of services `web` and `echo`.
pub const VIP_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The v6 VIP of services `web6` and `echo6`.
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10);
/// Prefix of all v4 VIPs, routed to the edge.
pub const VIP_PREFIX_V4: &str = "192.0.2.0/24";
/// Prefix of all v6 VIPs, routed to the edge.
pub const VIP_PREFIX_V6: &str = "2001:db8:100::/48";
/// TCP port of the web services.
pub const WEB_PORT: u16 = 80;
/// UDP port of the echo services.
pub const ECHO_PORT: u16 = 7;
/// Interface of every client, edge and backend.
pub const INTERFACE: &str = "eth0";

/// How many of each.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Region names, at most 8 lower-case letters, with distinct first letters. The edge stands in the first one.
    pub regions: Vec<String>,
    /// Zones in each region.
    pub zones: usize,
    /// Racks in each zone.
    pub racks: usize,
    /// Backends in each rack.
    pub backends: usize,
    /// Edge hosts: in the first region, or, with `regional_edges`, in each region.
    pub edges: usize,
    /// Each region has edges of its own, to which its clients' packets go.
    pub regional_edges: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            regions: vec!["west".into(), "east".into()],
            zones: 2,
            racks: 2,
            backends: 2,
            edges: 1,
            regional_edges: false,
        }
    }
}

/// One host with a web server.
#[derive(Clone, Debug)]
pub struct Backend {
    /// For example `w1r2b1`.
    pub name: String,
    /// Path of its region: `west`.
    pub region: String,
    /// Path of its zone: `west/w1`.
    pub zone: String,
    /// Path of its rack: `west/w1/r2`.
    pub rack: String,
    /// Its own address, which is also a tunnel endpoint.
    pub v4: Ipv4Addr,
    /// Its own address, which is also a tunnel endpoint.
    pub v6: Ipv6Addr,
}

impl Backend {
    /// Whether the domain of this path (a region, zone or rack) contains the backend.
    pub fn is_in(&self, domain: &str) -> bool {
        is_within(&self.rack, domain)
    }
}

/// A rack and the bridge in the router that joins it.
#[derive(Clone, Debug)]
pub struct Rack {
    /// For example `west/w1/r2`.
    pub path: String,
    /// Name of its bridge inside the router's namespace: `w1r2`.
    pub bridge: String,
    /// The router's address in it.
    pub gateway_v4: Ipv4Addr,
    /// The router's address in it.
    pub gateway_v6: Ipv6Addr,
}

/// A client host; there is one in each client region.
#[derive(Clone, Debug)]
pub struct Client {
    /// Name of its client region, which is also that of the region nearest to it.
    pub region: String,
    /// Its v4 network, a /24.
    pub v4: Ipv4Addr,
    /// Its v6 address, in a /48 of its own.
    pub v6: Ipv6Addr,
}

impl Client {
    /// v4 prefix of the client region.
    pub fn prefix_v4(&self) -> String {
        format!("{}/24", gateway_v4(self.v4, 0))
    }

    /// v6 prefix of the client region.
    pub fn prefix_v6(&self) -> String {
        format!("{}/48", gateway_v6(self.v6, 0))
    }
}

/// An edge host: the daemon runs here.
#[derive(Clone, Debug)]
pub struct Edge {
    /// `edge-1`, `edge-2`..
    pub name: String,
    /// The region that it stands in.
    pub region: String,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its address.
    pub v6: Ipv6Addr,
}

/// Everything that a lab contains.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The numbers it was made from.
    pub shape: Shape,
    /// One per region, in the order of the regions.
    pub clients: Vec<Client>,
    /// At least one.
    pub edges: Vec<Edge>,
    /// All racks, in the order of their paths' positions.
    pub racks: Vec<Rack>,
    /// All backends, rack by rack.
    pub backends: Vec<Backend>,
}

impl Topology {
    /// Lays out a lab.
    ///
    /// # Errors
    /// A count that is zero or beyond its limit, or region names that do not give unique backend names.
    pub fn new(shape: Shape) -> Result<Self> {
        check_shape(&shape)?;
        let clients = (shape.regions.iter().enumerate()).map(|(i, name)| client(i, name)).collect();
        let regions = if shape.regional_edges { shape.regions.len() } else { 1 };
        let in_region = |region: &String| std::iter::repeat_n(region.clone(), shape.edges);
        let of_edges = shape.regions[..regions].iter().flat_map(in_region);
        let edges = of_edges.zip(1..).map(|(region, number)| edge(number, region)).collect();
        let mut racks = Vec::new();
        let mut backends = Vec::new();
        for (r, region) in (1u16..).zip(&shape.regions) {
            let letter = &region[..1];
            for z in 1..=shape.zones as u16 {
                for a in 1..=shape.racks as u16 {
                    let v4 = |host: u16| Ipv4Addr::new(10, r as u8, (16 * z + a) as u8, host as u8);
                    let v6 = |host: u16| Ipv6Addr::new(0xfd00, r, z, a, 0, 0, 0, host);
                    let zone = format!("{region}/{letter}{z}");
                    let rack = Rack {
                        path: format!("{zone}/r{a}"),
                        bridge: format!("{letter}{z}r{a}"),
                        gateway_v4: v4(1),
                        gateway_v6: v6(1),
                    };
                    backends.extend((1..=shape.backends as u16).map(|b| Backend {
                        name: format!("{}b{b}", rack.bridge),
                        region: region.clone(),
                        zone: zone.clone(),
                        rack: rack.path.clone(),
                        v4: v4(10 + b),
                        v6: v6(10 + b),
                    }));
                    racks.push(rack);
                }
            }
        }
        Ok(Topology { shape, clients, edges, racks, backends })
    }

    /// The backend of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn backend(&self, name: &str) -> Result<&Backend> {
        match self.backends.iter().find(|backend| backend.name == name) {
            Some(backend) => Ok(backend),
            None => bail!("no backend {name} in this lab; its backends: {}", self.backend_names().join(" ")),
        }
    }

    /// The client of this client region.
    ///
    /// # Errors
    /// There is none.
    pub fn client(&self, region: &str) -> Result<&Client> {
        match self.clients.iter().find(|client| client.region == region) {
            Some(client) => Ok(client),
            None => bail!("no client {region} in this lab; its clients: {}", self.shape.regions.join(" ")),
        }
    }

    /// The racks of a domain given by its path.
    ///
    /// # Errors
    /// There is no such domain.
    pub fn racks_in(&self, domain: &str) -> Result<Vec<&Rack>> {
        let racks: Vec<_> = self.racks.iter().filter(|rack| is_within(&rack.path, domain)).collect();
        if racks.is_empty() {
            let paths: Vec<_> = self.racks.iter().map(|rack| rack.path.as_str()).collect();
            bail!("no domain {domain} in this lab; its racks: {}", paths.join(" "));
        }
        Ok(racks)
    }

    /// Paths of all zones, in order.
    pub fn zones(&self) -> Vec<String> {
        let mut zones: Vec<String> = self.backends.iter().map(|backend| backend.zone.clone()).collect();
        zones.dedup();
        zones
    }

    /// Names of the backends in a domain given by its path.
    pub fn names_in(&self, domain: &str) -> BTreeSet<String> {
        self.backends.iter().filter(|b| b.is_in(domain)).map(|b| b.name.clone()).collect()
    }

    /// Names of all backends, in order.
    pub fn backend_names(&self) -> Vec<String> {
        self.backends.iter().map(|backend| backend.name.clone()).collect()
    }
}

/// The web VIPs, v4 and v6, with their port.
pub fn web_vips() -> [SocketAddr; 2] {
    [SocketAddr::from((VIP_V4, WEB_PORT)), SocketAddr::from((VIP_V6, WEB_PORT))]
}

/// The UDP echo VIPs, v4 and v6, with their port.
pub fn echo_vips() -> [SocketAddr; 2] {
    [SocketAddr::from((VIP_V4, ECHO_PORT)), SocketAddr::from((VIP_V6, ECHO_PORT))]
}

/// The router's address (`host` 1) or the network (`host` 0) of a /24.
pub fn gateway_v4(address: Ipv4Addr, host: u8) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, host)
}

/// The router's address (`host` 1) or the network (`host` 0) of a /64.
pub fn gateway_v6(address: Ipv6Addr, host: u16) -> Ipv6Addr {
    let [a, b, c, d, ..] = address.segments();
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, host)
}

fn is_within(path: &str, domain: &str) -> bool {
    path.strip_prefix(domain).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn client(index: usize, region: &str) -> Client {
    let v4 = match index {
        0 => Ipv4Addr::new(198, 51, 100, 10),
        1 => Ipv4Addr::new(203, 0, 113, 10),
        _ => Ipv4Addr::new(100, 64, index as u8, 10),
    };
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0xa + index as u16, 0, 0, 0, 0, 0x10);
    Client { region: region.to_owned(), v4, v6 }
}

fn edge(number: usize, region: String) -> Edge {
    Edge {
        region,
        name: format!("edge-{number}"),
        v4: Ipv4Addr::new(10, 0, number as u8, 2),
        v6: Ipv6Addr::new(0xfd00, 0, 0, number as u16, 0, 0, 0, 2),
    }
}

fn check_shape(shape: &Shape) -> Result<()> {
    let limits = [
        ("regions", shape.regions.len(), DOMAINS_MAX),
        ("zones", shape.zones, DOMAINS_MAX),
        ("racks", shape.racks, DOMAINS_MAX),
        ("backends", shape.backends, BACKENDS_PER_RACK_MAX),
        ("edges", shape.edges * if shape.regional_edges { shape.regions.len() } else { 1 }, EDGES_MAX),
    ];
    for (what, count, most) in limits {
        if !(1..=most).contains(&count) {
            bail!("a lab has 1 to {most} {what}, not {count}");
        }
    }
    let mut letters = BTreeSet::new();
    for region in &shape.regions {
        if region.is_empty()
            || region.len() > REGION_NAME_MAX
            || !region.bytes().all(|b| b.is_ascii_lowercase())
        {
            bail!("region {region:?}: names have 1 to {REGION_NAME_MAX} lower-case letters");
        }
        if !letters.insert(region.as_bytes()[0]) {
            bail!(
                "region {region:?}: another one begins with the same letter, so backends would share names"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_shape_has_sixteen_backends_with_unique_names_and_addresses() {
        let topology = Topology::new(Shape::default()).unwrap();
        assert_eq!(topology.backends.len(), 16);
        assert_eq!(topology.racks.len(), 8);
        let names: BTreeSet<_> = topology.backend_names().into_iter().collect();
        let v4: BTreeSet<_> = topology.backends.iter().map(|b| b.v4).collect();
        let v6: BTreeSet<_> = topology.backends.iter().map(|b| b.v6).collect();
        assert_eq!((names.len(), v4.len(), v6.len()), (16, 16, 16));
        let backend = topology.backend("e2r1b2").unwrap();
        assert_eq!((backend.rack.as_str(), backend.v4), ("east/e2/r1", Ipv4Addr::new(10, 2, 33, 12)));
    }

    #[test]
    fn domains_end_at_slashes() {
        let topology = Topology::new(Shape { zones: 12, ..Shape::default() }).unwrap();
        assert_eq!(topology.racks_in("west/w1").unwrap().len(), 2);
        assert_eq!(topology.racks_in("west").unwrap().len(), 24);
        assert!(topology.racks_in("west/w").is_err());
    }

    #[test]
    fn largest_shape_keeps_addresses_unique() {
        let regions = ('a'..='o').map(String::from).collect();
        let shape = Shape { regions, zones: 15, racks: 15, backends: 3, edges: 8, regional_edges: false };
        let topology = Topology::new(shape).unwrap();
        let v4: BTreeSet<_> = topology.backends.iter().map(|b| b.v4).collect();
        assert_eq!(v4.len(), 15 * 15 * 15 * 3);
    }

    #[test]
    fn shapes_without_unique_names_are_refused() {
        for regions in [vec!["west", "wild"], vec!["West"], vec![], vec!["averylongname"]] {
            let regions = regions.into_iter().map(String::from).collect();
            assert!(Topology::new(Shape { regions, ..Shape::default() }).is_err());
        }
    }
}
