//! What is known about the ways to backends: pure bookkeeping over what netlink tells, without I/O.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::route::RouteType;

use super::netlink::{Interface, Neighbour, Route, Vlan};
use super::writer::{Mac, NextHop};

/// Time after the first request for a neighbour's address until the next; doubles with each one.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Longest time between two requests.
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Requests after which a neighbour counts as tried: what does not answer by then will not soon.
const TRIED: u32 = 4;

/// The next IP hop: an address on an interface's link.
pub(super) type HopKey = (u32, IpAddr);

/// A next IP hop.
#[derive(Debug, Default)]
struct Hop {
    /// The last link-layer address that was valid.
    mac: Option<[u8; 6]>,
    /// Whether the kernel holds it for valid.
    valid: bool,
    /// Whether somebody fixed it.
    permanent: bool,
    /// Requests since it was last valid.
    tries: u32,
    /// When the next request is due.
    due: Option<Instant>,
}

/// The way to a backend, as far as it is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Complete.
    Known(NextHop),
    /// Not, and why.
    Unknown(String),
}

/// Interfaces, neighbours, and the route of each backend.
#[derive(Debug, Default)]
pub(super) struct Neighbourhood {
    interfaces: HashMap<u32, Interface>,
    hops: HashMap<HopKey, Hop>,
    routes: Vec<Option<Result<Route, String>>>,
    backends: Vec<IpAddr>,
}

impl Neighbourhood {
    pub(super) fn new(backends: Vec<IpAddr>) -> Self {
        Self { routes: vec![None; backends.len()], backends, ..Self::default() }
    }

    /// A backend's address.
    pub(super) fn address(&self, backend: usize) -> IpAddr {
        self.backends[backend]
    }

    /// Takes note of an interface; tells whether anything about it changed that matters.
    pub(super) fn interface(&mut self, interface: Interface) -> bool {
        let index = interface.index;
        let old = self.interfaces.insert(index, interface);
        let new = &self.interfaces[&index];
        old.is_none_or(|old| (old.mac, old.mtu, old.up) != (new.mac, new.mtu, new.up) || old.name != new.name)
    }

    pub(super) fn interface_gone(&mut self, index: u32) {
        self.interfaces.remove(&index);
        self.hops.retain(|(ifindex, _), _| *ifindex != index);
    }

    /// Replaces all interfaces by what is there now.
    pub(super) fn interfaces(&mut self, interfaces: Vec<Interface>) {
        self.interfaces = interfaces.into_iter().map(|interface| (interface.index, interface)).collect();
        let known = &self.interfaces;
        self.hops.retain(|(ifindex, _), _| known.contains_key(ifindex));
    }

    /// Takes note of a neighbour; tells whether some backend's way may have changed.
    pub(super) fn neighbour(&mut self, neighbour: &Neighbour, now: Instant) -> bool {
        let Some(hop) = self.hops.get_mut(&(neighbour.ifindex, neighbour.address)) else {
            return false;
        };
        let before = (hop.mac, hop.valid);
        match (is_valid(neighbour.state), neighbour.mac) {
            (true, Some(mac)) => {
                let permanent = matches!(neighbour.state, NeighbourState::Permanent | NeighbourState::Noarp);
                *hop = Hop { mac: Some(mac), valid: true, permanent, tries: 0, due: None };
            }
            _ => hop.lost(now),
        }
        before != (hop.mac, hop.valid)
    }

    /// Takes note that a neighbour entry is gone. Its last address goes on being used.
    pub(super) fn neighbour_gone(&mut self, neighbour: &Neighbour, now: Instant) {
        if let Some(hop) = self.hops.get_mut(&(neighbour.ifindex, neighbour.address)) {
            hop.lost(now);
        }
    }

    /// Takes note of the route to a backend.
    pub(super) fn route(&mut self, backend: usize, route: Result<Route, String>, now: Instant) {
        if let Ok(route) = &route
            && route.kind == RouteType::Unicast
        {
            let key = (route.ifindex, route.gateway.unwrap_or(self.backends[backend]));
            self.hops.entry(key).or_insert_with(|| Hop { due: Some(now), ..Hop::default() });
        }
        self.routes[backend] = Some(route);
    }

    /// Forgets hops that no route uses any more.
    pub(super) fn forget_unused(&mut self) {
        let used: std::collections::HashSet<_> =
            (0..self.backends.len()).filter_map(|b| self.key(b)).collect();
        self.hops.retain(|key, _| used.contains(key));
    }

    /// The next IP hop of a backend.
    pub(super) fn key(&self, backend: usize) -> Option<HopKey> {
        let route = self.routes[backend].as_ref()?.as_ref().ok()?;
        (route.kind == RouteType::Unicast)
            .then(|| (route.ifindex, route.gateway.unwrap_or(self.backends[backend])))
    }

    /// Whether an interface is there and switched on.
    pub(super) fn is_up(&self, ifindex: u32) -> bool {
        self.interfaces.get(&ifindex).is_some_and(|interface| interface.up)
    }

    /// Whether an interface is there, switched on, and has a carrier.
    pub(super) fn is_running(&self, ifindex: u32) -> bool {
        self.interfaces.get(&ifindex).is_some_and(|interface| interface.running)
    }

    /// An interface's name.
    pub(super) fn name(&self, ifindex: u32) -> String {
        self.interfaces.get(&ifindex).map_or_else(|| format!("interface {ifindex}"), |i| i.name.clone())
    }

    /// The way to a backend.
    pub(super) fn way(&self, backend: usize) -> Way {
        let address = self.backends[backend];
        let route = match &self.routes[backend] {
            None => return Way::Unknown("not looked up yet".to_owned()),
            Some(Err(error)) => return Way::Unknown(format!("no route to {address}: {error}")),
            Some(Ok(route)) => route,
        };
        match route.kind {
            RouteType::Unicast => {}
            RouteType::Local => return Way::Unknown(format!("{address} is an address of this host")),
            other => return Way::Unknown(format!("the route to {address} is of type {other:?}")),
        }
        let name = self.name(route.ifindex);
        let Some(interface) = self.interfaces.get(&route.ifindex).filter(|interface| interface.up) else {
            return Way::Unknown(format!("{name} is down"));
        };
        let Some(source) = interface.mac else {
            return Way::Unknown(format!("{name} has no Ethernet address"));
        };
        let next = route.gateway.unwrap_or(address);
        let Some(destination) = self.hops.get(&(route.ifindex, next)).and_then(|hop| hop.mac) else {
            return Way::Unknown(format!("neighbour {next} on {name} does not answer"));
        };
        let mtu = route.mtu.filter(|&mtu| mtu != 0).map_or(interface.mtu, |mtu| mtu.min(interface.mtu));
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        let on_link = route.gateway.is_none();
        let hop = NextHop { ifindex: route.ifindex, destination, source, mtu, on_link, vlan: None };
        match interface.vlan {
            None => Way::Known(hop),
            Some(vlan) => self.behind_vlan(hop, vlan, &name),
        }
    }

    /// The way by an interface that is a VLAN of another one: programs send by the other one, with the tag.
    fn behind_vlan(&self, hop: NextHop, vlan: Vlan, name: &str) -> Way {
        let parent_name = self.name(vlan.parent);
        let Some(parent) = self.interfaces.get(&vlan.parent).filter(|parent| parent.up) else {
            return Way::Unknown(format!("{parent_name}, whose VLAN {name} is, is down"));
        };
        if !vlan.is_customer {
            return Way::Unknown(format!("{name} has tags of IEEE 802.1ad; Weir sends those of 802.1Q only"));
        }
        if parent.vlan.is_some() {
            return Way::Unknown(format!("{name} is a VLAN inside a VLAN; Weir sends one tag only"));
        }
        Way::Known(NextHop { ifindex: vlan.parent, vlan: Some(vlan.id), ..hop })
    }

    /// Whether the neighbour on the way to a backend is no longer known to be there.
    pub(super) fn is_doubtful(&self, backend: usize) -> bool {
        self.key(backend).and_then(|key| self.hops.get(&key)).is_some_and(|hop| !hop.valid)
    }

    /// Neighbours whose address is to be asked for now. Their next turn is set.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<HopKey> {
        let mut ask = Vec::new();
        for (key, hop) in &mut self.hops {
            if hop.due.is_some_and(|due| due <= now) {
                hop.tries = hop.tries.saturating_add(1);
                let wait = FIRST_RETRY.saturating_mul(1 << hop.tries.min(16)).min(LAST_RETRY);
                hop.due = Some(now + wait);
                ask.push(*key);
            }
        }
        ask
    }

    /// Neighbours whose address is valid: asking for it again keeps it so, as no packet that the kernel sees does.
    pub(super) fn confirmable(&self) -> Vec<HopKey> {
        self.hops.iter().filter(|(_, hop)| hop.valid && !hop.permanent).map(|(key, _)| *key).collect()
    }

    /// When the next neighbour is to be asked for.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.hops.values().filter_map(|hop| hop.due).min()
    }

    /// Whether all that is found out about a backend at once has been found out.
    pub(super) fn is_settled(&self, backend: usize) -> bool {
        match self.key(backend).and_then(|key| self.hops.get(&key)) {
            Some(hop) => hop.valid || hop.tries >= TRIED,
            None => self.routes[backend].is_some(),
        }
    }
}

impl Hop {
    /// The neighbour is no longer valid: keep its address, and ask.
    fn lost(&mut self, now: Instant) {
        self.valid = false;
        self.permanent = false;
        if self.due.is_none() {
            self.due = Some(now);
        }
    }
}

const fn is_valid(state: NeighbourState) -> bool {
    matches!(
        state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    )
}

/// A next hop in words, for status.
pub(super) fn describe(hop: &NextHop, name: &str) -> String {
    format!("{} on {name}", Mac(hop.destination))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn address() -> IpAddr {
        IpAddr::from([10, 0, 0, 2])
    }

    fn interface(up: bool) -> Interface {
        Interface {
            index: 3,
            name: "e0".into(),
            mac: Some([2, 0, 0, 0, 0, 9]),
            mtu: 1600,
            up,
            running: up,
            vlan: None,
            xdp: None,
        }
    }

    fn neighbour(state: NeighbourState, mac: Option<[u8; 6]>) -> Neighbour {
        Neighbour { ifindex: 3, address: address(), mac, state }
    }

    fn known(now: Instant) -> Neighbourhood {
        let mut n = Neighbourhood::new(vec![address()]);
        assert!(n.interface(interface(true)));
        n.route(0, Ok(Route { kind: RouteType::Unicast, ifindex: 3, gateway: None, mtu: None }), now);
        assert!(n.neighbour(&neighbour(NeighbourState::Reachable, Some(MAC)), now));
        n
    }

    #[test]
    fn a_failing_neighbour_keeps_its_address_and_is_asked_for_ever_more_slowly() {
        let now = Instant::now();
        let mut n = known(now);
        let way = n.way(0);
        assert!(matches!(way, Way::Known(hop) if hop.destination == MAC && hop.mtu == 1600));
        for state in [NeighbourState::Stale, NeighbourState::Delay, NeighbourState::Probe] {
            assert!(!n.neighbour(&neighbour(state, Some(MAC)), now), "{state}");
        }
        n.neighbour(&neighbour(NeighbourState::Failed, None), now);
        assert_eq!(n.way(0), way, "held");
        assert!(n.is_doubtful(0));
        assert_eq!(n.take_due(now), [(3, address())]);
        assert!(n.take_due(now).is_empty(), "not twice at once");
        let mut at = now;
        for _ in 0..20 {
            let due = n.next_due().unwrap();
            assert!(due > at && due - at <= LAST_RETRY);
            at = due;
            assert_eq!(n.take_due(at).len(), 1);
        }
        assert!(n.is_settled(0), "tried often enough");
        n.neighbour(&neighbour(NeighbourState::Reachable, Some(MAC)), at);
        assert_eq!(n.next_due(), None);
        assert!(!n.is_doubtful(0));
    }

    #[test]
    fn an_interface_that_is_down_or_gone_ends_the_way() {
        let now = Instant::now();
        let mut n = known(now);
        assert!(n.interface(interface(false)));
        assert!(matches!(n.way(0), Way::Unknown(_)));
        assert!(n.interface(interface(true)));
        assert!(!n.interface(interface(true)), "nothing changed");
        assert!(matches!(n.way(0), Way::Known(_)));
        n.interface_gone(3);
        assert!(matches!(n.way(0), Way::Unknown(_)));
    }

    #[test]
    fn behind_a_vlan_the_parent_sends_with_the_tag() {
        let now = Instant::now();
        let mut n = known(now);
        let vlan = Vlan { parent: 2, id: 100, is_customer: true };
        let own = Interface { vlan: Some(vlan), ..interface(true) };
        let parent = Interface { index: 2, name: "p0".into(), ..interface(true) };
        n.interface(own.clone());
        let reason = |n: &Neighbourhood| match n.way(0) {
            Way::Unknown(reason) => reason,
            Way::Known(hop) => panic!("{hop:?}"),
        };
        assert!(reason(&n).contains("is down"), "no parent");
        n.interface(parent.clone());
        let Way::Known(hop) = n.way(0) else { panic!("{:?}", n.way(0)) };
        assert_eq!((hop.ifindex, hop.vlan, hop.destination, hop.on_link), (2, Some(100), MAC, true));
        n.interface(Interface { up: false, ..parent.clone() });
        assert!(reason(&n).contains("p0, whose VLAN e0 is, is down"));
        n.interface(Interface { vlan: Some(Vlan { parent: 1, ..vlan }), ..parent.clone() });
        assert!(reason(&n).contains("inside a VLAN"));
        n.interface(parent);
        n.interface(Interface { vlan: Some(Vlan { is_customer: false, ..vlan }), ..own });
        assert!(reason(&n).contains("802.1ad"));
    }

    #[test]
    fn through_a_gateway_a_backend_is_not_on_the_link() {
        let now = Instant::now();
        let mut n = known(now);
        let gateway = IpAddr::from([10, 0, 0, 1]);
        n.route(
            0,
            Ok(Route { kind: RouteType::Unicast, ifindex: 3, gateway: Some(gateway), mtu: None }),
            now,
        );
        let state = NeighbourState::Reachable;
        n.neighbour(&Neighbour { ifindex: 3, address: gateway, mac: Some(MAC), state }, now);
        assert!(matches!(n.way(0), Way::Known(hop) if !hop.on_link && hop.vlan.is_none()));
    }

    #[test]
    fn the_smaller_of_route_and_interface_mtu_counts() {
        let now = Instant::now();
        let mut n = known(now);
        n.route(0, Ok(Route { kind: RouteType::Unicast, ifindex: 3, gateway: None, mtu: Some(1400) }), now);
        assert!(matches!(n.way(0), Way::Known(hop) if hop.mtu == 1400));
    }
}
