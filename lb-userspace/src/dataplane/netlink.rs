//! Routes, neighbours and links of the current network namespace by rtnetlink(7): blocking requests, which the kernel answers
//! at once, and a subscription to changes.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, VlanProtocol, XdpAttached,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Multicast groups of `linux/rtnetlink.h`, as bits: links, neighbours, and addresses, routes and rules of both families.
const GROUPS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18;
/// Receive buffer of a subscription in bytes. When it overflows, the subscriber is told so and reads everything anew.
const SUBSCRIPTION_BUFFER: usize = 1 << 20;

/// A socket for requests.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its address, where it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it is switched on and has a carrier.
    pub running: bool,
    /// What it is if it is a VLAN of another interface.
    pub vlan: Option<Vlan>,
    /// The XDP program that it runs, if any: its id, and whether in native mode.
    pub xdp: Option<(Option<u32>, bool)>,
}

/// A VLAN of another interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Index of the other interface.
    pub parent: u32,
    /// Number of the VLAN, 0 to 4094.
    pub id: u16,
    /// Whether its tags are those of IEEE 802.1Q, and not of 802.1ad.
    pub is_customer: bool,
}

/// Where the kernel would send packets to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// What becomes of them.
    pub kind: RouteType,
    /// The interface.
    pub ifindex: u32,
    /// The gateway; none when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The route's own MTU, if it has one.
    pub mtu: Option<u32>,
}

/// An entry of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface.
    pub ifindex: u32,
    /// The neighbour's IP address.
    pub address: IpAddr,
    /// Its link-layer address, if the kernel knows one.
    pub mac: Option<[u8; 6]>,
    /// State of the entry.
    pub state: NeighbourState,
}

/// A change that a subscription tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An interface is new or changed.
    Interface(Interface),
    /// An interface is gone.
    InterfaceGone(u32),
    /// A neighbour entry is new or changed.
    Neighbour(Neighbour),
    /// A neighbour entry is gone.
    NeighbourGone(Neighbour),
    /// Routes, addresses or rules changed.
    Routes,
    /// Changes were missed.
    Missed,
}

impl Netlink {
    /// A socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// What socket(2) says.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one request and gathers its answers.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            for message in messages(&bytes) {
                let Ok(message) = message else { continue };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    /// All interfaces.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        let answers = self.request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        let links = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(interface(&link)),
            _ => None,
        });
        Ok(links.collect())
    }

    /// All neighbours of both families.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn neighbours(&mut self) -> io::Result<Vec<Neighbour>> {
        let mut neighbours = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = NeighbourMessage::default();
            message.header.family = family;
            let answers = self.request(RouteNetlinkMessage::GetNeighbour(message), NLM_F_DUMP)?;
            neighbours.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(message) => neighbour(message),
                _ => None,
            }));
        }
        Ok(neighbours)
    }

    /// Where packets to `destination` go.
    ///
    /// # Errors
    /// `ENETUNREACH` and `EHOSTUNREACH` when there is no way, else what the kernel says.
    pub fn route(&mut self, destination: IpAddr) -> io::Result<Route> {
        let mut message = RouteMessage::default();
        (message.header.address_family, message.header.destination_prefix_length) = match destination {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(destination)));
        let answers = self.request(RouteNetlinkMessage::GetRoute(message), 0)?;
        answers
            .iter()
            .find_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => Some(route(message)),
                _ => None,
            })
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENETUNREACH))
    }

    /// Makes the kernel find out the link-layer address of a neighbour, or confirm the one that it knows.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ask_for(&mut self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = ifindex;
        message.header.flags = NeighbourFlags::Use;
        message.header.state = NeighbourState::None;
        let (family, address) = match address {
            IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
            IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
        };
        message.header.family = family;
        message.attributes.push(NeighbourAttribute::Destination(address));
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }
}

/// A subscription to changes of links, neighbours, addresses, routes and rules.
#[derive(Debug)]
pub struct Subscription {
    socket: Socket,
}

impl Subscription {
    /// Subscribes in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        socket.set_rx_buf_sz(SUBSCRIPTION_BUFFER)?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// The next changes; none when there are none yet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn changes(&mut self) -> io::Result<Vec<Change>> {
        let bytes = match self.socket.recv_from_full() {
            Ok((bytes, _)) => bytes,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(vec![Change::Missed]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let changes = messages(&bytes).filter_map(|message| match message {
            // What cannot be read may have been anything.
            Err(()) => Some(Change::Missed),
            Ok(message) => match message.payload {
                NetlinkPayload::InnerMessage(message) => change(&message),
                _ => None,
            },
        });
        Ok(changes.collect())
    }
}

impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is `self.socket`'s, which stays open at least as long as the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

/// The messages of one datagram; `Err` for one that cannot be read.
fn messages(bytes: &[u8]) -> impl Iterator<Item = Result<NetlinkMessage<RouteNetlinkMessage>, ()>> {
    const HEADER: usize = 16;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        if length < HEADER || length > rest.len() {
            return None;
        }
        let message = NetlinkMessage::deserialize(&rest[..length]).map_err(drop);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

fn change(message: &RouteNetlinkMessage) -> Option<Change> {
    use RouteNetlinkMessage as M;
    match message {
        M::NewLink(link) => Some(Change::Interface(interface(link))),
        M::DelLink(link) => Some(Change::InterfaceGone(link.header.index)),
        M::NewNeighbour(message) => neighbour(message).map(Change::Neighbour),
        M::DelNeighbour(message) => neighbour(message).map(Change::NeighbourGone),
        M::NewRoute(_)
        | M::DelRoute(_)
        | M::NewAddress(_)
        | M::DelAddress(_)
        | M::NewRule(_)
        | M::DelRule(_) => Some(Change::Routes),
        _ => None,
    }
}

fn interface(link: &LinkMessage) -> Interface {
    let mut interface = Interface {
        index: link.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: link.header.flags.contains(LinkFlags::Up),
        running: link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        vlan: None,
        xdp: None,
    };
    let mut parent = None;
    let mut tag = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::Address(address) => interface.mac = address.as_slice().try_into().ok(),
            LinkAttribute::Xdp(xdp) => interface.xdp = xdp_state(xdp),
            LinkAttribute::Link(index) => parent = Some(*index),
            LinkAttribute::LinkInfo(infos) => tag = vlan_tag(infos),
            _ => {}
        }
    }
    interface.vlan = parent.zip(tag).map(|(parent, (id, is_customer))| Vlan { parent, id, is_customer });
    interface
}

/// Number of the VLAN that an interface is, and whether its tags are of IEEE 802.1Q.
fn vlan_tag(infos: &[LinkInfo]) -> Option<(u16, bool)> {
    let values = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(values)) => Some(values),
        _ => None,
    })?;
    let id = values.iter().find_map(|value| match value {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let is_other = values.iter().any(|v| matches!(v, InfoVlan::Protocol(p) if *p != VlanProtocol::Ieee8021Q));
    Some((id, !is_other))
}

fn xdp_state(attributes: &[LinkXdp]) -> Option<(Option<u32>, bool)> {
    let attached = attributes.iter().find_map(|a| match a {
        LinkXdp::Attached(attached) => Some(attached),
        _ => None,
    })?;
    let program = attributes.iter().find_map(|a| match a {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    });
    match attached {
        XdpAttached::None => None,
        XdpAttached::SocketBuffer => Some((program, false)),
        _ => Some((program, true)),
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let address = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    });
    Some(Neighbour { ifindex: message.header.ifindex, address, mac, state: message.header.state })
}

fn route(message: &RouteMessage) -> Route {
    let mut route = Route { kind: message.header.kind, ifindex: 0, gateway: None, mtu: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.ifindex = *index,
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) | RouteAttribute::Via(RouteVia::Inet(v4)) => {
                route.gateway = Some(IpAddr::V4(*v4));
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) | RouteAttribute::Via(RouteVia::Inet6(v6)) => {
                route.gateway = Some(IpAddr::V6(*v6));
            }
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    route
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link as the kernel tells of it: header and attributes in the layout of `linux/if_link.h`, put together here.
    fn link(flags: u32, attributes: &[u8]) -> Interface {
        let mut bytes = vec![0, 0, 1, 0];
        bytes.extend(5_u32.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(attributes);
        let mut message = ((16 + bytes.len()) as u32).to_ne_bytes().to_vec();
        message.extend(16_u16.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(bytes);
        let mut changes = messages(&message).map(|message| match message.unwrap().payload {
            NetlinkPayload::InnerMessage(message) => change(&message).unwrap(),
            other => panic!("{other:?}"),
        });
        match changes.next().unwrap() {
            Change::Interface(interface) => interface,
            other => panic!("{other:?}"),
        }
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINK: u16 = 5;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    const IFLA_VLAN_ID: u16 = 1;
    const IFLA_VLAN_PROTOCOL: u16 = 5;
    const IFF_UP: u32 = 1;
    const IFF_LOWER_UP: u32 = 1 << 16;

    fn vlan(id: u16, protocol: u16) -> Interface {
        let tag = [
            attribute(IFLA_VLAN_ID, &id.to_ne_bytes()),
            attribute(IFLA_VLAN_PROTOCOL, &protocol.to_be_bytes()),
        ];
        let info = [attribute(IFLA_INFO_KIND, b"vlan\0"), attribute(IFLA_INFO_DATA, &tag.concat())];
        let attributes = [
            attribute(IFLA_IFNAME, b"eth0.100\0"),
            attribute(IFLA_LINK, &2_u32.to_ne_bytes()),
            attribute(IFLA_LINKINFO, &info.concat()),
        ];
        link(IFF_UP | IFF_LOWER_UP, &attributes.concat())
    }

    #[test]
    fn a_vlan_tells_its_parent_and_number() {
        let found = vlan(100, 0x8100);
        assert_eq!(found.vlan, Some(Vlan { parent: 2, id: 100, is_customer: true }));
        assert!(found.up && found.running);
        assert_eq!(vlan(7, 0x88a8).vlan, Some(Vlan { parent: 2, id: 7, is_customer: false }));
    }

    #[test]
    fn other_links_are_no_vlans_and_may_be_up_without_a_carrier() {
        // A veth has a peer in `IFLA_LINK` too.
        let info = attribute(IFLA_INFO_KIND, b"veth\0");
        let attributes =
            [attribute(IFLA_LINK, &2_u32.to_ne_bytes()), attribute(IFLA_LINKINFO, &info)].concat();
        let found = link(IFF_UP, &attributes);
        assert!(found.vlan.is_none() && found.up && !found.running);
    }
}
