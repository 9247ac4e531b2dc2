//! A data plane in this process's memory with a history, and the oracle that knows where each flow lives.

use super::scene::{Change, Scene};
use lb_common::{
    abi::{
        admission::Admission,
        backend::BackendEntry,
        limits::{MAX_DOMAINS, MAX_PLAN_STEPS},
        plan::PLAN_PANIC,
        reason::Reason,
        root::Root,
        service::{SERVICE_SPILLS, SERVICE_STEERED},
    },
    datapath::{
        classify, filter,
        flow::FlowTable,
        hash::flow_hash,
        parse::{Shape, Transport, Tuple},
        ports::Tables as _,
        select,
        steer::{self, Origin},
        trace::{Silent, Step, Trace},
    },
    net::{mapped_words, protocol},
};
use lb_maglev::{SLOT_MARK, is_marked};
use lb_userspace::plan::{
    image::{Image, ImageTables},
    transition::{Running, Unneeded, succeed},
    walker::{Verdict, Walk},
};
use proptest::sample::Index;
use std::{collections::BTreeMap, time::Duration};

/// How long a silent flow is remembered.
const IDLE: Duration = Duration::from_secs(24 * 3600);
/// New flows whose placement is compared with that of a data plane without history.
const PROBES: u32 = 40;

/// Shares of an admission word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) new: u8,
    pub(crate) old: u8,
}

/// A flow: its number gives client and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flow {
    number: u32,
    service: usize,
}

impl Flow {
    /// Whether it sends nothing between its handshake and its end, unless it is woken.
    const fn is_silent(self) -> bool {
        self.number % 5 == 4
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Opening,
    Established,
    Closing,
}

pub(crate) struct World {
    scene: Scene,
    tables: ImageTables,
    now_ns: u64,
    /// Where each open flow lives.
    homes: BTreeMap<Flow, u32>,
    next: u32,
    /// Flows that are over, whose clients take the same ports again.
    over: Vec<Flow>,
    /// What steers each service.
    steered: BTreeMap<usize, Steered>,
}

/// What steers a service.
#[derive(Clone, Copy, Debug)]
struct Steered {
    /// Share of its flows that starts at the first step.
    share: u16,
    leaves: u8,
    panic: bool,
    /// It spilled, and no walk has seen all entries since.
    flagged: bool,
    /// A walk began since it stopped spilling.
    walked: bool,
}

impl Default for Steered {
    fn default() -> Self {
        Self { share: u16::MAX, leaves: 0, panic: false, flagged: false, walked: false }
    }
}

impl World {
    pub(crate) fn new(scene: Scene) -> Self {
        let mut world = Self {
            tables: ImageTables::new(scene.image()),
            scene,
            now_ns: 1_000 << 30,
            homes: BTreeMap::new(),
            next: 0,
            steered: BTreeMap::new(),
            over: Vec::new(),
        };
        world.adjust();
        world
    }

    pub(crate) const fn tables(&self) -> &ImageTables {
        &self.tables
    }

    /// What the configuration cannot say yet: services that spill.
    fn adjust(&mut self) {
        self.tables.set_now_ns(self.now_ns);
        let (steered, image) = (&self.steered, self.tables.image_mut());
        adjust(image, steered);
    }

    pub(crate) fn limit(&mut self, flows: usize, openings: usize) {
        self.tables.set_flow_capacity(flows, openings);
    }

    pub(crate) fn set_word(&mut self, cell: Index, word: Word) {
        let image = self.tables.image();
        let backends: Vec<_> =
            (0..image.backends.len()).filter(|&at| is_there(&image.backends[at])).collect();
        let (domains, pools) = (image.names.domains.len(), image.pools.len());
        let word = Admission::new(word.new, word.old);
        match cell.index(backends.len() + domains + pools) {
            at if at < backends.len() => self.tables.set_backend_admission(backends[at], word),
            at if at < backends.len() + domains => self.tables.set_admission(at - backends.len(), word),
            at => self.tables.set_admission(MAX_DOMAINS + at - backends.len() - domains, word),
        }
    }

    pub(crate) fn reconfigure(&mut self, changes: &[Change]) -> Result<(), String> {
        let scene = self.scene.changed(changes);
        let running = Running::of(self.tables.image());
        let (image, report) =
            succeed(scene.image(), &running, &Unneeded::default()).map_err(|error| error.to_string())?;
        if report.ended_early > 0 {
            // Whoever was silent all along loses what the earlier transition remembers.
            self.wake()?;
        }
        let mut tables = ImageTables::new(image);
        tables.take_flows_of(&self.tables);
        self.tables = tables;
        self.scene = scene;
        self.adjust();
        Ok(())
    }

    pub(crate) fn end_transition(&mut self) -> Result<(), String> {
        // Whoever was silent all along is at home by the new tables afterwards.
        self.wake()?;
        for service in &mut self.tables.image_mut().services {
            service.previous_base = 0;
        }
        let root = &mut self.tables.image_mut().root;
        *root = Root { previous_clients: root.clients, ..*root };
        Ok(())
    }

    /// Flows that have been silent send a packet.
    pub(crate) fn wake(&mut self) -> Result<(), String> {
        let silent: Vec<_> = self.homes.iter().map(|(flow, home)| (*flow, *home)).collect();
        let silent = silent.into_iter().filter(|(flow, _)| flow.is_silent());
        silent.into_iter().try_for_each(|(flow, backend)| self.check(flow, backend, Kind::Established))
    }

    /// What the daemon's walker does, in its order.
    pub(crate) fn walk(&mut self) {
        let image = self.tables.image_mut();
        image.root.flow_filter_epoch = image.root.flow_filter_epoch % 255 + 1;
        let (epoch, mask) = (filter::epoch(&image.root), image.root.flow_filter_mask);
        let in_transition = image.services.iter().any(|service| service.previous_base != 0);
        let mut gone = Vec::new();
        let mut walk = Walk::new(&self.tables, IDLE);
        for table in [FlowTable::Openings, FlowTable::Flows] {
            for (key, entry) in self.tables.flows(table) {
                match walk.entry(table, &key, &entry) {
                    Verdict::Keep { filter } => {
                        filter.into_iter().for_each(|at| self.tables.set_filter(at, epoch));
                    }
                    Verdict::Remove => gone.push((table, key)),
                }
            }
        }
        let found = walk.finish();
        for (table, key) in gone {
            self.tables.remove_flow(table, &key);
        }
        for index in 0..=mask {
            if self.tables.filter(index) != epoch {
                self.tables.set_filter(index, 0);
            }
        }
        for steered in self.steered.values_mut() {
            steered.walked |= steered.share == u16::MAX;
        }
        let image = self.tables.image_mut();
        found.needed.iter().for_each(|&slot| image.slots[slot as usize] |= SLOT_MARK);
        if !in_transition {
            let marked: Vec<u32> =
                (0..image.slots.len()).filter(|&at| is_marked(image.slots[at])).map(|at| at as u32).collect();
            for slot in found.superfluous(&marked) {
                image.slots[slot as usize] &= !SLOT_MARK;
            }
        }
        self.make_clean();
    }

    fn make_clean(&mut self) {
        let open = Admission::new(255, 255).0;
        for at in 0..self.tables.image().backends.len() {
            if self.tables.image().backends[at].admission.0 == open {
                self.tables.set_backend_admission(at, Admission::OPEN);
            }
        }
        for at in 0..self.tables.image().admission.len() {
            if self.tables.image().admission[at].0 == open {
                self.tables.set_admission(at, Admission::OPEN);
            }
        }
    }

    pub(crate) fn spill(&mut self, service: Index, share: u16) {
        let steered = self.steered(service);
        steered.share = share;
        steered.walked = false;
        steered.flagged |= share != u16::MAX;
        self.adjust();
    }

    pub(crate) fn steer(&mut self, service: Index, leaves: u8, panic: bool) {
        let steered = self.steered(service);
        (steered.leaves, steered.panic) = (leaves, panic);
        self.adjust();
    }

    /// What the daemon does when spilling has ended: see `runtime/steering.rs`.
    pub(crate) fn tidy(&mut self) {
        for steered in self.steered.values_mut() {
            steered.flagged &= !(steered.share == u16::MAX && steered.walked);
        }
        self.adjust();
    }

    fn steered(&mut self, service: Index) -> &mut Steered {
        let present = self.scene.present();
        self.steered.entry(present[service.index(present.len())]).or_default()
    }

    pub(crate) fn wait(&mut self, seconds: u16) {
        self.now_ns += u64::from(seconds) << 30;
        self.tables.set_now_ns(self.now_ns);
    }

    /// Opens flows; every other one's second packet follows at once.
    pub(crate) fn open(&mut self, count: u8) -> Result<(), String> {
        let present = self.scene.present();
        for _ in 0..count {
            let fresh = Flow { number: self.next, service: present[self.next as usize % present.len()] };
            self.next += 1;
            // Every third flow is the same tuple as one that is over: what is left of that one must not count.
            let again =
                self.over.pop().filter(|flow| self.next.is_multiple_of(3) && present.contains(&flow.service));
            let flow = again.unwrap_or(fresh);
            let Ok(backend) = send(&self.tables, flow, Kind::Opening, &mut Silent) else { continue };
            self.homes.insert(flow, backend);
            if self.next.is_multiple_of(2) || flow.is_silent() {
                self.check(flow, backend, Kind::Established)?;
            }
        }
        Ok(())
    }

    /// Closes the oldest flows. Their last packets go where all others went.
    pub(crate) fn close(&mut self, count: u8) -> Result<(), String> {
        let first: Vec<_> = self.homes.iter().map(|(flow, home)| (*flow, *home)).take(count.into()).collect();
        for (flow, backend) in first {
            self.check(flow, backend, Kind::Closing)?;
            self.homes.remove(&flow);
            if !Scene::is_udp(flow.service) {
                self.over.push(flow);
            }
        }
        Ok(())
    }

    /// Every open flow sends a packet, but for those that are silent.
    pub(crate) fn check_established(&mut self) -> Result<(), String> {
        let all = self.homes.iter().map(|(flow, home)| (*flow, *home));
        let all: Vec<_> = all.filter(|(flow, _)| !flow.is_silent()).collect();
        all.into_iter().try_for_each(|(flow, backend)| self.check(flow, backend, Kind::Established))
    }

    /// A flow sends a packet: it comes where the flow lives. If its backend, or the way there, refuses it, the flow is over.
    fn check(&mut self, flow: Flow, backend: u32, kind: Kind) -> Result<(), String> {
        let kept = self.is_kept(flow, backend);
        let mut steps: Vec<Step> = Vec::new();
        let now = send(&self.tables, flow, kind, &mut steps);
        if now == Ok(backend) {
            return Ok(());
        }
        if kept {
            return Err(format!("{flow:?} went from backend {backend} to {now:?}: {steps:?}"));
        }
        self.homes.remove(&flow);
        Ok(())
    }

    /// New flows go where they would go in a data plane that was just built from the configuration and the words.
    pub(crate) fn check_new(&self) -> Result<(), String> {
        let mut image = self.scene.image();
        image.admission.clone_from(&self.tables.image().admission);
        for backend in &mut image.backends {
            let same = |entry: &&BackendEntry| {
                is_there(entry)
                    && entry.outer_destination == backend.outer_destination
                    && entry.flags == backend.flags
            };
            let running = self.tables.image().backends.iter().find(same).ok_or("a backend is missing")?;
            backend.admission = running.admission;
        }
        adjust(&mut image, &self.steered);
        let fresh = ImageTables::new(image);
        for number in 0..PROBES {
            for service in self.scene.present() {
                if Scene::is_udp(service) {
                    continue;
                }
                let flow = Flow { number: 1_000_000 + number, service };
                let endpoint = |tables: &ImageTables| {
                    send(tables, flow, Kind::Opening, &mut Silent)
                        .map(|at| tables.image().backends[at as usize].outer_destination)
                };
                let (here, there) = (endpoint(&self.tables), endpoint(&fresh));
                if here != there {
                    return Err(format!(
                        "new {flow:?} goes to {here:?} here and to {there:?} without history"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether a flow's backend admits it, and, if nobody wrote it down, the pool too in which it is at home.
    fn is_kept(&self, flow: Flow, backend: u32) -> bool {
        let image = self.tables.image();
        let tuple = tuple(flow);
        let (Some(entry), Some(admissions)) =
            (image.backends.get(backend as usize), self.tables.admissions())
        else {
            return false;
        };
        let h = flow_hash(&image.root.hash_key, &tuple);
        if !is_there(entry) || !select::admits(admissions, entry, h, false) {
            return false;
        }
        let key = tuple.flow_words(Origin::Client).key();
        let known = |table| self.tables.flows(table).iter().any(|(k, _)| *k == key);
        if known(FlowTable::Flows) || known(FlowTable::Openings) {
            return true;
        }
        let Some((_, service)) = classify::service(&self.tables, &image.root, &tuple) else { return true };
        let region = self.tables.client_region(&tuple.source);
        let plan = service.plan_base + if region < service.plans { region } else { 0 };
        let pool = image.plans[plan as usize].first;
        admissions.get(pool.admission).old_share() == u8::MAX
    }
}

fn adjust(image: &mut Image, steered: &BTreeMap<usize, Steered>) {
    for entry in &mut image.services {
        let number = usize::from(u16::from_be_bytes(entry.port)).wrapping_sub(80);
        let Some(steered) = steered.get(&number) else { continue };
        let flags = if steered.flagged { SERVICE_SPILLS } else { 0 }
            | if steered.leaves != 0 || steered.panic { SERVICE_STEERED } else { 0 };
        entry.flags = entry.flags & !(SERVICE_SPILLS | SERVICE_STEERED) | flags;
        for plan in &mut image.plans[entry.plan_base as usize..(entry.plan_base + entry.plans) as usize] {
            plan.shares[0] = steered.share;
            plan.leaves = [steered.leaves; MAX_PLAN_STEPS];
            plan.eased = if steered.panic { PLAN_PANIC } else { 0 };
        }
    }
}

/// Whether an index is a backend's.
const fn is_there(entry: &BackendEntry) -> bool {
    entry.ethernet[12] != 0
}

fn send(tables: &ImageTables, flow: Flow, kind: Kind, trace: &mut impl Trace) -> Result<u32, Reason> {
    let tuple = tuple(flow);
    let root = tables.root().ok_or(Reason::Inconsistent)?;
    let (_, service) = classify::service(tables, root, &tuple).ok_or(Reason::PassNotVip)?;
    let h = flow_hash(&root.hash_key, &tuple);
    let placed = steer::place(tables, service, &transport(tuple, kind), h, Origin::Client, trace);
    placed.map(|placement| placement.backend)
}

fn tuple(flow: Flow) -> Tuple {
    let [_, b, c, d] = flow.number.to_be_bytes();
    // Every third client is of the client region.
    let second = if flow.number.is_multiple_of(3) { 7 } else { 8 };
    let port = (80 + flow.service as u16).to_be_bytes();
    let is_ipv6 = Scene::is_ipv6(flow.service);
    let word = u32::from_ne_bytes;
    let (source, destination) = if is_ipv6 {
        let prefix = word([0x20, 0x01, 0x0d, 0xb8]);
        ([prefix, word([0, second, 0, 0]), 0, word([0, 0, c, d])], [prefix, 0, 0, word([0, 0, 0, 1])])
    } else {
        (mapped_words(word([10, second, c, d])), mapped_words(word([192, 0, 2, 1])))
    };
    Tuple {
        source,
        destination,
        ports: word([b.wrapping_add(1), d, port[0], port[1]]),
        protocol: if Scene::is_udp(flow.service) { protocol::UDP } else { protocol::TCP },
        is_ipv6,
    }
}

fn transport(tuple: Tuple, kind: Kind) -> Transport {
    Transport {
        tuple,
        opening: kind == Kind::Opening || tuple.protocol == protocol::UDP,
        traffic_class: 0,
        ip_length: 60,
        ip_at: 14,
        closing: kind == Kind::Closing && tuple.protocol == protocol::TCP,
        payload_at: 34,
        shape: Shape::Whole,
        fragment: 0,
    }
}
