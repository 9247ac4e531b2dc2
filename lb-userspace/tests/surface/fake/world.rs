//! What the fake daemon says: one of each kind of trouble.

use super::*;

fn health(state: State, automatic: State, word: Option<Override>) -> HealthView {
    let left_s = word.as_ref().map(|_| 7_140);
    HealthView { state, automatic, since: moment(), word, left_s, drain: None, shift: None, damping: None }
}

fn backend(name: &str, rack: &str, address: &str, health: HealthView, effective: Shares) -> BackendView {
    let (new, old) = health.state.shares();
    BackendView {
        name: name.to_owned(),
        address: address.parse().unwrap(),
        rack: rack.to_owned(),
        set: "web-w1".to_owned(),
        weight: 100,
        relay: false,
        spared: false,
        health,
        admission: Admission::new(new, old).into(),
        effective,
        limited_by: None,
        checks: vec![CheckView {
            name: "heartbeat".to_owned(),
            port: 6777,
            state: CheckState::Passing,
            last: "answered".to_owned(),
            answered: 12_000,
            missed: 3,
            last_rtt_ns: Some(61_250),
        }],
        next_hop: Some(NextHop { interface: "eth0".to_owned(), mac: "02:00:00:00:00:01".to_owned() }),
        packets: 1_234_567,
        bytes: 987_654_321,
        opening: 4_321,
        flows: 12,
        quiet_s: 0,
        drained: false,
    }
}

fn domain(path: &str, level: Level, health: HealthView) -> DomainView {
    let (new, old) = health.state.shares();
    let backends = StateCounts { up: 2, suspect: 0, down: 1, draining: 0, ramp: 0 };
    DomainView { path: path.to_owned(), level, health, admission: Admission::new(new, old).into(), backends }
}

/// Backends and domains out of order, one of each kind of trouble.
pub(super) fn world() -> World {
    let word = Override::new(Action::Drain, "kernel upgrade".to_owned(), moment());
    let mut limited = backend(
        "w1r2b1",
        "west/w1/r2",
        "10.1.2.11",
        health(State::Up, State::Up, None),
        Shares { new: 0, old: 0 },
    );
    limited.limited_by = Some("west/w1/r2".to_owned());
    limited.relay = true;
    limited.next_hop = None;
    let mut failing = backend(
        "e1r1b1",
        "east/e1/r1",
        "2001:db8::11",
        health(State::Down, State::Down, None),
        Shares { new: 0, old: 0 },
    );
    failing.checks[0].state = CheckState::Failing;
    failing.checks[0].last = "no answer".to_owned();
    let drained = health(State::Draining, State::Up, Some(word.clone()));
    let drained = backend("w1r1b1", "west/w1/r1", "10.1.1.11", drained, Shares { new: 0, old: 255 });
    let backends = vec![limited, failing, drained];
    let up = || health(State::Up, State::Up, None);
    let domains = vec![
        domain("west/w1/r2", Level::Rack, health(State::Down, State::Down, None)),
        domain("west", Level::Region, up()),
        domain("west/w1", Level::Zone, up()),
    ];
    World {
        status: status(&backends, &domains, word),
        services: vec![service()],
        backends,
        domains,
        switches: Vec::new(),
    }
}

/// One that is up and one that is awaited, out of order.
pub(super) fn sessions() -> Vec<BfdSessionView> {
    let diagnostic = |code, text: &str| DiagnosticView { code, text: text.to_owned() };
    let up = BfdSessionView {
        backends: vec!["w1r2b1".to_owned()],
        check: "alive".to_owned(),
        address: "10.1.2.11".parse().unwrap(),
        multihop: true,
        state: BfdState::Up,
        since: moment(),
        awaited: None,
        cause: None,
        flaps: 0,
        diagnostic: diagnostic(0, "no diagnostic"),
        discriminator: 0x1234_0001,
        multiplier: 3,
        desired_min_tx_us: 10_000,
        required_min_rx_us: 10_000,
        remote: Some(BfdRemoteView {
            state: BfdState::Up,
            diagnostic: diagnostic(3, "neighbor signaled session down"),
            discriminator: 0xab,
            multiplier: 5,
            desired_min_tx_us: 20_000,
            required_min_rx_us: 50_000,
        }),
        tx_interval_us: 50_000,
        rx_interval_us: 20_000,
        detection_us: Some(100_000),
        remote_detection_us: 150_000,
        heard_ago_us: Some(12_345),
    };
    let awaited = BfdSessionView {
        backends: vec!["w1r1b1".to_owned(), "w1r1b1-mail".to_owned()],
        address: "10.1.1.11".parse().unwrap(),
        multihop: false,
        state: BfdState::Down,
        awaited: Some(AwaitedView { why: "this host was silent".to_owned(), left_ms: 1_400 }),
        cause: Some("the peer said so".to_owned()),
        flaps: 3,
        diagnostic: diagnostic(3, "neighbor signaled session down"),
        discriminator: 0x1234_0002,
        remote: None,
        tx_interval_us: 1_000_000,
        rx_interval_us: 10_000,
        detection_us: None,
        heard_ago_us: None,
        ..up.clone()
    };
    vec![up, awaited]
}

pub(super) fn plan(service: &str) -> SteeredPlan {
    let pool = |pool: &str, healthy: f64, share: f64| SteeredPool {
        pool: pool.to_owned(),
        sets: vec![format!("{service}-{pool}")],
        members: 4,
        taking: 2,
        healthy_percent: healthy,
        capacity: (pool == "west").then_some(900),
        arrivals: 70.0,
        share_percent: share,
        starts_percent: if pool == "west" { 100.0 } else { 0.0 },
        leaves_percent: 100.0 - healthy,
    };
    SteeredPlan {
        service: service.to_owned(),
        client_region: "default".to_owned(),
        mode: "zone-affine".to_owned(),
        rho: Some(0.7),
        residency: Some(vec!["west".to_owned(), "east".to_owned()]),
        panic: false,
        panic_threshold_percent: 50.0,
        healthy_percent: 75.0,
        demand: 100.0,
        spilled_percent: 30.0,
        unfit_percent: 0.0,
        pools: vec![pool("west", 50.0, 70.0), pool("east", 100.0, 30.0)],
        why: vec!["50 % of pool west take new flows".to_owned()],
    }
}

pub(super) fn simulation(request: SimulateRequest) -> Simulation {
    let plan = SimulatedPlan {
        service: "web".to_owned(),
        client_region: "default".to_owned(),
        demand: 150.0,
        panic: false,
        unfit_percent: 0.0,
        pools: vec![SimulatedShare { pool: "west".to_owned(), now_percent: 100.0, then_percent: 35.0 }],
    };
    let pool = SimulatedPool {
        service: "web".to_owned(),
        pool: "west".to_owned(),
        healthy_now_percent: 100.0,
        healthy_then_percent: 25.0,
        capacity: Some(225.0),
        offered: 300.5,
        arrivals: 52.5,
        exceeds: true,
    };
    Simulation { fail: request.fail, load: request.load.unwrap_or(1.0), plans: vec![plan], pools: vec![pool] }
}

pub(super) fn guard(service: &str) -> GuardView {
    GuardView {
        service: service.to_owned(),
        priority: Priority::P3,
        allowed_prefixes: 0,
        denied_prefixes: 2,
        packets: Some(Rate { per_second: 1_000, burst: 100 }),
        new_flows: None,
        max_new_flows: Some(500),
        per_source: Some(PerSourceView {
            v4: 24,
            v6: 56,
            packets: None,
            new_flows: Some(Rate { per_second: 10, burst: 1 }),
        }),
        shed_percent: 12.5,
        switch_shed_percent: 0.0,
        switches: vec![format!("stop:{service}")],
        refused: [("source_denied".to_owned(), 7), ("shed".to_owned(), 0)].into(),
    }
}

fn service() -> ServiceView {
    let pool = |name: &str, available| PoolView {
        name: name.to_owned(),
        table_size: 65_537,
        sets: vec![format!("web-{name}")],
        backends: 2,
        available,
        admission: Admission::OPEN.into(),
    };
    let plan = |region: &str, pools: [&str; 2]| PlanView {
        client_region: region.to_owned(),
        pools: pools.map(str::to_owned).to_vec(),
    };
    ServiceView {
        name: "web".to_owned(),
        address: "2001:db8::10".parse().unwrap(),
        port: Ports::one(80),
        protocol: Protocol::Tcp,
        on_all_down: OnAllDown::FailOpen,
        forwarding: "gue to port 6080".to_owned(),
        reach: Reach::Route,
        udp: None,
        quic: false,
        pools: vec![pool("east", 1), pool("west", 0)],
        plans: vec![plan("default", ["west", "east"]), plan("east", ["east", "west"])],
        traffic: ServiceTraffic { packets: 2_469_134, bytes: 1_975_308_642, opening: 4_321, dropped: 17 },
    }
}

fn status(backends: &[BackendView], domains: &[DomainView], word: Override) -> Status {
    let reason = |reason: &str, verdict, packets| ReasonCount {
        reason: reason.to_owned(),
        verdict,
        packets,
        bytes: packets * 60,
    };
    let gone = SubjectName { kind: SubjectKind::Domain, name: "north/n1".to_owned() };
    let drained = SubjectName { kind: SubjectKind::Backend, name: "w1r1b1".to_owned() };
    Status {
        node: NodeStatus {
            name: "edge-1".to_owned(),
            region: "west".to_owned(),
            zone: Some("west/w1".to_owned()),
        },
        daemon: DaemonStatus {
            version: "0.1.0".to_owned(),
            abi: 1,
            pid: 4242,
            started: moment(),
            uptime_s: 3_725,
            adopted: true,
        },
        config: ConfigStatus {
            file: "/etc/weir/weir.toml".into(),
            digest: "0123456789abcdef0123456789abcdef".to_owned(),
            loaded: Some(moment()),
            reloads: 1,
            failed_reloads: 0,
            last_error: None,
        },
        xdp: XdpStatus {
            mode: XdpMode::Native,
            bpffs: "/sys/fs/bpf/weir".into(),
            interfaces: vec![
                InterfaceStatus { name: "eth0".to_owned(), ifindex: 2, attached: true },
                InterfaceStatus { name: "eth1".to_owned(), ifindex: 3, attached: false },
            ],
        },
        services: 1,
        backends: backends.iter().map(|backend| backend.health.state).collect(),
        domains: domains.iter().map(|domain| domain.health.state).collect(),
        isolated: true,
        flows: FlowsStatus {
            entries: 1_234,
            capacity: 65_536,
            openings: 56,
            marked_slots: 789,
            transition_ends: Some(moment()),
            leaving_backends: 1,
            leaving_services: 0,
        },
        traffic: TrafficStatus {
            forwarded_packets: 2_469_134,
            forwarded_bytes: 1_975_308_642,
            reasons: vec![
                reason("pass_not_vip", VerdictKind::Pass, 5_000),
                reason("echo_answered", VerdictKind::Answer, 3),
                reason("all_down", VerdictKind::Drop, 17),
            ],
        },
        control: ControlStatus {
            scheduling: "SCHED_FIFO".to_owned(),
            rounds: 12_003,
            late_rounds: 2,
            stalled_rounds: 1,
            max_held_ns: 3_100_000,
            cpus: 4,
            silent_cpus: 0,
            max_lateness_ns: 410_000,
            bfd: std::collections::BTreeMap::new(),
            bfd_sessions: Some(BfdCounts { up: 1, down: 1, awaited: 1, flaps: 3, ..BfdCounts::default() }),
            stores: 9,
            lost_events: 0,
            lost_results: 0,
        },
        journal: JournalStatus::default(),
        unresolved_next_hops: vec!["w1r2b1".to_owned()],
        overrides: vec![
            OverrideView {
                subject: drained,
                word: word.clone(),
                active: true,
                left_s: Some(7_140),
                drain: None,
            },
            OverrideView {
                subject: gone,
                word: Override { action: Action::Fail, ..word },
                active: false,
                left_s: None,
                drain: None,
            },
        ],
        canaries: Vec::new(),
        shifts: vec![shift("west/w1", Some(Level::Zone), 25, "cooling is weak", 5_400)],
    }
}

pub(super) fn explanation(query: ExplainQuery) -> Explanation {
    let step = |kind, text: &str| ExplainStep::new(kind, text);
    let forwarded = query.opening;
    Explanation {
        query,
        hash: "0123456789abcdef".to_owned(),
        service: Some("web".to_owned()),
        client_region: Some("default".to_owned()),
        plan: vec!["west".to_owned(), "east".to_owned()],
        steps: vec![
            step(StepKind::Classify, "the destination is service web"),
            step(StepKind::Plan, "the client is in region default, whose plan is west, then east"),
            ExplainStep {
                pool: Some("west".to_owned()),
                backend: Some("w1r1b1".to_owned()),
                probe: Some(0),
                new_share: Some(0),
                old_share: Some(255),
                taken: Some(false),
                ..step(StepKind::Probe, "probe 0 finds w1r1b1, which takes no new flows")
            },
        ],
        backend: forwarded.then(|| ExplainBackend {
            name: "w1r2b1".to_owned(),
            rack: "west/w1/r2".to_owned(),
            address: "10.1.2.11".parse().unwrap(),
        }),
        outer: forwarded.then(|| Outer {
            source: "10.255.3.4".parse().unwrap(),
            destination: "10.1.2.11".parse().unwrap(),
        }),
        next_hop: forwarded
            .then(|| NextHop { interface: "eth0".to_owned(), mac: "02:00:00:00:00:01".to_owned() }),
        verdict: if forwarded { VerdictKind::Forward } else { VerdictKind::Drop },
        reason: if forwarded { "forwarded" } else { "all_down" }.to_owned(),
    }
}

/// A packet that a watcher sees.
pub(super) fn watched(query: &WatchQuery) -> WatchedPacket {
    let hex = |byte: &str| (query.snap > 0).then(|| byte.repeat(query.snap.min(60) as usize));
    WatchedPacket {
        time: moment(),
        arrived_ns: 5,
        interface: "eth0".to_owned(),
        length: 60,
        src: Some("198.51.100.7".parse().unwrap()),
        src_port: Some(40_000),
        dst: Some("192.0.2.10".parse().unwrap()),
        dst_port: Some(80),
        protocol: Some("tcp".to_owned()),
        shape: PacketShape::Whole,
        opening: true,
        relayed: false,
        service: Some("web".to_owned()),
        client_region: Some("west".to_owned()),
        step: Some(0),
        pool: Some("local".to_owned()),
        probes: Some(2),
        placed_by: Some(PlacedBy::Probing),
        flow_table: FlowUse::Written,
        backend: Some("w1r1b1".to_owned()),
        verdict: VerdictKind::Forward,
        reason: "forwarded".to_owned(),
        egress: Some("eth1".to_owned()),
        egress_length: Some(80),
        arrived: hex("aa"),
        left: hex("bb"),
    }
}

pub(super) fn shift(
    domain: &str,
    level: Option<Level>,
    keep_percent: u8,
    reason: &str,
    for_s: u64,
) -> ShiftView {
    let until = moment() + jiff::SignedDuration::from_secs(for_s.try_into().unwrap());
    let shift = Shift::new(keep_percent, Origin::Operator, reason.to_owned(), moment(), until);
    let domain = domain.to_owned();
    ShiftView { domain, level, shift, left_s: for_s, active: true, stored_ns: None }
}

pub(super) fn differences() -> Differences {
    Differences {
        backends: Changes { removed: vec!["w1r1b2".to_owned()], ..Changes::default() },
        tables: vec![TableChange {
            pool: "web/all".to_owned(),
            slots: 65_537,
            moved: 16_500,
            members: vec![MemberShare { backend: "w1r1b2".to_owned(), gained: 0, lost: 16_384 }],
        }],
        restart: vec!["node.socket: the API listens there".to_owned()],
        ..Differences::default()
    }
}
