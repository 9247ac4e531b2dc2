//! Tells a flat network where VIPs are now: gratuitous ARP (RFC 5227, section 2.3) and unsolicited neighbour advertisements
//! (RFC 4861, section 7.2.6), on every interface on which packets for the services arrive.
//!
//! Sent when the program has been put in place, at the first start as at every takeover, and whenever such an interface gets its
//! carrier back. What is asked in between, the program answers itself.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::netlink::{Interface, Netlink};
use crate::config::{Config, Reach};

const BROADCAST: [u8; 6] = [0xff; 6];
/// Ethernet address of all IPv6 nodes (RFC 2464, section 7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;

/// Announces the VIPs of services with `reach = "arp"`.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    /// Ascending.
    vips: Vec<IpAddr>,
    /// Names of the interfaces.
    interfaces: Vec<String>,
    /// Whether packets for the VIPs are served: nothing is announced before.
    active: AtomicBool,
}

impl Announcer {
    /// An announcer for a configuration, not yet active.
    #[must_use]
    pub(super) fn new(config: &Config) -> Self {
        let arp = config.services.iter().filter(|service| service.reach == Reach::Arp);
        let mut vips: Vec<IpAddr> = arp
            .filter(|service| service.vip.prefix().is_none())
            .map(|service| service.vip.address())
            .collect();
        vips.sort_unstable();
        vips.dedup();
        Self { vips, interfaces: config.node.interfaces.clone(), active: AtomicBool::new(false) }
    }

    /// Announces all VIPs now, and from now on on every interface that comes up.
    pub(super) fn activate(&self) {
        self.active.store(true, Ordering::Relaxed);
        if self.vips.is_empty() {
            return;
        }
        match Netlink::new().and_then(|mut netlink| netlink.interfaces()) {
            Ok(all) => all.iter().filter(|interface| interface.up).for_each(|interface| self.on(interface)),
            Err(error) => tracing::warn!(%error, "VIPs are not announced: no list of interfaces"),
        }
    }

    /// Announces all VIPs on an interface, if it is one of those on which they are served.
    pub(super) fn on(&self, interface: &Interface) {
        let wanted = self.active.load(Ordering::Relaxed) && self.interfaces.contains(&interface.name);
        let (true, false, Some(mac)) = (wanted, self.vips.is_empty(), interface.mac) else {
            return;
        };
        let sent = Sender::new().and_then(|sender| {
            self.vips.iter().try_for_each(|vip| sender.send(interface.index, &announcement(*vip, mac)))
        });
        match sent {
            Ok(()) => {
                tracing::info!(
                    interface = interface.name,
                    vips = self.vips.len(),
                    "announced VIPs to the link"
                );
            }
            Err(error) => {
                tracing::warn!(interface = interface.name, %error, "VIPs could not be announced to the link");
            }
        }
    }
}

/// The frame that says that `vip` is at `mac`.
fn announcement(vip: IpAddr, mac: [u8; 6]) -> Vec<u8> {
    match vip {
        IpAddr::V4(vip) => gratuitous_arp(vip, mac),
        IpAddr::V6(vip) => unsolicited_advertisement(vip, mac),
    }
}

/// An ARP request whose sender and target are the VIP.
fn gratuitous_arp(vip: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    let mut frame = [BROADCAST, mac].concat();
    frame.extend(ETHERTYPE_ARP);
    // Ethernet, IPv4, lengths 6 and 4, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(vip.octets());
    frame.extend([0; 6]);
    frame.extend(vip.octets());
    frame
}

/// A neighbour advertisement to all nodes that overrides what they know.
fn unsolicited_advertisement(vip: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    // Type, code, checksum; the override flag; target; option "target link-layer address" of one unit.
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(vip.octets());
    message.extend([2, 1]);
    message.extend(mac);
    let length = message.len() as u8;
    let pseudo = [&vip.octets()[..], &ALL_NODES.octets()[..], &[0, 0, 0, length, 0, 0, 0, ICMPV6]].concat();
    let sum = internet_checksum(&[pseudo, message.clone()].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = [ALL_NODES_MAC, mac].concat();
    frame.extend(ETHERTYPE_IPV6);
    // Only what comes with the highest hop limit is from the link.
    frame.extend([0x60, 0, 0, 0, 0, length, ICMPV6, 255]);
    frame.extend(vip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A packet(7) socket that receives nothing.
struct Sender(OwnedFd);

impl Sender {
    fn new() -> io::Result<Self> {
        // SAFETY: socket(2) takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: all fields of the structure are integers and arrays of such, for which zero is a value.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = ifindex as i32;
        to.sll_halen = 6;
        to.sll_addr[..6].copy_from_slice(&frame[..6]);
        let size = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: both pointers are to live memory of the lengths that are given with them, and are only read.
        let sent = unsafe {
            let to = std::ptr::from_ref(&to).cast();
            libc::sendto(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, to, size)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    #[test]
    fn a_gratuitous_arp_names_the_vip_twice() {
        let frame = announcement(IpAddr::from([192, 0, 2, 10]), MAC);
        assert_eq!(frame.len(), 42);
        assert_eq!((&frame[..6], &frame[6..12]), (&BROADCAST[..], &MAC[..]));
        assert_eq!(frame[28..32], frame[38..42]);
        assert_eq!(frame[20..22], [0, 1], "a request");
    }

    #[test]
    fn an_unsolicited_advertisement_has_a_right_checksum() {
        let vip: Ipv6Addr = "2001:db8::10".parse().unwrap();
        let frame = announcement(IpAddr::V6(vip), MAC);
        assert_eq!(frame.len(), 14 + 40 + 32);
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
        assert_eq!(internet_checksum(&[&pseudo, &frame[54..]].concat()), 0);
        assert_eq!((frame[54], frame[58], frame[21]), (136, 0x20, 255));
    }
}
