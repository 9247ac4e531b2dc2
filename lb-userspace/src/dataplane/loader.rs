//! Puts an image into the kernel: from nothing, by adopting what runs, or by replacing it, always without a gap in forwarding.
//!
//! Every configuration has its own *generation*: maps that are filled before a program sees them, and a program over them. When
//! the running generation was built from the same configuration (equal digests), it is adopted as it is: admission words, next
//! hops, flows and counters are untouched, and the program is replaced only if this binary carries another one. Otherwise
//! the new generation is built beside it, as its successor (see [`transition`]), and each interface's link is switched
//! over by one atomic update. What lives longer than a configuration is handed on: the tables of flows with their filter, and
//! the counters.
//!
//! What cannot be handed on as it is, because its size is another one, is copied before the switch, and once more, what is new,
//! after it. In the moments between, packets of a flow that entered the old table after the first copy are placed as if it
//! were not known: at home, or where home was before.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{Array, MapData, MapError, ProgramArray};
use aya::programs::{ProgramInfo, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::limits::{MAX_CPUS, flow_filter_bytes};
use lb_common::abi::next::{NEXT_ARRIVE, NEXT_RELAY};
use lb_common::abi::root::FEATURE_RELAY;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::counters::CounterReader;
use super::error::DataPlaneError;
use super::generation::{FLOWS, Generation, NEXT, OPENINGS, map_names, map_sizes};
use super::guard::GuardPort;
use super::handover;
use super::links;
use super::live::LiveTables;
use super::netlink::Interface;
use super::object::{ARRIVE_PROGRAM, EDGE, EDGE_PROGRAM, RELAY_PROGRAM};
use super::pins::{PROGRAM, PROGRAM_NEXT, Pins, remove_folder};
use super::sys;
use super::upkeep::Upkeep;
use super::watch::Watch;
use super::writer::{AdmissionWriter, NextHopWriter};
use crate::config::{Config, XdpMode};
use crate::plan::ids::Ids;
use crate::plan::image::Image;
use crate::plan::transition::{self, Report, Unneeded};

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Time after which no packet is in a program any more that was replaced. A packet takes microseconds; an interrupt may hold one
/// up.
const LAST_PACKETS: Duration = Duration::from_millis(2);

/// Where and how to install.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the pins, on a BPF file system.
    pub bpffs: PathBuf,
    /// Names of the interfaces.
    pub interfaces: Vec<String>,
    /// How to attach to them.
    pub mode: XdpMode,
    /// Flows away from home that are remembered.
    pub flow_entries: u32,
    /// Flows that opened away from home and of which no later packet was seen.
    pub opening_entries: u32,
}

impl Options {
    /// What a configuration says.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        // That they cannot be counted is told when the maps are made.
        let (flow_entries, opening_entries) = config.node.entries(possible_cpus().unwrap_or(1));
        Self {
            bpffs: config.node.bpffs.clone(),
            interfaces: config.node.interfaces.clone(),
            mode: config.node.mode,
            flow_entries,
            opening_entries,
        }
    }
}

/// What installing found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// Nothing ran.
    Fresh,
    /// The same configuration ran.
    Adopted {
        /// Whether its program was replaced by this binary's.
        program_replaced: bool,
    },
    /// Another configuration ran, and flows go on.
    Replaced,
    /// Another version ran, whose maps this one cannot read: its links are taken over, its flows away from home are not.
    TakenOver {
        /// The version of its binary interface.
        version: u32,
    },
}

/// The data plane in place. Dropping it changes nothing: programs and maps stay, held by their pins.
#[derive(Debug)]
pub struct DataPlane {
    generation: Arc<Generation>,
    ids: Arc<Ids>,
    start: Start,
    report: Report,
    program_id: u32,
    /// Holds the lock on the pins.
    pins: Arc<Pins>,
}

/// A data plane that is ready, and, unless it was running already, not yet in place: states and next hops can be written
/// before the first packet meets it.
///
/// Dropping it without [`put_in_place`](Self::put_in_place) leaves what ran before as it was; the next start clears away
/// what was pinned for it.
#[derive(Debug)]
pub struct Prepared {
    generation: Arc<Generation>,
    ids: Arc<Ids>,
    start: Start,
    report: Report,
    /// What runs until this is in place, if its maps can be read.
    before: Option<Arc<Generation>>,
    pins: Arc<Pins>,
    interfaces: Vec<Interface>,
    mode: XdpMode,
    program_id: u32,
    /// The program that is to be attached; none if it is already.
    program: Option<Program>,
}

impl DataPlane {
    /// Prepares an image and puts it in place at once. On an error what ran before goes on running.
    ///
    /// # Errors
    /// As for [`Prepared::new`] and [`Prepared::put_in_place`].
    pub fn install(image: &Image, options: &Options) -> Result<Self, DataPlaneError> {
        Prepared::new(image, options)?.put_in_place()
    }

    /// Prepares an image to follow this one, whether or not it is of the same configuration. Nothing changes until it is
    /// [put in place](Prepared::put_in_place). `unneeded` says what of it no flow needs.
    ///
    /// # Errors
    /// Why it cannot be done; this goes on running.
    pub fn succeed(
        &self,
        image: &Image,
        options: &Options,
        unneeded: &Unneeded,
    ) -> Result<Prepared, DataPlaneError> {
        let interfaces = links::find_interfaces(&options.interfaces)?;
        links::refuse_busy(&self.pins, &interfaces)?;
        // What an attempt that failed left.
        remove_folder(&self.pins.next())?;
        let target = Target { pins: &self.pins, interfaces: &interfaces, mode: options.mode };
        let built = build(&target, image, options, Some((&self.generation, unneeded)))?;
        let Built { generation, ids, report, program } = built;
        Ok(Prepared {
            generation: Arc::new(generation),
            ids: Arc::new(ids),
            start: Start::Replaced,
            report,
            before: Some(Arc::clone(&self.generation)),
            pins: Arc::clone(&self.pins),
            interfaces,
            mode: options.mode,
            program_id: program.id,
            program: Some(program),
        })
    }

    /// What installing found.
    #[must_use]
    pub const fn start(&self) -> Start {
        self.start
    }

    /// What the transition from what ran before comes to; empty if nothing was replaced.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// Which index each backend and service has.
    #[must_use]
    pub const fn ids(&self) -> &Arc<Ids> {
        &self.ids
    }

    /// Flows away from home that are remembered at most.
    #[must_use]
    pub fn flow_capacity(&self) -> u32 {
        self.generation.entries(FLOWS).unwrap_or(0)
    }

    /// The tables of flows, marks and transitions.
    #[must_use]
    pub fn upkeep(&self) -> Upkeep {
        Upkeep::new(Arc::clone(&self.generation))
    }

    /// The kernel's number of the program that is attached.
    #[must_use]
    pub const fn program_id(&self) -> u32 {
        self.program_id
    }

    /// Writes admission words.
    #[must_use]
    pub fn admission_writer(&self) -> AdmissionWriter {
        AdmissionWriter::new(Arc::clone(&self.generation), Arc::clone(&self.ids))
    }

    /// Writes the live words of guards.
    #[must_use]
    pub fn guards(&self) -> GuardPort {
        GuardPort::new(Arc::clone(&self.generation), Arc::clone(&self.ids))
    }

    /// Writes next hops.
    #[must_use]
    pub fn next_hop_writer(&self) -> NextHopWriter {
        NextHopWriter::new(Arc::clone(&self.generation), Arc::clone(&self.ids))
    }

    /// Reads counters.
    #[must_use]
    pub fn counters(&self) -> CounterReader {
        CounterReader::new(Arc::clone(&self.generation), Arc::clone(&self.ids))
    }

    /// Puts the program that shows packets in the place of the edge's, until what is returned goes.
    ///
    /// # Errors
    /// Why it cannot be done; the edge's own program goes on then.
    pub fn watch(&self) -> Result<Watch, DataPlaneError> {
        Watch::begin(Arc::clone(&self.generation), Arc::clone(&self.pins))
    }

    /// The maps as the decision code reads them.
    #[must_use]
    pub fn live(&self) -> LiveTables {
        LiveTables::new(Arc::clone(&self.generation))
    }
}

impl Prepared {
    /// Takes over what runs if it is this image, else builds the image beside it. On an error what ran before goes on
    /// running.
    ///
    /// A new generation takes the admission words over from what ran; where nothing ran it starts with the image's. An adopted
    /// one keeps its own.
    ///
    /// # Errors
    /// Why it cannot be done, with a remedy. See [`DataPlaneError::class`].
    pub fn new(image: &Image, options: &Options) -> Result<Self, DataPlaneError> {
        let interfaces = links::find_interfaces(&options.interfaces)?;
        probe_kernel()?;
        let pins = Pins::open(&options.bpffs)?;
        pins.repair()?;
        links::refuse_busy(&pins, &interfaces)?;
        let mut running = pins.open_current()?;
        if let Some(running) = &mut running {
            running.set_interfaces(&interfaces).map_err(DataPlaneError::Load)?;
        }
        let running = running.map(Arc::new);
        let target = Target { pins: &pins, interfaces: &interfaces, mode: options.mode };
        let same = match &running {
            Some(running) => same_ids(running, image, options)?,
            None => None,
        };
        if let (Some(running), Some(ids)) = (&running, same) {
            let (start, program_id) = adopt(&target, running.root().features)?;
            running.set_interfaces(&interfaces).map_err(DataPlaneError::Load)?;
            return Ok(Self {
                generation: Arc::clone(running),
                ids: Arc::new(ids),
                start,
                report: Report::default(),
                before: None,
                pins: Arc::new(pins),
                interfaces,
                mode: options.mode,
                program_id,
                program: None,
            });
        }
        let nothing = Unneeded::default();
        let before = running.as_deref().map(|running| (running, &nothing));
        let Built { generation, ids, report, program } = build(&target, image, options, before)?;
        generation.set_interfaces(&interfaces).map_err(DataPlaneError::Load)?;
        let start = match (&running, pins.other_version()) {
            (Some(_), _) => Start::Replaced,
            (None, Some(version)) => Start::TakenOver { version },
            (None, None) => Start::Fresh,
        };
        Ok(Self {
            generation: Arc::new(generation),
            ids: Arc::new(ids),
            start,
            report,
            before: running,
            pins: Arc::new(pins),
            interfaces,
            mode: options.mode,
            program_id: program.id,
            program: Some(program),
        })
    }

    /// What the transition comes to.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// What was found.
    #[must_use]
    pub const fn start(&self) -> Start {
        self.start
    }

    /// Writes admission words.
    #[must_use]
    pub fn admission_writer(&self) -> AdmissionWriter {
        AdmissionWriter::new(Arc::clone(&self.generation), Arc::clone(&self.ids))
    }

    /// Writes the live words of guards.
    #[must_use]
    pub fn guards(&self) -> GuardPort {
        GuardPort::new(Arc::clone(&self.generation), Arc::clone(&self.ids))
    }

    /// Writes next hops.
    #[must_use]
    pub fn next_hop_writer(&self) -> NextHopWriter {
        NextHopWriter::new(Arc::clone(&self.generation), Arc::clone(&self.ids))
    }

    /// Attaches the program, or replaces the one that is attached, atomically: each packet sees either what ran before or
    /// this. Nothing happens to a data plane that was adopted.
    ///
    /// # Errors
    /// Why it cannot be attached. What ran before goes on running.
    pub fn put_in_place(self) -> Result<DataPlane, DataPlaneError> {
        let Self { generation, ids, start, report, before, pins, interfaces, mode, program_id, program } =
            self;
        if let Some(program) = program {
            if let Some(before) = &before {
                // As late as possible: what changed since the generation was filled.
                handover::keep_unclean(before, &generation);
            }
            let attached = links::ensure(&pins, (program.fd.as_fd(), program.id), &interfaces, mode);
            if let Err(error) = attached {
                // If a link runs it already, the folder must stay: the next start settles it.
                if pins.links()?.iter().all(|link| link.info.program_id != program.id) {
                    remove_folder(&pins.next())?;
                }
                return Err(error);
            }
            pins.switch()?;
            if let Some(before) = &before {
                // Packets that met the old program just before the switch are through by then.
                std::thread::sleep(LAST_PACKETS);
                handover::finish(before, &generation);
            }
        }
        pins.take_over_links()?;
        Ok(DataPlane { generation, ids, start, report, program_id, pins })
    }
}

/// Where a generation is to run.
struct Target<'a> {
    pins: &'a Pins,
    interfaces: &'a [Interface],
    mode: XdpMode,
}

/// A program in the kernel.
#[derive(Debug)]
struct Program {
    fd: OwnedFd,
    id: u32,
    tag: u64,
}

/// The ids of the image's backends and services in what runs, if that is of the same configuration and of the same sizes.
fn same_ids(running: &Generation, image: &Image, options: &Options) -> Result<Option<Ids>, DataPlaneError> {
    let root = running.root();
    let same = root.config_digest == image.digest
        && root.counter_cpus == possible_cpus()?
        && handover::is_of_size(running, FLOWS, options.flow_entries)
        && handover::is_of_size(running, OPENINGS, options.opening_entries);
    Ok(same.then(|| transition::recover(image, &running.view())).flatten())
}

/// Takes over a running generation, and gives it this binary's program if it has another.
fn adopt(target: &Target<'_>, features: u32) -> Result<(Start, u32), DataPlaneError> {
    let current = target.pins.current();
    let pinned = current.join(PROGRAM);
    let fd = sys::open_program(&pinned).map_err(|error| target.pins.bad(&pinned, error.to_string()))?;
    let info = ProgramInfo::from_pin(&pinned).map_err(|error| target.pins.bad(&pinned, error.to_string()))?;
    let mut ebpf = load_object(&[], |name| Some(current.join(name)))?;
    let own = load_program(&mut ebpf)?;
    load_next(&mut ebpf, features, NEXT, [ARRIVE_PROGRAM, RELAY_PROGRAM])?;
    let program_replaced = own.tag != info.tag();
    if program_replaced {
        let next = current.join(PROGRAM_NEXT);
        sys::pin(own.fd.as_fd(), &next).map_err(|error| DataPlaneError::io(&next, error))?;
        links::ensure(target.pins, (own.fd.as_fd(), own.id), target.interfaces, target.mode)?;
        fs::rename(&next, &pinned).map_err(|error| DataPlaneError::io(&pinned, error))?;
    } else {
        links::ensure(target.pins, (fd.as_fd(), info.id()), target.interfaces, target.mode)?;
    }
    let id = if program_replaced { own.id } else { info.id() };
    Ok((Start::Adopted { program_replaced }, id))
}

/// A generation that was built.
struct Built {
    generation: Generation,
    ids: Ids,
    report: Report,
    program: Program,
}

/// Builds a generation, as the successor of what runs if anything does, pinned so that a crash can be cleaned up after.
fn build(
    target: &Target<'_>,
    image: &Image,
    options: &Options,
    before: Option<(&Generation, &Unneeded)>,
) -> Result<Built, DataPlaneError> {
    let cpus = possible_cpus()?;
    let mut image = image.clone();
    let filter = flow_filter_bytes(options.flow_entries, options.opening_entries);
    image.root.flow_filter_mask = filter as u32 - 1;
    image.root.counter_cpus = cpus;
    let mut report = Report::default();
    if let Some((running, unneeded)) = before {
        (image, report) = transition::succeed(image, &running.view(), unneeded)
            .map_err(|error| DataPlaneError::Transition(Box::new(error)))?;
    }
    let sizes = map_sizes(&image, options.flow_entries, options.opening_entries);
    let handed = before.map_or(Vec::new(), |(running, _)| handover::names(running, &image, &sizes));
    let current = target.pins.current();
    let mut ebpf = load_object(&sizes, |name| handed.contains(&name).then(|| current.join(name)))?;
    let program = load_program(&mut ebpf)?;
    load_next(&mut ebpf, image.root.features, NEXT, [ARRIVE_PROGRAM, RELAY_PROGRAM])?;
    let mut generation = Generation::new(|name| take_map(&mut ebpf, name)).map_err(DataPlaneError::Load)?;
    if let Some((running, _)) = before {
        handover::copy(running, &generation, &mut image.root, &handed)
            .map_err(|error| DataPlaneError::io(&current, error))?;
    }
    generation.fill(&image).map_err(DataPlaneError::Load)?;
    generation.set_interfaces(target.interfaces).map_err(DataPlaneError::Load)?;
    let next = target.pins.next();
    let pinned = fs::create_dir(&next)
        .and_then(|()| generation.pin(&next))
        .and_then(|()| sys::pin(program.fd.as_fd(), &next.join(PROGRAM)))
        .map_err(|error| DataPlaneError::io(&next, error));
    if let Err(error) = pinned {
        remove_folder(&next)?;
        return Err(error);
    }
    Ok(Built { generation, ids: image.ids, report, program })
}

/// Creates the maps of the edge's object, or takes those that are pinned where `pin` says.
fn load_object(
    sizes: &[(&'static str, u32)],
    pin: impl Fn(&'static str) -> Option<PathBuf>,
) -> Result<Ebpf, DataPlaneError> {
    let mut loader = EbpfLoader::new();
    for &(name, size) in sizes {
        loader.map_max_entries(name, size);
    }
    for name in map_names() {
        if let Some(path) = pin(name) {
            loader.map_pin_path(name, path);
        }
    }
    loader.load(EDGE).map_err(|error| DataPlaneError::load(&error))
}

fn load_program(ebpf: &mut Ebpf) -> Result<Program, DataPlaneError> {
    load_xdp(ebpf, EDGE_PROGRAM).and_then(|xdp| {
        let info = xdp.info().map_err(|error| DataPlaneError::load(&error))?;
        let fd = xdp.fd().map_err(|error| DataPlaneError::load(&error))?;
        let fd = fd.as_fd().try_clone_to_owned().map_err(|error| DataPlaneError::load(&error))?;
        Ok(Program { fd, id: info.id(), tag: info.tag() })
    })
}

/// Loads the programs that the edge's goes on to, as far as `features` of the root need them, and enters them into their map, which
/// keeps them.
pub(super) fn load_next(
    ebpf: &mut Ebpf,
    features: u32,
    map_name: &str,
    [arrive, relay]: [&str; 2],
) -> Result<(), DataPlaneError> {
    if features & FEATURE_RELAY == 0 {
        return Ok(());
    }
    for (index, name) in [(NEXT_ARRIVE, arrive), (NEXT_RELAY, relay)] {
        let fd = load_xdp(ebpf, name)?.fd().map_err(|error| DataPlaneError::load(&error))?;
        let fd = fd.try_clone().map_err(|error| DataPlaneError::load(&error))?;
        let map = ebpf
            .map_mut(map_name)
            .ok_or_else(|| DataPlaneError::Load(format!("the object has no map {map_name}")))?;
        let mut next = ProgramArray::try_from(map).map_err(|error| DataPlaneError::load(&error))?;
        next.set(index, &fd, 0).map_err(|error| DataPlaneError::load(&error))?;
    }
    Ok(())
}

/// Hands an object's XDP program to the kernel. The verifier's log is in the error.
pub(crate) fn load_xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, DataPlaneError> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| DataPlaneError::Load(format!("the object has no program {name}")))?;
    let xdp: &mut Xdp = program.try_into().map_err(|error| DataPlaneError::load(&error))?;
    xdp.load().map_err(|error| DataPlaneError::load(&error))?;
    Ok(xdp)
}

fn take_map(ebpf: &mut Ebpf, name: &str) -> Result<MapData, String> {
    use aya::maps::Map;
    match ebpf.take_map(name) {
        Some(
            Map::Array(map)
            | Map::LpmTrie(map)
            | Map::LruHashMap(map)
            | Map::HashMap(map)
            | Map::ProgramArray(map),
        ) => Ok(map),
        Some(_) => Err("is of an unexpected type".to_owned()),
        None => Err("is missing in the object".to_owned()),
    }
}

/// Fails with a clear error where BPF or memory-mapped arrays are not to be had, or not by this process.
pub(crate) fn probe_kernel() -> Result<(), DataPlaneError> {
    // Before kernel 5.11 maps count as locked memory. Newer ones do not care, and if it fails, map creation tells.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    match Array::<MapData, u64>::create(1, MMAPABLE) {
        Ok(_) => Ok(()),
        Err(MapError::CreateError { io_error, .. }) if io_error.raw_os_error() == Some(libc::EPERM) => {
            Err(DataPlaneError::NoPrivilege { what: "create BPF maps".to_owned(), source: io_error })
        }
        Err(MapError::CreateError { io_error, .. }) => Err(DataPlaneError::Unsupported {
            what: "create memory-mapped BPF arrays".to_owned(),
            source: io_error,
        }),
        Err(error) => Err(DataPlaneError::load(&error)),
    }
}

/// CPUs that the host may have, for each of which there are counters.
///
/// # Errors
/// They cannot be counted, or are more than there can be counters for.
pub fn possible_cpus() -> Result<u32, DataPlaneError> {
    let found = aya::util::nr_cpus().map_err(|(path, error)| DataPlaneError::io(Path::new(path), error))?;
    if found > MAX_CPUS {
        return Err(DataPlaneError::TooManyCpus { found, limit: MAX_CPUS });
    }
    Ok(found as u32)
}
