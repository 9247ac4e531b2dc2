//! Keeps the next hops of all backends: a thread that asks netlink for routes and neighbours, follows their changes and writes
//! what it finds into the backends' entries.
//!
//! A next hop that works is not disturbed: a neighbour that stops answering, and a route that goes without another one coming,
//! leave the last known next hop in place for as long as its interface is up. The kernel does not see the packets that XDP
//! sends, so each neighbour's address is confirmed with every [`RESYNC`].

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::Serialize;
use tokio::sync::watch;

use super::announce::Announcer;
use super::neighbour::{Neighbourhood, Way, describe};
use super::netlink::{Change, Netlink, Subscription};
use super::writer::{Mac, NextHop, NextHopWriter};
use crate::config::Config;
use crate::plan::ids::BackendIndex;

/// How often everything is looked up anew, in case a change was missed.
pub const RESYNC: Duration = Duration::from_secs(30);
/// Least time between two lookups of all routes, however many changes come.
const COALESCE: Duration = Duration::from_millis(20);
/// Time until another attempt when netlink fails.
const RETRY: Duration = Duration::from_secs(1);
/// Batches of changes that are read before what they mean is written.
const MAX_BATCHES: usize = 256;

/// State of one backend's next hop.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum HopState {
    /// Packets go this way.
    Resolved(HopView),
    /// Packets go this way, but it is no longer known to work.
    Held {
        /// The way.
        #[serde(flatten)]
        hop: HopView,
        /// What is amiss.
        reason: String,
    },
    /// Packets are dropped with reason `no_next_hop`.
    Unresolved {
        /// What is amiss.
        reason: String,
    },
}

/// A next hop for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct HopView {
    /// Interface.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// Ethernet address of the next hop.
    pub mac: Mac,
    /// Ethernet address of the interface.
    pub source_mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Whether it is the backend itself and no router.
    pub on_link: bool,
    /// Number of the VLAN whose tag frames carry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
}

/// Next hops of all backends.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HopSnapshot {
    /// By backend: those of the configuration in the order of their ids, then those that left it. Empty until the first
    /// lookup.
    pub backends: Vec<HopState>,
    /// Whether every backend's next hop has been found, or tried for long enough not to wait for it.
    pub settled: bool,
}

impl HopSnapshot {
    /// How many backends have no next hop.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        self.backends.iter().filter(|state| matches!(state, HopState::Unresolved { .. })).count()
    }
}

/// The running thread; stops when dropped, and leaves the next hops as they are.
#[derive(Debug)]
pub struct NextHops {
    snapshots: watch::Receiver<Arc<HopSnapshot>>,
    announcer: Arc<Announcer>,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl NextHops {
    /// Starts to keep the next hops of all backends in the data plane, in the calling thread's network namespace.
    ///
    /// # Errors
    /// When netlink sockets or the thread cannot be had.
    pub fn start(config: &Config, writer: NextHopWriter) -> io::Result<Self> {
        Self::start_with(writer.targets(), writer, Announcer::new(config))
    }

    /// [`start`](Self::start) for backends at these addresses.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn start_for(backends: Vec<(BackendIndex, IpAddr)>, writer: NextHopWriter) -> io::Result<Self> {
        Self::start_with(backends, writer, Announcer::default())
    }

    fn start_with(
        backends: Vec<(BackendIndex, IpAddr)>,
        writer: NextHopWriter,
        announcer: Announcer,
    ) -> io::Result<Self> {
        let announcer = Arc::new(announcer);
        let (indices, backends): (Vec<_>, Vec<_>) = backends.into_iter().unzip();
        let (sender, snapshots) = watch::channel(Arc::default());
        let stop =
            Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let mut keeper = Keeper {
            // Subscribed before the first lookup, so that no change falls between the two.
            subscription: Subscription::new()?,
            netlink: Netlink::new()?,
            indices,
            known: Neighbourhood::new(backends),
            writer,
            announcer: Arc::clone(&announcer),
            sender,
            routes_due: None,
            resync_due: Instant::now(),
        };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("weir-next-hops".to_owned())
            .spawn(move || while keeper.step(&stopped) {})?;
        Ok(Self { snapshots, announcer, stop, thread: Some(thread) })
    }

    /// Announces the VIPs of services with `reach = "arp"` to the link, now and whenever an interface comes up again. For when
    /// the program is in place.
    pub fn announce(&self) {
        self.announcer.activate();
    }

    /// Next hops as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<HopSnapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Waits until every backend's next hop is found or has been tried for long enough, at most `timeout`; gives the next
    /// hops as they are then.
    pub async fn first_resolution(&self, timeout: Duration) -> Arc<HopSnapshot> {
        let mut snapshots = self.snapshots.clone();
        let settled = snapshots.wait_for(|snapshot| snapshot.settled);
        // Neither a timeout nor a thread that ended is an error here: the caller gets what there is.
        let _ = tokio::time::timeout(timeout, settled).await;
        self.snapshot()
    }

    /// Stops the thread and waits for its end.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A full counter means that it was told already.
            let _ = self.stop.write(1);
            if thread.join().is_err() {
                tracing::error!("the thread that keeps next hops ended by a panic");
            }
        }
    }
}

impl Drop for NextHops {
    fn drop(&mut self) {
        self.end();
    }
}

struct Keeper {
    subscription: Subscription,
    netlink: Netlink,
    /// Where each backend's entry lies.
    indices: Vec<BackendIndex>,
    known: Neighbourhood,
    writer: NextHopWriter,
    announcer: Arc<Announcer>,
    sender: watch::Sender<Arc<HopSnapshot>>,
    /// When routes are to be looked up again because something changed.
    routes_due: Option<Instant>,
    /// When everything is to be looked up again.
    resync_due: Instant,
}

impl Keeper {
    /// Waits for a change or until something is due, and does it. False when told to stop.
    fn step(&mut self, stop: &EventFd) -> bool {
        match self.wait(stop) {
            Ok(false) => return false,
            Ok(true) => {}
            Err(error) => tracing::error!(%error, "waiting for netlink failed"),
        }
        let now = Instant::now();
        if let Err(error) = self.work(now) {
            tracing::warn!(%error, "netlink failed; next hops stay as they are until the next attempt");
            self.resync_due = now + RETRY;
        }
        self.apply();
        true
    }

    fn wait(&self, stop: &EventFd) -> io::Result<bool> {
        let due = [self.known.next_due(), self.routes_due, Some(self.resync_due)].into_iter().flatten().min();
        let wait = due.map_or(RESYNC, |due| due.saturating_duration_since(Instant::now()));
        // Rounded up: waking too early would only mean to wait again.
        let milliseconds = u16::try_from(wait.as_millis() + u128::from(!wait.is_zero())).unwrap_or(u16::MAX);
        let mut fds = [
            PollFd::new(self.subscription.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::from(milliseconds)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(!fds[1].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)))
    }

    fn work(&mut self, now: Instant) -> io::Result<()> {
        for _ in 0..MAX_BATCHES {
            let changes = self.subscription.changes()?;
            if changes.is_empty() {
                break;
            }
            for change in changes {
                self.note(change, now);
            }
        }
        if self.resync_due <= now {
            self.resync(now)?;
        } else if self.routes_due.is_some_and(|due| due <= now) {
            self.look_up_routes(now)?;
            self.read_neighbours(now)?;
        }
        for (ifindex, address) in self.known.take_due(now) {
            self.ask_for(ifindex, address);
        }
        Ok(())
    }

    fn note(&mut self, change: Change, now: Instant) {
        let routes_changed = match change {
            Change::Interface(interface) => {
                if interface.running && !self.known.is_running(interface.index) {
                    self.announcer.on(&interface);
                }
                self.known.interface(interface)
            }
            Change::InterfaceGone(index) => {
                self.known.interface_gone(index);
                true
            }
            Change::Neighbour(neighbour) => {
                self.known.neighbour(&neighbour, now);
                false
            }
            Change::NeighbourGone(neighbour) => {
                self.known.neighbour_gone(&neighbour, now);
                false
            }
            Change::Routes => true,
            Change::Missed => {
                self.resync_due = now;
                false
            }
        };
        if routes_changed && self.routes_due.is_none() {
            self.routes_due = Some(now + COALESCE);
        }
    }

    fn resync(&mut self, now: Instant) -> io::Result<()> {
        let interfaces = self.netlink.interfaces()?;
        self.known.interfaces(interfaces);
        self.look_up_routes(now)?;
        self.known.forget_unused();
        self.read_neighbours(now)?;
        for (ifindex, address) in self.known.confirmable() {
            self.ask_for(ifindex, address);
        }
        self.resync_due = now + RESYNC;
        Ok(())
    }

    fn look_up_routes(&mut self, now: Instant) -> io::Result<()> {
        for backend in 0..self.indices.len() {
            let address = self.known.address(backend);
            let route = match self.netlink.route(address) {
                Ok(route) => Ok(route),
                Err(error) if is_answer(&error) => Err(error.to_string()),
                Err(error) => return Err(error),
            };
            self.known.route(backend, route, now);
        }
        self.routes_due = None;
        Ok(())
    }

    fn read_neighbours(&mut self, now: Instant) -> io::Result<()> {
        for neighbour in self.netlink.neighbours()? {
            self.known.neighbour(&neighbour, now);
        }
        Ok(())
    }

    fn ask_for(&mut self, ifindex: u32, address: IpAddr) {
        if let Err(error) = self.netlink.ask_for(ifindex, address) {
            tracing::debug!(%error, ifindex, %address, "asking for a neighbour failed");
        }
    }

    /// Writes what is known into the entries, and tells.
    fn apply(&mut self) {
        let backends: Vec<_> = (0..self.indices.len()).map(|backend| self.apply_one(backend)).collect();
        let settled = (0..self.indices.len()).all(|backend| self.known.is_settled(backend));
        let snapshot = HopSnapshot { backends, settled };
        self.sender.send_if_modified(|last| {
            let changed = **last != snapshot;
            if changed {
                *last = Arc::new(snapshot);
            }
            changed
        });
    }

    fn apply_one(&self, backend: usize) -> HopState {
        let index = self.indices[backend];
        match self.known.way(backend) {
            Way::Known(hop) => {
                let _ = self.writer.write(index, &hop);
                let view = self.view(&hop);
                if self.known.is_doubtful(backend) {
                    let reason = format!("neighbour {} does not answer", describe(&hop, &view.interface));
                    return HopState::Held { hop: view, reason };
                }
                HopState::Resolved(view)
            }
            Way::Unknown(reason) => match self.writer.read(index) {
                Some(last) if self.known.is_up(last.ifindex) => {
                    HopState::Held { hop: self.view(&last), reason }
                }
                Some(_) => {
                    let _ = self.writer.clear(index);
                    HopState::Unresolved { reason }
                }
                None => HopState::Unresolved { reason },
            },
        }
    }

    fn view(&self, hop: &NextHop) -> HopView {
        HopView {
            interface: self.known.name(hop.ifindex),
            ifindex: hop.ifindex,
            mac: Mac(hop.destination),
            source_mac: Mac(hop.source),
            mtu: hop.mtu,
            on_link: hop.on_link,
            vlan: hop.vlan,
        }
    }
}

/// Whether an error is what the kernel says about a destination, and no failure to ask.
fn is_answer(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL | libc::ENOENT)
    )
}
