//! One tenure: a configuration in force, with everything that runs for it.
//!
//! A reload begins the next tenure beside the present one: its maps are filled, its next hops found and its backends judged
//! while the present one goes on to forward and to watch. Then it is put in place, and the old one ends.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context as _;

use crate::{
    api::types::SubjectKind,
    config::Config,
    dataplane::{
        counters::CounterReader,
        live::LiveTables,
        loader::{DataPlane, Prepared, Start},
        nexthop::NextHops,
    },
    plan::{
        planner::{InitialHealth, Subject, Words},
        shift::Shift,
        state::Override,
    },
    runtime::{
        control::{self, Handle},
        guardian::Guardian,
        overrides::Overrides,
        steering::Steering,
        switches::Switches,
        walker::Walker,
    },
    telemetry::journal::Journal,
};

/// How long a data plane that is not in place yet waits for the first next hops.
const FIRST_NEXT_HOPS: Duration = Duration::from_secs(3);
/// How long it waits for the first verdict on every backend.
const FIRST_VERDICTS: Duration = Duration::from_secs(5);

/// A tenure that is about to begin.
pub(super) struct Heir {
    config: Arc<Config>,
    digest: [u8; 32],
    prepared: Prepared,
    hops: NextHops,
    control: Handle,
    recorder: JoinHandle<()>,
}

/// A tenure.
pub(super) struct Tenure {
    pub(super) config: Arc<Config>,
    /// Digest of the image.
    pub(super) digest: [u8; 32],
    pub(super) data_plane: DataPlane,
    pub(super) counters: CounterReader,
    pub(super) live: LiveTables,
    pub(super) hops: NextHops,
    pub(super) control: Handle,
    pub(super) walker: Walker,
    pub(super) guardian: Arc<Guardian>,
    watch: tokio::task::JoinHandle<()>,
    pub(super) steering: Arc<Steering>,
    steer: tokio::task::JoinHandle<()>,
    recorder: Mutex<Option<JoinHandle<()>>>,
}

impl Heir {
    /// Starts what watches for a data plane that is prepared. It writes into that only.
    pub(super) fn new(
        config: Arc<Config>,
        digest: [u8; 32],
        prepared: Prepared,
        overrides: &Overrides,
        journal: &Journal,
    ) -> anyhow::Result<Self> {
        let hops = NextHops::start(&config, prepared.next_hop_writer())
            .context("cannot watch next hops by netlink")?;
        // What ran before has told its words to what follows.
        let initial = match prepared.start() {
            Start::Adopted { .. } | Start::Replaced => InitialHealth::Adopted,
            Start::Fresh | Start::TakenOver { .. } => InitialHealth::Fresh,
        };
        let store = Box::new(prepared.admission_writer());
        let (control, events) =
            control::spawn(Arc::clone(&config), store, &standing(&config, overrides), initial)?;
        let recorder = journal.spawn(events).context("cannot start the journal's thread")?;
        Ok(Self { config, digest, prepared, hops, control, recorder })
    }

    pub(super) const fn config(&self) -> &Arc<Config> {
        &self.config
    }

    pub(super) const fn control(&self) -> &Handle {
        &self.control
    }

    /// Waits until a data plane that is about to be put in place knows where its backends are and which of them answer, so that
    /// its first packet goes to a live one. An adopted one forwards already.
    pub(super) async fn warm_up(&self) {
        if matches!(self.prepared.start(), Start::Adopted { .. }) {
            return;
        }
        let (hops, all_judged) = tokio::join!(
            self.hops.first_resolution(FIRST_NEXT_HOPS),
            self.control.first_verdicts(FIRST_VERDICTS)
        );
        if hops.unresolved() > 0 {
            tracing::warn!(
                unresolved = hops.unresolved(),
                backends = self.config.backends.len(),
                "backends without a next hop: packets for them are dropped until it is found"
            );
        }
        if !all_judged {
            tracing::warn!(
                "not every backend was judged in time: those without a verdict are believed to be up"
            );
        }
    }

    /// Puts it in place. On an error it ends, and what ran before goes on.
    pub(super) fn begin(self, switches: Switches, journal: &Journal) -> anyhow::Result<Tenure> {
        let Self { config, digest, prepared, hops, control, recorder } = self;
        // Switches that stand are in the data plane before its first packet.
        let steering = Steering::new(&config, prepared.steering(), prepared.guards(), journal.clone());
        let steering = Arc::new(steering);
        let guardian =
            Guardian::new(Arc::clone(&config), prepared.guards(), switches, steering.fits(), journal.clone());
        let guardian = Arc::new(guardian);
        let data_plane = match prepared.put_in_place() {
            Ok(data_plane) => data_plane,
            Err(error) => {
                control.stop();
                return Err(error.into());
            }
        };
        hops.announce();
        let walker = Walker::start(&config, &data_plane, control.clone(), journal.clone())
            .context("cannot start the thread that walks the flow table")?;
        let watch = tokio::spawn(Arc::clone(&guardian).watch());
        let steer = tokio::spawn(Arc::clone(&steering).watch(control.words_stored(), walker.walked()));
        Ok(Tenure {
            guardian,
            watch,
            steering,
            steer,
            counters: data_plane.counters(),
            live: data_plane.live(),
            config,
            digest,
            data_plane,
            hops,
            control,
            walker,
            recorder: Mutex::new(Some(recorder)),
        })
    }

    /// Ends what never began.
    pub(super) fn give_up(self) {
        self.control.stop();
    }
}

impl Tenure {
    /// Stops what watches and waits for its end, and until its events are written. The data plane stays as it is.
    pub(super) fn stop(&self) {
        self.watch.abort();
        self.steer.abort();
        self.walker.stop();
        self.control.stop();
        let recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It ends with the control thread, which holds the only sender of events.
        if recorder.is_some_and(|recorder| recorder.join().is_err()) {
            tracing::error!("the journal's thread failed");
        }
    }
}

/// What was said of what the configuration has.
fn standing(config: &Config, overrides: &Overrides) -> Words {
    let waits =
        |subject: &str| tracing::warn!(subject, "a word waits for something the configuration does not have");
    let find = |(subject, word): (&crate::api::types::SubjectName, &Override)| {
        let found = match subject.kind {
            SubjectKind::Backend => config.find_backend(&subject.name).map(Subject::Backend),
            SubjectKind::Domain => config.topology.find(&subject.name).map(Subject::Domain),
        };
        if found.is_none() {
            waits(&subject.name);
        }
        found.map(|found| (found, word.clone()))
    };
    let find_domain = |(path, shift): (&String, &Shift)| {
        let found = config.topology.find(path);
        if found.is_none() {
            waits(path);
        }
        found.map(|id| (id, shift.clone()))
    };
    Words {
        overrides: overrides.iter().filter_map(find).collect(),
        shifts: overrides.shifts().filter_map(find_domain).collect(),
    }
}
