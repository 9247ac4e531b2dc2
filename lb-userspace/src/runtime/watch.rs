//! Those who watch packets: `weir trace`, `weir capture`, anybody who asks for `/v1/watch`.
//!
//! With the first watcher the data plane gets the program that shows packets, and a thread that takes them out of its ring buffer; with the last
//! one both go. The thread renews, for [`HOLD`] each time, the moment until which the program shows anything, so that nothing is copied for a daemon
//! that is gone. After a reload it goes over to the next generation; packets of the moment between are not seen.
//!
//! Nobody is waited for: a watcher who does not read in time loses packets, is told how many, and after [`STUCK`] is let go.

mod view;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use hyper::body::Bytes;
use lb_common::abi::{guard, limits::MAX_WATCHERS, watch::MAX_SNAP};
use tokio::sync::mpsc;

use self::view::{Names, clock_offset_ns, hex};
use super::{
    clock::{as_ns, monotonic_ns},
    tenure::Tenure,
};
use crate::{
    api::{
        problem::{Problem, ProblemKind},
        types::{WatchLine, WatchQuery},
    },
    dataplane::watch::{Seen, Watch},
    plan::watch::Terms,
};

/// Between two looks into the ring buffer.
const PERIOD: Duration = Duration::from_millis(10);
/// For how long the program goes on to show packets if nobody says so again.
const HOLD: Duration = Duration::from_secs(2);
/// How long a watcher may read nothing although there is something to read.
const STUCK: Duration = Duration::from_secs(30);
/// Lines that wait for a watcher at most.
const MAX_WAITING_LINES: usize = 2_048;
/// Packets that are taken out of the ring buffer in one go.
const BATCH: usize = 8_192;
/// Largest number of packets of which one is shown.
pub const MAX_SAMPLE: u32 = 1_000_000;

/// The watchers.
pub(super) struct Watchers {
    tenure: Arc<RwLock<Arc<Tenure>>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    watchers: [Option<Watcher>; MAX_WATCHERS],
    active: Option<Active>,
    /// Whether the thread runs.
    running: bool,
    /// The daemon ends: nobody comes any more.
    ended: bool,
}

struct Watcher {
    query: WatchQuery,
    terms: Terms,
    lines: mpsc::Sender<Bytes>,
    /// Packets lost that it has not been told of.
    lost: u64,
    /// What of it the program counted, when last looked at.
    lost_before: u64,
    /// Since when it takes nothing.
    stuck: Option<Instant>,
}

/// A generation that shows packets.
struct Active {
    tenure: Arc<Tenure>,
    watch: Watch,
    names: Names,
}

impl Active {
    fn begin(tenure: Arc<Tenure>) -> Result<Self, crate::dataplane::DataPlaneError> {
        let watch = tenure.data_plane.watch()?;
        let ids = Arc::clone(tenure.data_plane.ids());
        let names = Names::new(Arc::clone(&tenure.config), ids, tenure.live.observe());
        Ok(Self { tenure, watch, names })
    }

    /// Tells the program who wants to see what. Whose service the configuration does not have sees nothing.
    fn set(&self, watchers: &[Option<Watcher>; MAX_WATCHERS]) {
        let (config, ids) = (&self.tenure.config, self.tenure.data_plane.ids());
        let filter = |watcher: &Option<Watcher>| {
            watcher.as_ref().and_then(|watcher| watcher.terms.filter(config, ids, watcher.query.sample))
        };
        let filters: Vec<_> = watchers.iter().map(filter).collect();
        let snap = watchers.iter().flatten().map(|watcher| watcher.query.snap).max().unwrap_or(0);
        self.watch.set(&filters, snap as usize);
        self.hold();
    }

    fn hold(&self) {
        self.watch.hold(guard::until(monotonic_ns() + as_ns(HOLD)));
    }

    /// Hands what was seen to those who want it; how many packets it was.
    fn pass_on(&mut self, watchers: &mut [Option<Watcher>; MAX_WATCHERS]) -> usize {
        let Self { watch, names, .. } = self;
        let offset = clock_offset_ns();
        let taken = watch.drain(BATCH, |seen| {
            let packet = names.packet(seen.record, offset);
            for (index, watcher) in watchers.iter_mut().enumerate() {
                if let Some(watcher) = watcher
                    && seen.record.watchers >> index & 1 != 0
                {
                    watcher.show(packet.clone(), &seen);
                }
            }
        });
        for (index, watcher) in watchers.iter_mut().enumerate() {
            let Some(watcher) = watcher else { continue };
            let lost = self.watch.lost(index);
            watcher.lost += lost.wrapping_sub(watcher.lost_before);
            watcher.lost_before = lost;
            watcher.tell_lost();
        }
        taken
    }
}

impl Watcher {
    fn show(&mut self, mut packet: crate::api::types::WatchedPacket, seen: &Seen<'_>) {
        let snap = self.query.snap as usize;
        if snap != 0 {
            packet.arrived = Some(hex(&seen.arrived[..snap.min(seen.arrived.len())]));
            if !seen.left.is_empty() {
                packet.left = Some(hex(&seen.left[..snap.min(seen.left.len())]));
            }
        }
        self.tell_lost();
        if !self.send(&WatchLine::Packet(Box::new(packet))) {
            self.lost += 1;
        }
    }

    fn tell_lost(&mut self) {
        if self.lost != 0 && self.send(&WatchLine::Lost { packets: self.lost }) {
            self.lost = 0;
        }
    }

    /// Whether there was room for the line.
    fn send(&mut self, line: &WatchLine) -> bool {
        let Ok(mut bytes) = serde_json::to_vec(line) else { return false };
        bytes.push(b'\n');
        let sent = self.lines.try_send(bytes.into()).is_ok();
        if sent {
            self.stuck = None;
        } else {
            self.stuck.get_or_insert_with(Instant::now);
        }
        sent
    }

    fn is_gone(&self) -> bool {
        self.lines.is_closed() || self.stuck.is_some_and(|since| since.elapsed() > STUCK)
    }
}

impl Watchers {
    pub(super) fn new(tenure: Arc<RwLock<Arc<Tenure>>>) -> Arc<Self> {
        Arc::new(Self { tenure, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tenure(&self) -> Arc<Tenure> {
        Arc::clone(&self.tenure.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets one more watch: lines of JSON, as they come, until the receiver goes. Blocks while the program is being loaded.
    pub(super) fn join(self: &Arc<Self>, query: WatchQuery) -> Result<mpsc::Receiver<Bytes>, Problem> {
        let invalid = |detail: String| Problem::new(ProblemKind::Invalid, detail, "see `weir trace --help`");
        let terms = Terms::parse(&query.filter).map_err(|error| invalid(error.to_string()))?;
        if query.sample == 0 || query.sample > MAX_SAMPLE {
            return Err(invalid(format!(
                "sample is {}; one of 1 to {MAX_SAMPLE} packets is shown",
                query.sample
            )));
        }
        if query.snap as usize > MAX_SNAP {
            return Err(invalid(format!("snap is {}; at most {MAX_SNAP} bytes are shown", query.snap)));
        }
        let mut state = self.state();
        if state.ended {
            return Err(Problem::new(ProblemKind::Busy, "the daemon is stopping", "ask the next one"));
        }
        state.watchers.iter_mut().for_each(|watcher| drop(watcher.take_if(|watcher| watcher.is_gone())));
        let Some(place) = state.watchers.iter().position(Option::is_none) else {
            let detail = format!("{MAX_WATCHERS} watchers are watching already");
            return Err(Problem::new(
                ProblemKind::Busy,
                detail,
                "end another `weir trace` or `weir capture`",
            ));
        };
        let tenure = self.tenure();
        if let Some(name) = terms.service()
            && tenure.config.find_service(name).is_none()
        {
            return Err(Problem::not_found("service", name));
        }
        if state.active.is_none() {
            let active = Active::begin(Arc::clone(&tenure)).map_err(|error| {
                let detail = format!("packets cannot be shown: {error}");
                Problem::new(ProblemKind::Internal, detail, "look into the daemon's log; forwarding goes on")
            })?;
            state.active = Some(active);
            tracing::info!("somebody watches: the program that shows packets is in place");
        }
        let (lines, receiver) = mpsc::channel(MAX_WAITING_LINES);
        let lost_before = state.active.as_ref().map_or(0, |active| active.watch.lost(place));
        let mut watcher = Watcher { query: query.clone(), terms, lines, lost: 0, lost_before, stuck: None };
        watcher.send(&WatchLine::Begin { node: tenure.config.node.name.clone(), query });
        state.watchers[place] = Some(watcher);
        let State { watchers, active, running, .. } = &mut *state;
        if let Some(active) = active {
            active.set(watchers);
        }
        if !*running {
            let this = Arc::clone(self);
            let spawned = thread::Builder::new().name("weir-watch".to_owned()).spawn(move || this.run());
            if let Err(error) = spawned {
                *active = None;
                watchers[place] = None;
                let detail = format!("packets cannot be shown: no thread for it: {error}");
                return Err(Problem::new(ProblemKind::Internal, detail, "raise the limit of tasks"));
            }
            *running = true;
        }
        Ok(receiver)
    }

    /// Lets all watchers go and puts the edge's own program back.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        for watcher in state.watchers.iter_mut().filter_map(Option::as_mut) {
            watcher.send(&WatchLine::End { cause: "the daemon stops; forwarding goes on".to_owned() });
        }
        state.watchers = Default::default();
        state.active = None;
    }

    /// What the thread does.
    fn run(&self) {
        while self.look() {
            thread::sleep(PERIOD);
        }
    }

    /// Passes on what there is; `false` when nobody watches any more.
    fn look(&self) -> bool {
        let mut state = self.state();
        let State { watchers, active, running, .. } = &mut *state;
        let before = watchers.iter().flatten().count();
        watchers.iter_mut().for_each(|watcher| drop(watcher.take_if(|watcher| watcher.is_gone())));
        let left = watchers.iter().flatten().count();
        if left == 0 {
            *active = None;
            *running = false;
            tracing::info!("nobody watches any more: the edge's own program is in place");
            return false;
        }
        let tenure = self.tenure();
        if let Some(outdated) = active.take_if(|active| !Arc::ptr_eq(&active.tenure, &tenure)) {
            let mut outdated = outdated;
            while outdated.pass_on(watchers) == BATCH {}
        }
        match active {
            None => match Active::begin(tenure) {
                Ok(begun) => {
                    watchers.iter_mut().flatten().for_each(|watcher| watcher.lost_before = 0);
                    begun.set(watchers);
                    *active = Some(begun);
                }
                Err(error) => {
                    tracing::warn!(%error, "packets cannot be shown, trying again");
                    drop(state);
                    thread::sleep(Duration::from_secs(1));
                }
            },
            Some(active) => {
                if left != before {
                    active.set(watchers);
                } else {
                    active.hold();
                }
                active.pass_on(watchers);
            }
        }
        true
    }
}
