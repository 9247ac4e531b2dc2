//! Steady HTTP traffic of one client: connections that stay open, and new ones at a constant rate. Every request is
//! recorded.
use super::http;
use crate::{
    clock::monotonic_ns,
    lab::{Client, Lab, Netns},
};
use anyhow::{Result, bail};
use std::{
    net::{SocketAddr, TcpStream},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Most connections that one client keeps open, and most threads that open new ones.
const CONNECTIONS_MAX: usize = 512;
/// Most requests that one client records; more are counted only.
const RECORDS_MAX: usize = 1_000_000;
/// Source ports of new connections. Each thread goes round in its share, so that the same flow comes again and again.
const NEW_PORTS: Range<u16> = 10_000..14_000;
/// Source ports of kept connections. One that broke is replaced by one with another port.
const KEPT_PORTS: Range<u16> = 30_000..50_000;
/// Stack of a thread that has one connection.
const STACK_BYTES: usize = 128 * 1024;

/// What one client asks for.
#[derive(Clone, Debug)]
pub struct SteadyLoad {
    /// The VIPs asked in turn.
    pub vips: Vec<SocketAddr>,
    /// Connections that stay open, each with one request per `kept_period`.
    pub kept: usize,
    /// Time between two requests of a kept connection.
    pub kept_period: Duration,
    /// New connections per second, each with one request.
    pub new_per_second: u32,
    /// Threads that open them: at most so many are waiting for an answer.
    pub openers: usize,
    /// Different source ports of new connections: the same flows come again and again.
    pub new_ports: u16,
    /// How long a connection or an answer may take until the request counts as lost.
    pub timeout: Duration,
}

impl Default for SteadyLoad {
    /// Both web VIPs; 32 kept connections asking every 50 ms; 200 new ones per second from 1000 ports; lost after 2.5 s,
    /// which lets one SYN be repeated.
    fn default() -> Self {
        SteadyLoad {
            vips: crate::lab::web_vips().to_vec(),
            kept: 32,
            kept_period: Duration::from_millis(50),
            new_per_second: 200,
            openers: 40,
            new_ports: 1000,
            timeout: Duration::from_millis(2500),
        }
    }
}

/// One request. Times are CLOCK_MONOTONIC in nanoseconds.
#[derive(Clone, Debug)]
pub struct Request {
    /// Client region it came from.
    pub client: String,
    /// The VIP that it was sent to.
    pub vip: SocketAddr,
    /// Source port.
    pub port: u16,
    /// It went over a connection that had answered before.
    pub is_kept: bool,
    /// Before it was sent; for a new connection, before the SYN.
    pub sent_ns: u64,
    /// When it was answered or given up.
    pub done_ns: u64,
    /// Who answered, or what went wrong.
    pub answer: Result<String, String>,
}

/// Traffic that goes on until it is stopped or dropped.
pub struct Traffic {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    load: SteadyLoad,
    client: Client,
    netns: Netns,
    stop: AtomicBool,
    records: Mutex<Vec<Request>>,
    unrecorded: AtomicU64,
}

impl Lab {
    /// Starts steady traffic from the client of a client region.
    ///
    /// # Errors
    /// No such client, no VIP, or more connections than [`Traffic`] has threads for.
    pub fn steady(&self, client: &str, load: SteadyLoad) -> Result<Traffic> {
        if load.kept > CONNECTIONS_MAX || load.openers > CONNECTIONS_MAX || load.vips.is_empty() {
            bail!(
                "steady traffic has 1 or more VIPs, and up to {CONNECTIONS_MAX} kept connections and openers"
            );
        }
        if load.new_per_second > 0 && !(load.openers..=NEW_PORTS.len()).contains(&usize::from(load.new_ports))
        {
            bail!(
                "new connections need between {} (one per opener) and {} ports",
                load.openers,
                NEW_PORTS.len()
            );
        }
        let shared = Arc::new(Shared {
            client: self.topology().client(client)?.clone(),
            netns: self.client_netns(client)?.clone(),
            stop: AtomicBool::new(false),
            records: Mutex::default(),
            unrecorded: AtomicU64::new(0),
            load,
        });
        let mut threads = Vec::new();
        for index in 0..shared.load.kept {
            threads.push(spawn(&shared, move |shared| keep(shared, index))?);
        }
        if shared.load.new_per_second > 0 {
            for index in 0..shared.load.openers {
                threads.push(spawn(&shared, move |shared| open(shared, index))?);
            }
        }
        Ok(Traffic { shared, threads })
    }
}

fn spawn(shared: &Arc<Shared>, work: impl FnOnce(&Shared) + Send + 'static) -> Result<JoinHandle<()>> {
    let shared = shared.clone();
    let thread = thread::Builder::new().stack_size(STACK_BYTES);
    Ok(thread.spawn(move || match shared.netns.enter() {
        Ok(()) => work(&shared),
        Err(error) => eprintln!("load: {error:#}"),
    })?)
}

impl Traffic {
    /// The requests that were done since the `first` of the records (0: all), in the order in which they ended.
    pub fn records_from(&self, first: usize) -> Vec<Request> {
        self.shared.records().get(first..).unwrap_or_default().to_vec()
    }

    /// How many requests are recorded.
    pub fn count(&self) -> usize {
        self.shared.records().len()
    }

    /// Stops, waits for the requests on their way (up to the timeout), and returns all records.
    ///
    /// # Errors
    /// There were more requests than can be recorded.
    pub fn stop(mut self) -> Result<Vec<Request>> {
        self.join();
        let unrecorded = self.shared.unrecorded.load(Ordering::Relaxed);
        if unrecorded > 0 {
            bail!("{unrecorded} requests more than the {RECORDS_MAX} that can be recorded");
        }
        Ok(std::mem::take(&mut self.shared.records()))
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of it was printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.join();
    }
}

impl Shared {
    fn records(&self) -> MutexGuard<'_, Vec<Request>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Does one request and records it; returns whether it was answered.
    fn request(
        &self,
        vip: SocketAddr,
        port: u16,
        is_kept: bool,
        ask: impl FnOnce() -> Result<String>,
    ) -> bool {
        let sent_ns = monotonic_ns();
        let answer = ask().map_err(|error| format!("{error:#}"));
        let is_answered = answer.is_ok();
        let client = self.client.region.clone();
        let request = Request { client, vip, port, is_kept, sent_ns, done_ns: monotonic_ns(), answer };
        let mut records = self.records();
        if records.len() < RECORDS_MAX {
            records.push(request);
        } else {
            self.unrecorded.fetch_add(1, Ordering::Relaxed);
        }
        is_answered
    }

    fn connect(&self, vip: SocketAddr, port: u16) -> Result<TcpStream> {
        http::connect(http::source(&self.client, vip, port), vip, self.load.timeout)
    }
}

/// One kept connection: after an error it is replaced.
fn keep(shared: &Shared, index: usize) {
    let load = &shared.load;
    let vip = load.vips[index % load.vips.len()];
    let ports = KEPT_PORTS.skip(index).step_by(load.kept).cycle();
    let mut ticks = Ticks::new(load.kept_period, load.kept_period.mul_f64(index as f64 / load.kept as f64));
    for port in ports {
        let mut stream = None;
        ticks.wait(shared);
        let is_open =
            shared.request(vip, port, false, || http::ask(stream.insert(shared.connect(vip, port)?)));
        if let (true, Some(mut stream)) = (is_open, stream) {
            let mut is_alive = true;
            while is_alive && shared.goes_on() {
                ticks.wait(shared);
                is_alive = shared.request(vip, port, true, || http::ask(&mut stream));
            }
        }
        if !shared.goes_on() {
            return;
        }
    }
}

/// One of the threads that open new connections.
fn open(shared: &Shared, index: usize) {
    let load = &shared.load;
    let period = Duration::from_secs(1).mul_f64(load.openers as f64 / f64::from(load.new_per_second));
    let mut ticks = Ticks::new(period, period.mul_f64(index as f64 / load.openers as f64));
    let ports = NEW_PORTS.take(load.new_ports.into()).skip(index).step_by(load.openers);
    for port in ports.cycle() {
        ticks.wait(shared);
        if !shared.goes_on() {
            return;
        }
        // By the port, so that the same flow comes again.
        let vip = load.vips[usize::from(port) % load.vips.len()];
        shared.request(vip, port, false, || http::ask(&mut shared.connect(vip, port)?));
    }
}

/// Fixed points in time; those that were missed are left out.
struct Ticks {
    next: Instant,
    period: Duration,
}

impl Ticks {
    fn new(period: Duration, phase: Duration) -> Self {
        Ticks { next: Instant::now() + phase, period }
    }

    /// Until the next one, or until the traffic is stopped (looked at every period).
    fn wait(&mut self, shared: &Shared) {
        let now = Instant::now();
        while self.next < now {
            self.next += self.period;
        }
        if shared.goes_on() {
            thread::sleep(self.next - now);
        }
        self.next += self.period;
    }
}
