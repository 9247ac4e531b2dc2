//! Random configurations, and changes from one to the next.
#![allow(dead_code, reason = "each test uses its part of it")]

use lb_userspace::{
    config::Config,
    plan::{compile::compile, image::Image},
};
use proptest::prelude::*;
use std::fmt::Write as _;

/// Sets, each in a zone of its own.
const SETS: usize = 2;
/// Backends that a set may have.
const BACKENDS: usize = 5;
/// Services that there may be; the second one is over IPv6, the last one a sticky one over UDP.
pub(crate) const SERVICES: usize = 4;

const NODE: &str = r#"
[node]
name = "edge"
region = "r0"
interfaces = ["eth0"]
hash_key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
tunnel_source_v4 = "10.255.0.0/16"
[topology.r0]
z0 = ["k0", "k1", "k2"]
z1 = ["k0", "k1", "k2"]
[client_regions]
"#;
/// What client regions there may be: the clients of 10.7.0.0/16 (and their like of IPv6) are inland, or those of 10.8.0.0/16, or there is a
/// region before that one, so that it has another number, or nobody is.
const CLIENTS: [&str; 4] = [
    "inland = [\"10.7.0.0/16\", \"2001:db8:7::/48\"]\n",
    "inland = [\"10.8.0.0/16\", \"2001:db8:8::/48\"]\n",
    "abroad = [\"10.7.0.0/16\", \"2001:db8:7::/48\"]\ninland = [\"10.8.0.0/16\", \"2001:db8:8::/48\"]\n",
    "inland = [\"10.9.0.0/16\"]\n",
];

/// A backend of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    weight: u32,
    rack: u8,
}

/// A service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    large: bool,
    /// The second set comes first.
    turned: bool,
    /// The client region has the plan the other way round.
    by_region: bool,
    /// There is one pool over both sets.
    joined: bool,
    fail_open: bool,
}

/// What a configuration has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scene {
    backends: [[Option<Backend>; BACKENDS]; SETS],
    services: [Option<Service>; SERVICES],
    /// Which of [`CLIENTS`].
    clients: usize,
}

/// One difference between a configuration and the next.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Backend(usize, usize, Option<Backend>),
    Service(usize, Option<Service>),
    Clients(usize),
}

fn backend() -> impl Strategy<Value = Backend> {
    (prop::sample::select(vec![100_u32, 70, 30]), 0_u8..3).prop_map(|(weight, rack)| Backend { weight, rack })
}

fn service() -> impl Strategy<Value = Service> {
    (
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(large, turned, by_region, joined, fail_open)| Service {
            large,
            turned,
            by_region,
            joined,
            fail_open,
        })
}

pub(crate) fn scene() -> impl Strategy<Value = Scene> {
    let backends = prop::array::uniform2(prop::array::uniform5(prop::option::weighted(0.7, backend())));
    let services = prop::array::uniform4(prop::option::weighted(0.6, service()));
    (backends, services, 0..CLIENTS.len())
        .prop_map(|(backends, services, clients)| Scene { backends, services, clients }.made_valid())
}

/// One service over all backends, some of both sets.
pub(crate) fn plain_scene() -> impl Strategy<Value = Scene> {
    scene().prop_map(|mut scene| {
        let joined =
            Service { large: false, turned: false, by_region: false, joined: true, fail_open: false };
        scene.services = [Some(joined), None, None, None];
        scene
    })
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let one_backend = (0..SETS, 0..BACKENDS, prop::option::weighted(0.6, backend()));
    let one_service = (0..SERVICES, prop::option::weighted(0.6, service()));
    prop_oneof![
        6 => one_backend.prop_map(|(set, at, backend)| Change::Backend(set, at, backend)),
        2 => one_service.prop_map(|(at, service)| Change::Service(at, service)),
        1 => (0..CLIENTS.len()).prop_map(Change::Clients),
    ]
}

impl Scene {
    /// The scene after some changes.
    pub(crate) fn changed(&self, changes: &[Change]) -> Self {
        let mut scene = self.clone();
        for change in changes {
            match *change {
                Change::Backend(set, at, backend) => scene.backends[set][at] = backend,
                Change::Service(at, service) => scene.services[at] = service,
                Change::Clients(clients) => scene.clients = clients,
            }
        }
        scene.made_valid()
    }

    /// A set is never empty, and some service is there.
    fn made_valid(mut self) -> Self {
        for set in &mut self.backends {
            if set.iter().all(Option::is_none) {
                set[0] = Some(Backend { weight: 100, rack: 0 });
            }
        }
        let plain =
            Service { large: false, turned: false, by_region: false, joined: false, fail_open: false };
        if self.services.iter().all(Option::is_none) {
            self.services[0] = Some(plain);
        }
        self
    }

    /// Numbers of the services that are there.
    pub(crate) fn present(&self) -> Vec<usize> {
        (0..SERVICES).filter(|&at| self.services[at].is_some()).collect()
    }

    /// Whether a service is over UDP.
    pub(crate) const fn is_udp(service: usize) -> bool {
        service + 1 == SERVICES
    }

    /// Whether a service is over IPv6.
    pub(crate) const fn is_ipv6(service: usize) -> bool {
        service == 1
    }

    /// The image that this compiles to.
    pub(crate) fn image(&self) -> Image {
        let text = self.text();
        let config = Config::parse(&text, "random.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
        compile(&config).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    fn text(&self) -> String {
        let mut text = NODE.to_owned() + CLIENTS[self.clients];
        for (s, set) in self.backends.iter().enumerate() {
            let _ = writeln!(text, "[[set]]\nname = \"s{s}\"\ndomain = \"r0/z{s}\"\nchecks = []");
            for (b, backend) in set.iter().enumerate() {
                let Some(Backend { weight, rack }) = backend else { continue };
                let _ = writeln!(
                    text,
                    "[[set.backend]]\nname = \"b{s}x{b}\"\nrack = \"r0/z{s}/k{rack}\"\naddress = \"10.1.{s}.{}\"\n\
                     weight = {weight}",
                    b + 1
                );
            }
        }
        for (at, service) in self.services.iter().enumerate() {
            if let Some(service) = service {
                write_service(&mut text, at, service);
            }
        }
        text
    }
}

fn write_service(text: &mut String, at: usize, service: &Service) {
    let size = if service.large { 16_381 } else { 4_093 };
    let protocol = if Scene::is_udp(at) { "udp\"\nudp = \"stick" } else { "tcp" };
    let vip = if Scene::is_ipv6(at) { "2001:db8::1" } else { "192.0.2.1" };
    let all_down = if service.fail_open { "fail-open" } else { "drop" };
    let _ = writeln!(
        text,
        "[[service]]\nname = \"v{at}\"\naddress = \"{vip}\"\nport = {}\nprotocol = \"{protocol}\"\n\
         on_all_down = \"{all_down}\"",
        80 + at
    );
    if service.joined {
        let _ =
            writeln!(text, "[[service.pool]]\nname = \"all\"\nsets = [\"s0\", \"s1\"]\ntable_size = {size}");
        return;
    }
    for s in 0..SETS {
        let _ = writeln!(text, "[[service.pool]]\nname = \"p{s}\"\nsets = [\"s{s}\"]\ntable_size = {size}");
    }
    let (first, second) = if service.turned { ("p1", "p0") } else { ("p0", "p1") };
    let _ = writeln!(text, "[service.plan]\ndefault = [\"{first}\", \"{second}\"]");
    if service.by_region {
        let _ = writeln!(text, "inland = [\"{second}\", \"{first}\"]");
    }
}
