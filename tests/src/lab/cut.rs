//! Faults of links: an exact cut by programs on the rack's ports, and the real thing by taking its bridge down.
use super::{netns::Netns, topology::Rack};
use crate::clock::monotonic_ns;
use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, MapData},
    programs::{
        Program, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, LinkOrder},
        tc::TcAttachOptions,
    },
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

static LAB_OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("WEIR_BPF_DIR"), "/lab"));

/// How a link is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Every frame from and to the backends of a rack is dropped from one instant on; nobody is told.
    Drop,
    /// `ip link set <rack> down` at the router: takes milliseconds, and the router answers "unreachable".
    Link,
}

/// When a fault was made: between these two, in nanoseconds of CLOCK_MONOTONIC. They are microseconds apart for
/// [`Cut::Drop`], and milliseconds for [`Cut::Link`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultTime {
    /// Not yet there.
    pub begin_ns: u64,
    /// There.
    pub end_ns: u64,
}

/// Tunnelled packets that were sent towards a rack, counted at the last port before its backends, cut or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelTraffic {
    /// CLOCK_MONOTONIC of the last one, in nanoseconds; 0 if there was none.
    pub last_ns: u64,
    /// How many since the lab was raised.
    pub packets: u64,
}

/// The programs on the router's ports of one lab. Dropping it detaches them.
pub(crate) struct Cutters {
    router: Netns,
    _pass_links: Vec<FdLink>,
    racks: BTreeMap<String, Mutex<Cutter>>,
}

/// The programs on the ports of one rack.
struct Cutter {
    bridge: String,
    cut: Array<MapData, u32>,
    towards: Array<MapData, [u64; 2]>,
    /// Of the XDP program; those of the classifier belong to `_programs`.
    _links: Vec<FdLink>,
    _programs: Ebpf,
}

impl Cutters {
    /// Attaches a cutter to the ports of each rack, and a program that only passes to `other_ports`.
    pub(crate) fn attach(
        router: &Netns,
        racks: &[(Rack, Vec<String>)],
        other_ports: &[String],
    ) -> Result<Self> {
        router.run(|| {
            let mut pass = load()?;
            let pass_links = attach_xdp(&mut pass, "weir_pass", other_ports)?;
            let racks = (racks.iter())
                .map(|(rack, ports)| Ok((rack.path.clone(), Mutex::new(Cutter::attach(rack, ports)?))))
                .collect::<Result<_>>()?;
            Ok(Cutters { router: router.clone(), _pass_links: pass_links, racks })
        })
    }

    /// Cuts these racks.
    pub(crate) fn cut(&self, racks: &[&Rack], cut: Cut) -> Result<FaultTime> {
        let begin_ns = monotonic_ns();
        match cut {
            Cut::Drop => racks.iter().try_for_each(|rack| self.set(rack, 1))?,
            Cut::Link => self.set_links(racks, "down")?,
        }
        Ok(FaultTime { begin_ns, end_ns: monotonic_ns() })
    }

    /// Undoes whichever cut there is.
    pub(crate) fn restore(&self, racks: &[&Rack]) -> Result<FaultTime> {
        let begin_ns = monotonic_ns();
        self.set_links(racks, "up")?;
        racks.iter().try_for_each(|rack| self.set(rack, 0))?;
        Ok(FaultTime { begin_ns, end_ns: monotonic_ns() })
    }

    pub(crate) fn tunnel_traffic(&self, racks: &[&Rack]) -> Result<TunnelTraffic> {
        let mut total = TunnelTraffic::default();
        for rack in racks {
            for element in self.cutter(rack).towards.iter() {
                let [last_ns, packets] = element?;
                total.last_ns = total.last_ns.max(last_ns);
                total.packets += packets;
            }
        }
        Ok(total)
    }

    fn set(&self, rack: &Rack, flag: u32) -> Result<()> {
        self.cutter(rack).cut.set(0, flag, 0).with_context(|| format!("cannot set the cut of {}", rack.path))
    }

    fn set_links(&self, racks: &[&Rack], state: &str) -> Result<()> {
        let command = |rack: &&Rack| format!("link set {} {state}", self.cutter(rack).bridge);
        self.router.ip(&racks.iter().map(command).collect::<Vec<_>>())
    }

    fn cutter(&self, rack: &Rack) -> MutexGuard<'_, Cutter> {
        self.racks[&rack.path].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cutter {
    fn attach(rack: &Rack, ports: &[String]) -> Result<Self> {
        let mut programs = load()?;
        let links = attach_xdp(&mut programs, "weir_cut", ports)?;
        let out: &mut SchedClassifier = program(&mut programs, "weir_cut_out")?;
        out.load()?;
        for port in ports {
            out.attach_with_options(
                port,
                TcAttachType::Egress,
                TcAttachOptions::TcxOrder(LinkOrder::default()),
            )
            .with_context(|| format!("cannot attach weir_cut_out to {port}"))?;
        }
        let mut map =
            |name| programs.take_map(name).with_context(|| format!("the lab object has no map {name}"));
        let (cut, towards) = (map("CUT")?.try_into()?, map("TOWARDS")?.try_into()?);
        Ok(Cutter { bridge: rack.bridge.clone(), cut, towards, _links: links, _programs: programs })
    }
}

/// Attaches a program that answers all heartbeats, to whatever address they are, to a port of the calling thread's namespace.
pub(super) fn attach_answerer(port: &str) -> Result<Vec<FdLink>> {
    attach_xdp(&mut load()?, "weir_answer", &[port.to_owned()])
}

fn load() -> Result<Ebpf> {
    // No BTF of the kernel: nothing is relocated, and parsing it takes longer than raising a rack.
    EbpfLoader::new().btf(None).load(LAB_OBJECT).context("cannot load the lab's BPF object")
}

/// Native XDP on these interfaces of the calling thread's namespace.
fn attach_xdp(programs: &mut Ebpf, name: &str, ports: &[String]) -> Result<Vec<FdLink>> {
    let xdp: &mut Xdp = program(programs, name)?;
    xdp.load()?;
    let mut attach = |port: &String| -> Result<FdLink> {
        let id = xdp.attach(port, XdpMode::Driver)?;
        // Fails when aya fell back to netlink, whose attachment would outlive the lab's process.
        Ok(xdp.take_link(id)?.try_into()?)
    };
    ports.iter().map(|port| attach(port).with_context(|| format!("cannot attach {name} to {port}"))).collect()
}

fn program<'a, P>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    match programs.program_mut(name) {
        Some(program) => Ok(program.try_into()?),
        None => bail!("the lab object has no program {name}"),
    }
}
