//! The kinds of faults: what is checked how, what fails, and how that is made and undone.
use super::super::socket::post;
use crate::{
    clock::monotonic_ns,
    lab::{Check, ConfigOptions, Cut, Daemon, FaultTime, Lab, Running},
};
use anyhow::Result;
use lb_userspace::{api::types::BfdSessionView, health::bfd::packet::State};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Servers of a backend are killed; TCP checks every 10 ms.
    Killed,
    /// Servers of a backend are stopped by SIGSTOP, and still take connections; HTTP checks every 50 ms.
    Frozen,
    /// A rack is cut off; heartbeats every 3 ms.
    Rack,
    /// A zone is cut off; heartbeats every 3 ms.
    Zone,
    /// The BFD daemon of a backend is stopped by SIGSTOP; sessions of 3 times 10 ms.
    Bfd,
    /// An operator fails a rack. The time begins when the request is written to the daemon's socket.
    Operator,
}

/// Milliseconds between packets of BFD.
const BFD_MS: u32 = 10;
/// How long the daemon may take until everything is UP.
const READY: Duration = Duration::from_secs(30);

impl Kind {
    /// All of them.
    pub(super) const ALL: [Self; 6] =
        [Self::Killed, Self::Frozen, Self::Rack, Self::Zone, Self::Bfd, Self::Operator];

    /// Its name in results.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Killed => "backend killed, tcp 10 ms",
            Self::Frozen => "backend frozen, http 50 ms",
            Self::Rack => "rack cut, heartbeat 3 ms",
            Self::Zone => "zone cut, heartbeat 3 ms",
            Self::Bfd => "bfd peer frozen, 3 x 10 ms",
            Self::Operator => "operator fails a rack",
        }
    }

    const fn is_of_backends(self) -> bool {
        matches!(self, Self::Killed | Self::Frozen | Self::Bfd)
    }

    /// The lab for it: three zones of two racks of four backends, or eight racks of one.
    pub(super) fn lab(self) -> Result<Lab> {
        let lab = Lab::builder().regions(&["west"]);
        let lab =
            if self.is_of_backends() { lab.zones(1).racks(8).backends(1) } else { lab.zones(3).backends(4) };
        let lab = lab.raise()?;
        lab.start_agents()?;
        Ok(lab)
    }

    fn options(self) -> ConfigOptions {
        let text = match self {
            Self::Killed => {
                "kind = \"tcp\"\nport = 80\ninterval = \"10ms\"\ntimeout = \"50ms\"\nfall = 2\nrise = 2"
                    .to_owned()
            }
            Self::Frozen => {
                "kind = \"http\"\nport = 80\ninterval = \"50ms\"\ntimeout = \"100ms\"\nfall = 2\nrise = 2"
                    .to_owned()
            }
            Self::Bfd => {
                format!("kind = \"bfd\"\nmultihop = true\ninterval = \"{BFD_MS}ms\"\nmultiplier = 3")
            }
            Self::Rack | Self::Zone | Self::Operator => {
                return ConfigOptions { table_size: 16381, ..ConfigOptions::default() };
            }
        };
        ConfigOptions { check: Check::Text(text), table_size: 16381, ..ConfigOptions::default() }
    }

    /// What fails, in turn.
    pub(super) fn victims(self, lab: &Lab) -> Vec<String> {
        let racks = || lab.topology().racks.iter().map(|rack| rack.path.clone());
        match self {
            Self::Killed | Self::Frozen | Self::Bfd => lab.topology().backend_names(),
            Self::Rack | Self::Operator => racks().collect(),
            Self::Zone => lab.topology().zones(),
        }
    }
}

/// A lab with a daemon and what else a kind of fault needs.
pub(super) struct Bench<'lab> {
    pub(super) lab: &'lab Lab,
    pub(super) daemon: Daemon<'lab>,
    kind: Kind,
    /// BFD daemons by backend.
    birds: BTreeMap<String, Running>,
}

impl<'lab> Bench<'lab> {
    /// Starts everything, and waits until every backend and domain is UP.
    pub(super) fn start(lab: &'lab Lab, kind: Kind) -> Result<Self> {
        let mut birds = BTreeMap::new();
        if kind == Kind::Bfd {
            let edge = lab.topology().edges[0].v4.into();
            for backend in &lab.topology().backends {
                let netns = lab.backend_netns(&backend.name)?;
                birds.insert(
                    backend.name.clone(),
                    lab.start_bird(netns, backend.v4.into(), edge, true, BFD_MS)?,
                );
            }
        }
        let daemon = lab.start_daemon(&lab.write_config(&kind.options())?)?;
        daemon.wait_ready(READY)?;
        let bench = Self { lab, daemon, kind, birds };
        super::wait("everything is UP", READY, || Ok(bench.missing()?.is_none().then_some(())))?;
        Ok(bench)
    }

    /// What is not as it is when all is well; `None` if everything is UP, and every BFD session is up.
    pub(super) fn missing(&self) -> Result<Option<String>> {
        let status = self.daemon.cli_json(&["status"])?;
        for what in ["backends", "domains"] {
            let counts = status[what].as_object().into_iter().flatten();
            if let Some((state, count)) = counts.filter(|(state, _)| *state != "up").find(|(_, n)| *n != 0) {
                return Ok(Some(format!("{count} {what} are {state}")));
            }
        }
        if self.kind != Kind::Bfd {
            return Ok(None);
        }
        let sessions: Vec<BfdSessionView> = serde_json::from_value(self.daemon.cli_json(&["bfd", "list"])?)?;
        let not_up = sessions.iter().find(|session| session.state != State::Up);
        Ok(not_up.map(|session| {
            let why = match &session.awaited {
                Some(awaited) => format!("awaited: {}", awaited.why),
                None => session.cause.clone().unwrap_or_default(),
            };
            format!("the session of {} is {} ({why})", session.backends.join(", "), session.state.name())
        }))
    }

    /// The backends that a fault takes out.
    pub(super) fn dead(&self, victim: &str) -> Result<BTreeSet<String>> {
        if self.kind.is_of_backends() {
            return Ok(BTreeSet::from([self.lab.topology().backend(victim)?.name.clone()]));
        }
        Ok(self.lab.topology().names_in(victim))
    }

    /// The domain whose packets are counted: for a backend its rack, in which it is alone.
    pub(super) fn counted(&self, victim: &str) -> Result<String> {
        if self.kind.is_of_backends() {
            return Ok(self.lab.topology().backend(victim)?.rack.clone());
        }
        Ok(victim.to_owned())
    }

    /// Makes the fault.
    pub(super) fn fail(&self, victim: &str) -> Result<FaultTime> {
        match self.kind {
            Kind::Rack | Kind::Zone => self.lab.cut(victim, Cut::Drop),
            Kind::Killed => timed(|| self.lab.kill_backend(victim)),
            Kind::Frozen => timed(|| self.lab.freeze_backend(victim)),
            Kind::Bfd => timed(|| self.birds[victim].freeze()),
            Kind::Operator => self.order("fail", victim),
        }
    }

    /// Undoes it.
    pub(super) fn heal(&self, victim: &str) -> Result<FaultTime> {
        match self.kind {
            Kind::Rack | Kind::Zone => self.lab.restore(victim),
            Kind::Killed => timed(|| self.lab.restart_backend(victim)),
            Kind::Frozen => timed(|| self.lab.thaw_backend(victim)),
            Kind::Bfd => timed(|| self.birds[victim].thaw()),
            Kind::Operator => self.order("restore", victim),
        }
    }

    /// Says a word about a domain over the daemon's socket. It begins, and for the daemon it is, when the request is written.
    fn order(&self, action: &str, domain: &str) -> Result<FaultTime> {
        let (begin_ns, _) = post(
            self.daemon.socket(),
            &format!("/v1/domains/actions/{action}"),
            &serde_json::json!({ "domain": domain, "reason": "benchmark" }),
        )?;
        Ok(FaultTime { begin_ns, end_ns: begin_ns })
    }
}

/// When something was done.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<FaultTime> {
    let begin_ns = monotonic_ns();
    work()?;
    Ok(FaultTime { begin_ns, end_ns: monotonic_ns() })
}
