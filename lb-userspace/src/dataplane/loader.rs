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

use std::ops::Deref;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lb_common::abi::limits::MAX_CPUS;

use super::build::{Built, Program, Target, adopt, build, probe_kernel, same_ids};
use super::counters::CounterReader;
use super::error::DataPlaneError;
use super::generation::{FLOWS, Generation};
use super::handles::Handles;
use super::handover;
use super::links;
use super::live::LiveTables;
use super::netlink::Interface;
use super::pins::{Pins, remove_folder};
use super::upkeep::Upkeep;
use super::watch::Watch;
use crate::config::{Config, XdpMode};
use crate::plan::image::Image;
use crate::plan::transition::{Report, Unneeded};

pub use super::handles::Start;

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

/// The data plane in place. Dropping it changes nothing: programs and maps stay, held by their pins.
#[derive(Debug)]
pub struct DataPlane {
    handles: Handles,
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
    handles: Handles,
    /// What runs until this is in place, if its maps can be read.
    before: Option<Arc<Generation>>,
    pins: Arc<Pins>,
    interfaces: Vec<Interface>,
    mode: XdpMode,
    program_id: u32,
    /// The program that is to be attached; none if it is already.
    program: Option<Program>,
}

impl Deref for DataPlane {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.handles
    }
}

impl Deref for Prepared {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.handles
    }
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
        let built = build(&target, image, options, Some((self.generation(), unneeded)))?;
        let Built { generation, ids, report, program } = built;
        Ok(Prepared {
            handles: Handles::new(Arc::new(generation), ids, Start::Replaced, report),
            before: Some(Arc::clone(self.generation())),
            pins: Arc::clone(&self.pins),
            interfaces,
            mode: options.mode,
            program_id: program.id,
            program: Some(program),
        })
    }

    /// Flows away from home that are remembered at most.
    #[must_use]
    pub fn flow_capacity(&self) -> u32 {
        self.generation().entries(FLOWS).unwrap_or(0)
    }

    /// The tables of flows, marks and transitions.
    #[must_use]
    pub fn upkeep(&self) -> Upkeep {
        Upkeep::new(Arc::clone(self.generation()))
    }

    /// The kernel's number of the program that is attached.
    #[must_use]
    pub const fn program_id(&self) -> u32 {
        self.program_id
    }

    /// Reads counters.
    #[must_use]
    pub fn counters(&self) -> CounterReader {
        CounterReader::new(Arc::clone(self.generation()), Arc::clone(self.ids()))
    }

    /// Puts the program that shows packets in the place of the edge's, until what is returned goes.
    ///
    /// # Errors
    /// Why it cannot be done; the edge's own program goes on then.
    pub fn watch(&self) -> Result<Watch, DataPlaneError> {
        Watch::begin(Arc::clone(self.generation()), Arc::clone(&self.pins))
    }

    /// The maps as the decision code reads them.
    #[must_use]
    pub fn live(&self) -> LiveTables {
        LiveTables::new(Arc::clone(self.generation()))
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
                handles: Handles::new(Arc::clone(running), ids, start, Report::default()),
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
            handles: Handles::new(Arc::new(generation), ids, start, report),
            before: running,
            pins: Arc::new(pins),
            interfaces,
            mode: options.mode,
            program_id: program.id,
            program: Some(program),
        })
    }

    /// Attaches the program, or replaces the one that is attached, atomically: each packet sees either what ran before or
    /// this. Nothing happens to a data plane that was adopted.
    ///
    /// # Errors
    /// Why it cannot be attached. What ran before goes on running.
    pub fn put_in_place(self) -> Result<DataPlane, DataPlaneError> {
        let Self { handles, before, pins, interfaces, mode, program_id, program } = self;
        if let Some(program) = program {
            if let Some(before) = &before {
                // As late as possible: what changed since the generation was filled.
                handover::keep_unclean(before, handles.generation());
                handover::keep_spilling(before, handles.generation());
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
                handover::finish(before, handles.generation());
            }
        }
        pins.take_over_links()?;
        Ok(DataPlane { handles, program_id, pins })
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
