//! The program that shows packets, in the place of the edge's own while somebody watches.
//!
//! It is loaded over the pinned maps of the generation that runs, and exchanged for the edge's program behind each link, atomically and only
//! if that is still the edge's program: a reload that comes between goes first. It is not pinned. A daemon that dies leaves it in place, where it
//! forwards as the edge's own program and, after the moment in [`WatchControl::until`], shows nothing; the next start or reload puts an edge's
//! program in its place, as it would for any other that is not the one it wants.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use aya::EbpfLoader;
use aya::maps::{Map, MapData, RingBuf};
use lb_common::abi::limits::WATCHED_PER_SECOND;
use lb_common::abi::pod::Pod;
use lb_common::abi::watch::{MAX_SNAP, WatchControl, WatchFilter, WatchLost, WatchRecord};

use super::build::{load_next, load_xdp};
use super::error::DataPlaneError;
use super::generation::{Generation, map_names};
use super::maps::MappedArray;
use super::object::{WATCH, WATCH_ARRIVE_PROGRAM, WATCH_PROGRAM, WATCH_RELAY_PROGRAM};
use super::pins::{PROGRAM, Pins};
use super::sys;

/// Name of the map of programs that the program goes on to.
const WATCH_NEXT: &str = "WATCH_NEXT";

/// The program in place. Dropping it puts the edge's own program back.
pub struct Watch {
    /// The maps that it runs over.
    _generation: Arc<Generation>,
    /// The programs that it goes on to: the kernel empties the map when nobody has it open.
    _next: Option<Map>,
    pins: Arc<Pins>,
    edge: OwnedFd,
    program: OwnedFd,
    control: MappedArray<WatchControl>,
    filters: MappedArray<WatchFilter>,
    lost: MappedArray<WatchLost>,
    ring: RingBuf<MapData>,
}

/// One packet, as the program tells of it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What is told.
    pub record: &'a WatchRecord,
    /// The beginning of the frame as it came.
    pub arrived: &'a [u8],
    /// The beginning of the frame as it left; empty if it did not.
    pub left: &'a [u8],
}

impl Watch {
    pub(super) fn begin(generation: Arc<Generation>, pins: Arc<Pins>) -> Result<Self, DataPlaneError> {
        let current = pins.current();
        let pinned = current.join(PROGRAM);
        let edge = sys::open_program(&pinned).map_err(|error| pins.bad(&pinned, error.to_string()))?;
        let cpus = generation.root().counter_cpus;
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("WATCH_LOST", cpus);
        for name in map_names() {
            loader.map_pin_path(name, current.join(name));
        }
        let mut ebpf = loader.load(WATCH).map_err(|error| DataPlaneError::load(&error))?;
        let root = ebpf.map("ROOT").and_then(|map| match map {
            Map::Array(data) => data.info().ok().map(|info| info.id()),
            _ => None,
        });
        if root.is_none() || root != generation.map_id("ROOT") {
            return Err(changed());
        }
        let xdp = load_xdp(&mut ebpf, WATCH_PROGRAM)?;
        let program = xdp
            .fd()
            .map_err(|error| DataPlaneError::load(&error))
            .and_then(|fd| fd.as_fd().try_clone_to_owned().map_err(|error| DataPlaneError::load(&error)))?;
        load_next(
            &mut ebpf,
            generation.root().features,
            WATCH_NEXT,
            [WATCH_ARRIVE_PROGRAM, WATCH_RELAY_PROGRAM],
        )?;
        let array = |ebpf: &mut aya::Ebpf, name: &str| match ebpf.take_map(name) {
            Some(Map::Array(data)) => Ok(data),
            _ => Err(DataPlaneError::Load(format!("map {name} is missing in the object"))),
        };
        let unmapped = |name: &str, error: io::Error| {
            DataPlaneError::Load(format!("map {name}: cannot be mapped: {error}"))
        };
        let (control, filters, lost) =
            (array(&mut ebpf, "WATCH")?, array(&mut ebpf, "WATCH_FILTERS")?, array(&mut ebpf, "WATCH_LOST")?);
        let ring = ebpf.take_map("WATCH_RING");
        let ring =
            ring.ok_or_else(|| DataPlaneError::Load("map WATCH_RING is missing in the object".to_owned()))?;
        let watch = Self {
            control: MappedArray::new(control.fd().as_fd(), 1).map_err(|error| unmapped("WATCH", error))?,
            filters: MappedArray::new(filters.fd().as_fd(), lb_common::abi::limits::MAX_WATCHERS)
                .map_err(|error| unmapped("WATCH_FILTERS", error))?,
            lost: MappedArray::new(lost.fd().as_fd(), cpus as usize)
                .map_err(|error| unmapped("WATCH_LOST", error))?,
            ring: RingBuf::try_from(ring).map_err(|error| DataPlaneError::load(&error))?,
            _generation: generation,
            _next: ebpf.take_map(WATCH_NEXT),
            pins,
            edge,
            program,
        };
        watch.put_in_place()?;
        Ok(watch)
    }

    /// Exchanges the programs behind all links. On an error, all have the edge's own again.
    fn put_in_place(&self) -> Result<(), DataPlaneError> {
        let links = self.pins.links()?;
        for link in links.iter().filter(|link| link.info.ifindex != 0) {
            if let Err(error) = sys::exchange_link(link.fd.as_fd(), self.edge.as_fd(), self.program.as_fd()) {
                self.put_back();
                return Err(match error.raw_os_error() {
                    Some(libc::EPERM) => changed(),
                    _ => DataPlaneError::io(&link.path, error),
                });
            }
        }
        Ok(())
    }

    /// Puts the edge's own program back, behind links that run this one.
    fn put_back(&self) {
        let links = match self.pins.links() {
            Ok(links) => links,
            Err(error) => {
                tracing::error!(%error, "the program that shows packets stays in place, silent, until the next reload or start");
                return;
            }
        };
        for link in links.iter().filter(|link| link.info.ifindex != 0) {
            match sys::exchange_link(link.fd.as_fd(), self.program.as_fd(), self.edge.as_fd()) {
                // Someone else put another one there: a reload, most likely.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
                Err(error) => {
                    let interface = &link.interface;
                    tracing::error!(%error, interface, "the program that shows packets stays in place, silent, until the next reload or start");
                }
                Ok(()) => {}
            }
        }
    }

    /// What each watcher wants to see, by its number, and how many bytes of each frame.
    pub fn set(&self, watchers: &[Option<WatchFilter>], snap: usize) {
        let store = |offset: usize, value: u32| self.control.store_u32(0, offset, value);
        let mut active = 0;
        let mut sample = 0;
        for (index, filter) in watchers.iter().enumerate() {
            let Some(filter) = filter else { continue };
            active |= 1 << index;
            sample = sample.max(filter.sample);
            if self.filters.read(index).as_ref() != Some(filter) {
                // Nobody sees by a filter that is half written.
                self.control.update_u32(0, offset_of!(WatchControl, active), |bits| bits & !(1 << index));
                let _ = self.filters.write(index, filter);
            }
        }
        store(offset_of!(WatchControl, per_second), WATCHED_PER_SECOND);
        store(offset_of!(WatchControl, snap), snap.min(MAX_SNAP) as u32);
        store(offset_of!(WatchControl, sample), sample);
        store(offset_of!(WatchControl, active), active);
    }

    /// Lets the program show packets until that moment, in the units of [`lb_common::abi::guard`]; 0 for not at all.
    pub fn hold(&self, until: u32) {
        self.control.store_u32(0, offset_of!(WatchControl, until), until);
    }

    /// Takes up to `limit` packets out of the ring buffer; how many there were.
    pub fn drain(&mut self, limit: usize, mut each: impl FnMut(Seen<'_>)) -> usize {
        for taken in 0..limit {
            let Some(item) = self.ring.next() else { return taken };
            if let Some(record) = item.get(..size_of::<WatchRecord>()).and_then(WatchRecord::from_bytes) {
                let frames = &item[size_of::<WatchRecord>()..];
                let stride = (record.stride as usize).min(frames.len());
                let (arrived, left) = frames.split_at(stride);
                let head = |frame: &'_ [u8], length: u32| (length as usize).min(frame.len());
                each(Seen {
                    record: &record,
                    arrived: &arrived[..head(arrived, record.arrived_captured)],
                    left: &left[..head(left, record.left_captured)],
                });
            }
        }
        limit
    }

    /// Packets that a watcher should have seen, but that did not fit, on all CPUs.
    #[must_use]
    pub fn lost(&self, watcher: usize) -> u64 {
        let all = (0..self.lost.len()).filter_map(|cpu| self.lost.read(cpu));
        all.fold(0, |sum, lost| sum.wrapping_add(lost.records[watcher]))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.hold(0);
        self.put_back();
    }
}

fn changed() -> DataPlaneError {
    DataPlaneError::Load("the data plane is being replaced; try again".to_owned())
}
