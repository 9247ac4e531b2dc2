//! Golden packets: what comes in, what must come out, byte for byte, from the XDP program in the kernel and from the
//! same decisions in this process.

pub mod agent;
pub mod cases;
mod forget;
pub mod judge;
pub mod kernel;
pub mod numbers;
pub mod packets;

use anyhow::{Context, Result};
use lb_common::{
    abi::{admission::Admission, backend::BACKEND_TAGGED, flow::FlowWords, reason::Reason},
    datapath::{flow::FlowTable, hash::flow_hash, parse::Tuple},
};
use lb_maglev::SLOT_MARK;
use lb_userspace::{
    config::Config,
    plan::{
        compile::compile,
        image::{Image, ImageTables},
    },
};

/// The configuration that the golden packets are run against.
pub const FIXTURE: &str = include_str!("fixture.toml");
/// Interface on which frames arrive in a test run: the loopback's index.
pub const INGRESS: u32 = 1;
/// Ethernet address of that interface.
pub const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Where the next hop is.
pub const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// The egress interface's address.
pub const EGRESS: [u8; 6] = [2, 0, 0, 0, 1, 2];
/// MTU of the way to every backend.
pub const MTU: u16 = 1500;

/// Return values of an XDP program.
pub mod action {
    /// `XDP_DROP`.
    pub const DROP: u32 = 1;
    /// `XDP_PASS`.
    pub const PASS: u32 = 2;
    /// `XDP_TX`.
    pub const TX: u32 = 3;
    /// `XDP_REDIRECT`.
    pub const REDIRECT: u32 = 4;
}

/// What must become of a frame.
#[derive(Clone, Debug)]
pub enum Expected {
    /// Passed as it came.
    Pass(Reason),
    /// Dropped.
    Drop(Reason),
    /// Sent back out, as these bytes, as an answer.
    Answer(Vec<u8>),
    /// Sent back out, as these bytes, as the answer of a neighbour.
    Neighbour(Vec<u8>),
    /// Sent back out, as these bytes, as an answer that has its own reason.
    AnswerFor(Reason, Vec<u8>),
    /// Sent back out, as these bytes, to a backend.
    Tx(Vec<u8>),
    /// Sent out of another interface, as these bytes.
    Redirect(Vec<u8>),
}

/// Something changed in the data plane before a frame is run.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// A backend's admission word.
    Backend(&'static str, Admission),
    /// A domain's admission word.
    Domain(&'static str, Admission),
    /// Anything else in the image.
    Image(fn(&mut Image)),
    /// Interface of a backend's next hop; 0 for none.
    Egress(&'static str, u32),
    /// MTU of the way to a backend.
    Mtu(&'static str, u16),
    /// Answers a second that are given at most.
    Answers(u32),
    /// A backend's flags.
    Flags(&'static str, u32),
    /// The VLAN behind which a backend is.
    Vlan(&'static str, u16),
    /// More flags of a service.
    ServiceFlags(&'static str, u32),
    /// Every slot of a pool's table, `service/pool`, is marked.
    Marked(&'static str),
    /// A service is in transition: before, its flows were at home in this pool, `service/pool`.
    Before(&'static str, &'static str),
    /// One of the tables of flows says that a flow lives at a backend.
    Known(FlowTable, FlowWords, &'static str),
}

/// A flow that stands in one of the tables of flows before a packet comes: the table, the flow, and the backend's index.
pub type KnownFlow = (FlowTable, FlowWords, u32);

/// The flows that a case's changes put into the tables of flows.
///
/// # Errors
/// If the image has no such backend.
pub fn known_flows(image: &Image, changes: &[Change]) -> Result<Vec<KnownFlow>> {
    let known = changes.iter().filter_map(|change| match *change {
        Change::Known(table, flow, backend) => Some((table, flow, backend)),
        _ => None,
    });
    known
        .map(|(table, flow, backend)| {
            let index = image.names.backends.iter().position(|name| name == backend);
            Ok((table, flow, index.with_context(|| format!("no {backend} in the fixture"))? as u32))
        })
        .collect()
}

/// The hash of a flow.
#[must_use]
pub fn hash_of(image: &Image, flow: &FlowWords) -> u64 {
    flow_hash(&image.root.hash_key, &Tuple::of(flow))
}

/// One golden packet.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is shown.
    pub name: &'static str,
    /// What is not as in the fixture.
    pub changes: Vec<Change>,
    /// Frames that arrive before it, whatever becomes of them.
    pub before: Vec<Vec<u8>>,
    /// The frame as it arrives.
    pub input: Vec<u8>,
    /// What must become of it.
    pub expected: Expected,
}

/// The fixture's image, with next hops.
///
/// # Errors
/// If the fixture is not a valid configuration.
pub fn fixture() -> Result<Image> {
    image(FIXTURE)
}

/// The image of a configuration, with next hops.
///
/// # Errors
/// If `text` is not a valid configuration.
pub fn image(text: &str) -> Result<Image> {
    let config = Config::parse(text, "fixture.toml")?;
    Ok(with_next_hops(compile(&config)?))
}

/// An image with the next hops of the golden packets.
pub fn with_next_hops(image: Image) -> Image {
    let mut tables = ImageTables::new(image);
    tables.set_next_hops(INGRESS, NEXT_HOP, EGRESS, MTU);
    Image { interfaces: vec![(INGRESS, OWN)], ..tables.image().clone() }
}

impl Expected {
    /// The frame that must come out, where one must.
    #[must_use]
    pub fn frame(&self) -> Option<&[u8]> {
        match self {
            Self::Answer(frame) | Self::Tx(frame) | Self::Redirect(frame) => Some(frame),
            _ => None,
        }
    }
}

impl Change {
    /// Makes the change in an image.
    ///
    /// # Errors
    /// If the image has no such backend or domain.
    pub fn apply(&self, image: &mut Image) -> Result<()> {
        let find = |names: &[String], name: &str| {
            names.iter().position(|n| n == name).with_context(|| format!("no {name} in the fixture"))
        };
        match *self {
            Self::Backend(name, word) => {
                let index = find(&image.names.backends, name)?;
                image.backends[index].admission = word;
            }
            Self::Domain(path, word) => {
                let index = find(&image.names.domains, path)?;
                image.admission[index] = word;
            }
            Self::Image(change) => change(image),
            Self::Egress(name, ifindex) => {
                let index = find(&image.names.backends, name)?;
                image.backends[index].ifindex = ifindex;
            }
            Self::ServiceFlags(name, flags) => {
                let index = find(&image.names.services, name)?;
                image.services[index].flags |= flags;
            }
            Self::Marked(pool) => {
                let pool = image.pools[find(&image.names.pools, pool)?];
                let (base, slots) = (pool.table_base as usize, pool.table_slots as usize);
                image.slots[base..base + slots].iter_mut().for_each(|slot| *slot |= SLOT_MARK);
            }
            Self::Before(service, pool) => {
                let index = find(&image.names.services, service)?;
                image.previous = vec![image.pools[find(&image.names.pools, pool)?]];
                (image.services[index].previous_base, image.services[index].previous_plans) = (1, 1);
            }
            Self::Known(..) => {}
            Self::Flags(name, flags) => {
                let index = find(&image.names.backends, name)?;
                image.backends[index].flags = flags;
            }
            Self::Vlan(name, vlan) => {
                let index = find(&image.names.backends, name)?;
                image.backends[index].flags |= BACKEND_TAGGED;
                image.backends[index].vlan = vlan.to_be_bytes();
            }
            Self::Mtu(name, mtu) => {
                let index = find(&image.names.backends, name)?;
                image.backends[index].mtu = mtu;
            }
            Self::Answers(rate) => image.root.answers_per_second = rate,
        }
        Ok(())
    }
}
