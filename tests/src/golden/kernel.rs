//! The edge's XDP program, loaded with an image, for `BPF_PROG_TEST_RUN`. Nothing is attached.

use super::{
    forget::{clear, get, put},
    hash_of,
};
use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, LpmTrie, Map, ProgramArray, lpm_trie::Key},
    programs::{TestRun as _, TestRunOptions, Xdp},
    util::nr_cpus,
};
use lb_common::abi::{
    admission::Admission,
    backend::BackendEntry,
    counter::Counter,
    flow::{FlowEntry, FlowWords, OPENING_WAYS, opening_sets},
    limits::{ADMISSION_WORDS, FLOW_FILTER_CHUNK, MAX_BLOCKED, SLOTS_PER_CHUNK},
    next::{NEXT_ARRIVE, NEXT_RELAY},
    pod::Pod,
    root::Root,
};
use lb_common::datapath::{
    filter,
    flow::FlowTable,
    openings::{self, SET_WORDS},
};
use lb_userspace::{
    dataplane::object::{
        ARRIVE_PROGRAM, EDGE_PROGRAM, RELAY_PROGRAM, WATCH_ARRIVE_PROGRAM, WATCH_PROGRAM, WATCH_RELAY_PROGRAM,
    },
    plan::image::Image,
};
use std::{
    cell::Cell,
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

/// The compiled edge object.
pub static EDGE: &[u8] = aya::include_bytes_aligned!(concat!(env!("WEIR_BPF_DIR"), "/edge"));
/// The compiled object that shows packets.
pub static WATCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("WEIR_BPF_DIR"), "/watch"));
/// The compiled benchmark object.
pub static BENCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("WEIR_BPF_DIR"), "/bench"));

/// The edge's programs, those for relayed packets included. Without the latter, such packets are passed.
pub const EDGE_AND_RELAY: [&str; 3] = [EDGE_PROGRAM, ARRIVE_PROGRAM, RELAY_PROGRAM];
/// Those that take their places while somebody watches.
pub const WATCH_AND_RELAY: [&str; 3] = [WATCH_PROGRAM, WATCH_ARRIVE_PROGRAM, WATCH_RELAY_PROGRAM];

/// Largest frame that a test run hands back.
const MAX_FRAME: usize = 4096;

/// A loaded object whose maps hold an image.
pub struct Kernel {
    ebpf: Ebpf,
    cpus: u32,
    stride: u32,
    opening_sets: u32,
}

/// What a test run gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    /// The program's return value.
    pub action: u32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

impl Kernel {
    /// Creates the object's maps in the image's sizes, and both tables of flows with so many entries; fills them, and loads `programs`; those
    /// for relayed packets are entered where the edge's goes on to them.
    ///
    /// # Errors
    /// What the kernel says, with the verifier's log.
    pub fn load(object: &[u8], programs: &[&str], image: &Image, flow_entries: u32) -> Result<Self> {
        Self::load_with(object, programs, image, (flow_entries, flow_entries))
    }

    /// [`load`](Self::load) with so many entries for established flows, and for opening ones.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn load_with(
        object: &[u8],
        programs: &[&str],
        image: &Image,
        (flow_entries, opening_entries): (u32, u32),
    ) -> Result<Self> {
        let cpus = nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))? as u32;
        let stride = image.counter_slots();
        let filter_bytes = image.root.flow_filter_mask as usize + 1;
        let chunks = image.slots.len().div_ceil(SLOTS_PER_CHUNK);
        let size = |n: usize| (n as u32).max(1);
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(VerifierLogLevel::STATS)
            .map_max_entries("SERVICE_INDEX", size(image.buckets.len()))
            .map_max_entries("SERVICES", size(image.services.len()))
            .map_max_entries("PORT_RANGES", size(image.port_ranges.len()))
            .map_max_entries("PLANS", size(image.plans.len()))
            .map_max_entries("POOLS", size(image.pools.len()))
            .map_max_entries("PREVIOUS", size(image.previous.len()))
            .map_max_entries("OPENINGS", opening_sets(opening_entries))
            .map_max_entries("FLOW_FILTER", size(filter_bytes.div_ceil(FLOW_FILTER_CHUNK)))
            .map_max_entries("SLOTS", size(chunks))
            .map_max_entries("BACKENDS", size(image.backends.len()))
            .map_max_entries("GUARDS", size(image.guards.services.len()))
            .map_max_entries("BUCKETS", image.guards.buckets())
            .map_max_entries("GUARD_COUNTS", cpus * size(image.guards.services.len()))
            .map_max_entries("BLOCKED", MAX_BLOCKED as u32)
            .map_max_entries("COUNTERS", cpus * stride)
            .map_max_entries("WATCH_LOST", cpus)
            .map_max_entries("PREFIX_TABLES", size(image.prefix.tables.len()))
            .map_max_entries("PREFIX_ENTRIES", size(image.prefix.entries.len()))
            .map_max_entries("PREFIX_NODES", size(image.prefix.nodes.len()))
            .map_max_entries("PREFIX_VALUES", size(image.prefix.values.len()))
            .map_max_entries("FLOWS", flow_entries)
            .map_max_entries("QUIC_SERVERS", size(image.quic.len()))
            .load(object)?;
        for name in programs {
            let program: &mut Xdp =
                ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
            program.load().with_context(|| format!("loading {name}"))?;
        }
        for (map, index, name) in [
            ("NEXT", NEXT_ARRIVE, ARRIVE_PROGRAM),
            ("NEXT", NEXT_RELAY, RELAY_PROGRAM),
            ("WATCH_NEXT", NEXT_ARRIVE, WATCH_ARRIVE_PROGRAM),
            ("WATCH_NEXT", NEXT_RELAY, WATCH_RELAY_PROGRAM),
        ] {
            if programs.contains(&name) {
                let program: &Xdp = ebpf.program(name).context(name)?.try_into()?;
                let fd = program.fd()?.try_clone()?;
                ProgramArray::try_from(ebpf.map_mut(map).context(map)?)?.set(index, &fd, 0)?;
            }
        }
        let mut kernel = Self { ebpf, cpus, stride, opening_sets: opening_sets(opening_entries) };
        kernel.fill(image)?;
        Ok(kernel)
    }

    /// Writes an image into the maps, over what they hold. It must be of the size that they were created for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fill(&mut self, image: &Image) -> Result<()> {
        let root = Root {
            counter_cpus: self.cpus,
            counter_stride: self.stride,
            opening_sets: self.opening_sets,
            ..image.root
        };
        self.set("ROOT", 0, &root)?;
        self.set_all("SERVICE_INDEX", &image.buckets)?;
        self.set_all("SERVICES", &image.services)?;
        self.set_all("PORT_RANGES", &image.port_ranges)?;
        self.set_all("PLANS", &image.plans)?;
        self.set_all("POOLS", &image.pools)?;
        self.set_all("PREVIOUS", &image.previous)?;
        self.set_all("BACKENDS", &image.backends)?;
        self.set_all("GUARDS", &image.guards.services)?;
        self.set("NODE_GUARD", 0, &image.guards.node)?;
        for (bucket, at) in &image.guards.arrivals {
            self.set("BUCKETS", *bucket, at)?;
        }
        let mut blocked_map: LpmTrie<_, [u32; 5], u32> =
            LpmTrie::try_from(self.ebpf.map_mut("BLOCKED").context("BLOCKED")?)?;
        for blocked in &image.guards.blocked {
            let (length, key) = blocked.key();
            blocked_map.insert(&Key::new(length, key), blocked.until, 0)?;
        }
        let mut chunk = Box::new([0_u8; 2 * SLOTS_PER_CHUNK]);
        for (i, slots) in image.slots.chunks(SLOTS_PER_CHUNK).enumerate() {
            for (j, slot) in slots.iter().enumerate() {
                chunk[2 * j..2 * j + 2].copy_from_slice(&slot.to_ne_bytes());
            }
            self.array::<{ 2 * SLOTS_PER_CHUNK }>("SLOTS")?.set(i as u32, *chunk, 0)?;
        }
        self.set_admissions(&image.admission)?;
        self.set_all("PREFIX_TABLES", &image.prefix.tables)?;
        self.set_all("PREFIX_ENTRIES", &image.prefix.entries)?;
        self.set_all("PREFIX_NODES", &image.prefix.nodes)?;
        self.set_all("PREFIX_VALUES", &image.prefix.values)?;
        let mut servers: HashMap<_, [u8; 24], [u8; 8]> =
            HashMap::try_from(self.ebpf.map_mut("QUIC_SERVERS").context("QUIC_SERVERS")?)?;
        for (key, server) in &image.quic {
            servers.insert(
                <[u8; 24]>::try_from(key.as_bytes())?,
                <[u8; 8]>::try_from(server.as_bytes())?,
                0,
            )?;
        }
        let mut interfaces: HashMap<_, u32, [u8; 8]> =
            HashMap::try_from(self.ebpf.map_mut("INTERFACES").context("INTERFACES")?)?;
        for &(index, [a, b, c, d, e, f]) in &image.interfaces {
            interfaces.insert(index, [a, b, c, d, e, f, 0, 0], 0)?;
        }
        Ok(())
    }

    /// Makes the maps hold an image, which must be of the size that they were created for, and nothing of what packets or another image
    /// left, but for counters, buckets of limits, and how many answers were given lately: as if it were loaded anew, without the
    /// verifier's time.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn renew(&mut self, image: &Image) -> Result<()> {
        self.forget()?;
        let nothing = vec![0; FLOW_FILTER_CHUNK];
        for (name, map) in self.ebpf.maps() {
            match map {
                Map::HashMap(map) | Map::LpmTrie(map) => {
                    let key_size = map.info()?.key_size() as usize;
                    clear(map.fd().as_fd(), key_size).with_context(|| format!("map {name}"))?;
                }
                Map::Array(map) if name == "FLOW_FILTER" => {
                    for element in 0..map.info()?.max_entries() {
                        put(map.fd().as_fd(), &element.to_ne_bytes(), &nothing)?;
                    }
                }
                _ => {}
            }
        }
        self.fill(image)
    }

    /// Overwrites the admission array.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_admissions(&mut self, words: &[Admission]) -> Result<()> {
        let mut bytes = Box::new([0_u8; 4 * ADMISSION_WORDS]);
        for (i, word) in words.iter().enumerate() {
            bytes[4 * i..4 * i + 4].copy_from_slice(&word.0.to_ne_bytes());
        }
        self.array::<{ 4 * ADMISSION_WORDS }>("ADMISSION")?.set(0, *bytes, 0)?;
        Ok(())
    }

    /// Overwrites a backend's entry.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_backend(&mut self, index: usize, entry: &BackendEntry) -> Result<()> {
        self.set("BACKENDS", index as u32, entry)
    }

    /// Writes one element of any array.
    ///
    /// # Errors
    /// What the kernel says; a value of another size than the map's.
    pub fn set<T: Pod>(&mut self, map: &str, index: u32, value: &T) -> Result<()> {
        match size_of::<T>() {
            16 => self.set_bytes::<T, 16>(map, index, value),
            40 => self.set_bytes::<T, 40>(map, index, value),
            64 => self.set_bytes::<T, 64>(map, index, value),
            4 => self.set_bytes::<T, 4>(map, index, value),
            8 => self.set_bytes::<T, 8>(map, index, value),
            32 => self.set_bytes::<T, 32>(map, index, value),
            192 => self.set_bytes::<T, 192>(map, index, value),
            128 => self.set_bytes::<T, 128>(map, index, value),
            256 => self.set_bytes::<T, 256>(map, index, value),
            other => anyhow::bail!("{map}: values of {other} bytes"),
        }
    }

    fn set_all<T: Pod>(&mut self, map: &str, values: &[T]) -> Result<()> {
        values.iter().enumerate().try_for_each(|(i, value)| self.set(map, i as u32, value))
    }

    fn set_bytes<T: Pod, const N: usize>(&mut self, map: &str, index: u32, value: &T) -> Result<()> {
        let bytes: [u8; N] = value.as_bytes().try_into()?;
        self.array::<N>(map)?.set(index, bytes, 0)?;
        Ok(())
    }

    fn array<const N: usize>(&mut self, map: &str) -> Result<Array<&mut aya::maps::MapData, [u8; N]>> {
        Ok(Array::try_from(self.ebpf.map_mut(map).with_context(|| format!("no map {map}"))?)?)
    }

    /// Reads one element of an array whose values have `N` bytes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn get<T: Pod, const N: usize>(&self, map: &str, index: u32) -> Result<T> {
        let array: Array<_, [u8; N]> =
            Array::try_from(self.ebpf.map(map).with_context(|| format!("no map {map}"))?)?;
        T::from_bytes(&array.get(&index, 0)?).context("size")
    }

    /// A counter, summed over the CPUs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counter(&self, slot: u32) -> Result<Counter> {
        let mut sum = Counter::default();
        for cpu in 0..self.cpus {
            let one: Counter = self.get::<Counter, 32>("COUNTERS", cpu * self.stride + slot)?;
            sum.packets += one.packets;
            sum.bytes += one.bytes;
            sum.opening += one.opening;
            sum.dropped += one.dropped;
        }
        Ok(sum)
    }

    /// Takes a map out, for a handle of one's own.
    ///
    /// # Errors
    /// There is none of the name.
    pub fn take(&mut self, map: &str) -> Result<Map> {
        self.ebpf.take_map(map).with_context(|| format!("no map {map}"))
    }

    /// Number of entries in a table of flows.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn flows(&self, table: FlowTable) -> Result<usize> {
        if table == FlowTable::Openings {
            let (fd, mut count) = (self.openings()?, 0);
            for set in 0..self.opening_sets {
                count += read_set(fd, set)?[..OPENING_WAYS].iter().filter(|&&tag| tag != 0).count();
            }
            return Ok(count);
        }
        let flows: HashMap<_, [u8; 40], [u8; 8]> =
            HashMap::try_from(self.ebpf.map("FLOWS").context("no map FLOWS")?)?;
        flows.keys().try_fold(0, |n, key| key.map(|_| n + 1)).map_err(Into::into)
    }

    /// Writes a flow into a table of flows; into the flow filter, too, where that matters.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remember(
        &self,
        image: &Image,
        table: FlowTable,
        flow: &FlowWords,
        entry: &FlowEntry,
    ) -> Result<()> {
        let h = hash_of(image, flow);
        if table == FlowTable::Openings {
            let (fd, set) = (self.openings()?, openings::set_of(h, self.opening_sets));
            let words = read_set(fd, set)?.map(Cell::new);
            openings::write(&words, h, 1, flow, *entry);
            return write_set(fd, set, &words.map(Cell::into_inner));
        }
        let filter_index = filter::index(image.root.flow_filter_mask, h);
        let mut chunk = vec![0; FLOW_FILTER_CHUNK];
        let (element, byte) =
            (filter_index as usize / FLOW_FILTER_CHUNK, filter_index as usize % FLOW_FILTER_CHUNK);
        let element = (element as u32).to_ne_bytes();
        for (name, map) in self.ebpf.maps() {
            match map {
                Map::Array(map) if name == "FLOW_FILTER" => {
                    get(map.fd().as_fd(), &element, &mut chunk)?;
                    chunk[byte] = 1;
                    put(map.fd().as_fd(), &element, &chunk)?;
                }
                Map::LruHashMap(map) if name == "FLOWS" => {
                    put(map.fd().as_fd(), flow.key().as_bytes(), entry.as_bytes())?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Empties whatever the programs remember from packet to packet: all maps that are LRU hash tables, and the opening flows.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn forget(&self) -> Result<()> {
        for (name, map) in self.ebpf.maps() {
            if let Map::LruHashMap(map) | Map::PerCpuLruHashMap(map) = map {
                let key_size = map.info()?.key_size() as usize;
                clear(map.fd().as_fd(), key_size).with_context(|| format!("map {name}"))?;
            }
        }
        let fd = self.openings()?;
        for set in 0..self.opening_sets {
            if read_set(fd, set)?[..OPENING_WAYS] != [0; OPENING_WAYS] {
                write_set(fd, set, &[0; SET_WORDS])?;
            }
        }
        Ok(())
    }

    fn openings(&self) -> Result<BorrowedFd<'_>> {
        match self.ebpf.map("OPENINGS").context("no map OPENINGS")? {
            Map::Array(map) => Ok(map.fd().as_fd()),
            _ => anyhow::bail!("OPENINGS is no array"),
        }
    }

    /// Runs a program once on a frame.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn run(&self, program: &str, frame: &[u8]) -> Result<Ran> {
        let mut out = vec![0; MAX_FRAME];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
        let result = self.program(program)?.test_run(options)?;
        ensure!(result.data_size_out as usize <= MAX_FRAME, "a frame of {} bytes", result.data_size_out);
        out.truncate(result.data_size_out as usize);
        Ok(Ran { action: result.return_value, frame: out })
    }

    /// Runs a program `repeat` times on a frame, each time on what the last run left, and gives the mean time of a run as
    /// the kernel measured it: whole nanoseconds.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn time(&self, program: &str, frame: &[u8], repeat: u32) -> Result<Duration> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() };
        Ok(self.program(program)?.test_run(options)?.duration)
    }

    /// Instructions that the verifier walked through and bytes of machine code of a program.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn size(&self, program: &str) -> Result<(u32, u32)> {
        let info = self.program(program)?.info()?;
        Ok((info.verified_instruction_count().context("verified instructions")?, info.size_jitted()))
    }

    fn program(&self, name: &str) -> Result<&Xdp> {
        Ok(self.ebpf.program(name).with_context(|| format!("no program {name}"))?.try_into()?)
    }
}

fn read_set(openings: BorrowedFd<'_>, set: u32) -> Result<[u64; SET_WORDS]> {
    let mut bytes = [0; 8 * SET_WORDS];
    get(openings, &set.to_ne_bytes(), &mut bytes)?;
    let mut words = [0; SET_WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    Ok(words)
}

fn write_set(openings: BorrowedFd<'_>, set: u32, words: &[u64; SET_WORDS]) -> Result<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(put(openings, &set.to_ne_bytes(), &bytes)?)
}
