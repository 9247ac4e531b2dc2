//! Builds a generation, or takes over one that runs: maps, programs, pins. Nothing is attached to interfaces that was not.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use aya::maps::{Array, MapData, MapError, ProgramArray};
use aya::programs::{ProgramInfo, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::flow::opening_sets;
use lb_common::abi::limits::flow_filter_bytes;
use lb_common::abi::next::{NEXT_ARRIVE, NEXT_RELAY};
use lb_common::abi::root::FEATURE_RELAY;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::error::DataPlaneError;
use super::generation::{FLOWS, Generation, NEXT, map_names, map_sizes};
use super::handover;
use super::interrupted::load_again;
use super::links;
use super::loader::{Options, Start, possible_cpus};
use super::netlink::Interface;
use super::object::{ARRIVE_PROGRAM, EDGE, EDGE_PROGRAM, RELAY_PROGRAM};
use super::pins::{PROGRAM, PROGRAM_NEXT, Pins, remove_folder};
use super::sys;
use crate::config::XdpMode;
use crate::plan::ids::Ids;
use crate::plan::image::Image;
use crate::plan::transition::{self, Report, Unneeded};

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Where a generation is to run.
pub(super) struct Target<'a> {
    pub(super) pins: &'a Pins,
    pub(super) interfaces: &'a [Interface],
    pub(super) mode: XdpMode,
}

/// A program in the kernel.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) fd: OwnedFd,
    pub(super) id: u32,
    tag: u64,
}

/// The ids of the image's backends and services in what runs, if that is of the same configuration and of the same sizes.
pub(super) fn same_ids(
    running: &Generation,
    image: &Image,
    options: &Options,
) -> Result<Option<Ids>, DataPlaneError> {
    let root = running.root();
    let same = root.config_digest == image.digest
        && root.counter_cpus == possible_cpus()?
        && handover::is_of_size(running, FLOWS, options.flow_entries)
        && root.opening_sets == opening_sets(options.opening_entries);
    Ok(same.then(|| transition::recover(image, &running.view())).flatten())
}

/// Takes over a running generation, and gives it this binary's program if it has another.
pub(super) fn adopt(target: &Target<'_>, features: u32) -> Result<(Start, u32), DataPlaneError> {
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
pub(super) struct Built {
    pub(super) generation: Generation,
    pub(super) ids: Ids,
    pub(super) report: Report,
    pub(super) program: Program,
}

/// Builds a generation, as the successor of what runs if anything does, pinned so that a crash can be cleaned up after.
pub(super) fn build(
    target: &Target<'_>,
    image: &Image,
    options: &Options,
    before: Option<(&Generation, &Unneeded)>,
) -> Result<Built, DataPlaneError> {
    let cpus = possible_cpus()?;
    let mut image = image.clone();
    let filter = flow_filter_bytes(options.flow_entries);
    image.root.opening_sets = opening_sets(options.opening_entries);
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
    load_again(|| xdp.load()).map_err(|error| DataPlaneError::load(&error))?;
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
