//! The UDP service of the backends: answers every datagram with the backend's name.
//!
//! A socket stays in the namespace where it was opened, so one thread serves all backends. Each socket is bound to a VIP:
//! a wildcard socket would answer from the backend's own address.
use super::{
    netns::Netns,
    topology::{Backend, echo_vips},
};
use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    collections::BTreeMap,
    net::UdpSocket,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// How soon the thread notices a new, frozen or closed responder.
const POLL_MS: u16 = 20;

struct Responder {
    sockets: Vec<UdpSocket>,
    is_frozen: bool,
}

/// The responders of one lab.
pub(crate) struct EchoServers {
    responders: Arc<Mutex<BTreeMap<String, Responder>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EchoServers {
    pub(crate) fn new() -> Self {
        let responders = Arc::new(Mutex::new(BTreeMap::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (responders, stop) = (responders.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    serve(&responders);
                }
            }
        });
        EchoServers { responders, stop, thread: Some(thread) }
    }

    /// Opens the sockets of a backend, as its process starting.
    pub(crate) fn start(&self, netns: &Netns, backend: &Backend) -> Result<()> {
        let sockets = netns.run(|| {
            let open = |vip| -> Result<UdpSocket> {
                let socket = UdpSocket::bind(vip).with_context(|| format!("cannot bind UDP {vip}"))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            };
            echo_vips().into_iter().map(open).collect::<Result<Vec<_>>>()
        })?;
        self.lock().insert(backend.name.clone(), Responder { sockets, is_frozen: false });
        Ok(())
    }

    /// Closes the sockets, as its process dying: the host answers "port unreachable" from now on.
    pub(crate) fn kill(&self, backend: &str) {
        self.lock().remove(backend);
    }

    /// Stops or goes on answering, as its process being stopped or continued.
    pub(crate) fn freeze(&self, backend: &str, is_frozen: bool) {
        if let Some(responder) = self.lock().get_mut(backend) {
            responder.is_frozen = is_frozen;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Responder>> {
        self.responders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for EchoServers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has no result, and a panic of it was printed.
            let _ = thread.join();
        }
    }
}

/// Waits for datagrams for a moment, without holding the lock, and answers those that are there.
fn serve(responders: &Mutex<BTreeMap<String, Responder>>) {
    let lock = || responders.lock().unwrap_or_else(PoisonError::into_inner);
    // Own descriptors of the same sockets, so that closing a responder meanwhile is no race; they are closed below.
    let waiting: Vec<_> = (lock().values().filter(|responder| !responder.is_frozen))
        .flat_map(|responder| &responder.sockets)
        .filter_map(|socket| socket.try_clone().ok())
        .collect();
    let mut polled: Vec<_> = waiting.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
    if !matches!(poll(&mut polled, PollTimeout::from(POLL_MS)), Ok(1..)) {
        return;
    }
    let mut datagram = [0; 2048];
    for (name, responder) in lock().iter().filter(|(_, responder)| !responder.is_frozen) {
        for socket in &responder.sockets {
            while let Ok((_, from)) = socket.recv_from(&mut datagram) {
                // A client that is gone is no concern of a responder.
                let _ = socket.send_to(name.as_bytes(), from);
            }
        }
    }
}
