//! What the file says, key by key, with places; nothing is resolved or checked yet but the types.
//!
//! `None` means that the key is absent. Where it must not be, or where it has another type, that is already reported.

use toml::de::{DeTable, DeValue};

use super::fields::{At, Fields, Text, Texts};
use super::http::RawHttp;
use super::raw_plan::{RawPlan, read_lists};
use super::raw_protection::RawProtection;
use super::raw_relay::{RawNodeRelay, RawRelay};
use super::report::{Finding, Report, Span, quote};

/// The whole file.
pub(super) struct RawConfig<'a> {
    pub(super) node: Option<RawNode<'a>>,
    pub(super) regions: Vec<RawRegion<'a>>,
    pub(super) client_regions: Vec<(Text<'a>, Texts<'a>)>,
    pub(super) checks: Vec<RawCheck<'a>>,
    pub(super) sets: Vec<RawSet<'a>>,
    pub(super) services: Vec<RawService<'a>>,
    /// Groups of other regions' hosts, until they are entered among the sets.
    pub(super) relays: Vec<RawRelay<'a>>,
    pub(super) recovery: Option<RawRecovery<'a>>,
    pub(super) http: Option<RawHttp<'a>>,
}

/// `[recovery]`.
pub(super) struct RawRecovery<'a> {
    pub(super) half_open_share: Option<At<i64>>,
    pub(super) half_open: Option<Text<'a>>,
    pub(super) slow_start: Option<Text<'a>>,
    pub(super) flap_half_life: Option<Text<'a>>,
}

/// `[node]`.
pub(super) struct RawNode<'a> {
    pub(super) span: Span,
    /// See [`Fields::mistyped`].
    pub(super) mistyped: bool,
    pub(super) name: Option<Text<'a>>,
    pub(super) region: Option<Text<'a>>,
    pub(super) zone: Option<Text<'a>>,
    pub(super) interfaces: Option<Texts<'a>>,
    pub(super) mode: Option<Text<'a>>,
    pub(super) hash_key: Option<Text<'a>>,
    pub(super) hash_key_file: Option<Text<'a>>,
    pub(super) tunnel_source_v4: Option<Text<'a>>,
    pub(super) tunnel_source_v6: Option<Text<'a>>,
    pub(super) state_dir: Option<Text<'a>>,
    pub(super) socket: Option<Text<'a>>,
    pub(super) bpffs: Option<Text<'a>>,
    pub(super) max_new_flows: Option<At<i64>>,
    pub(super) transition: Option<Text<'a>>,
    pub(super) flow_idle: Option<Text<'a>>,
    pub(super) flow_entries: Option<At<i64>>,
    pub(super) opening_entries: Option<At<i64>>,
    pub(super) answers_per_second: Option<At<i64>>,
    pub(super) client_prefixes_file: Option<Text<'a>>,
    pub(super) panic_threshold: Option<At<i64>>,
    pub(super) target_utilisation: Option<At<i64>>,
    pub(super) max_ejected: Option<At<i64>>,
    pub(super) withdraw_command: Option<Texts<'a>>,
    pub(super) announce_command: Option<Texts<'a>>,
    pub(super) relay: RawNodeRelay<'a>,
}

/// `[topology.REGION]`: zones with their racks.
pub(super) struct RawRegion<'a> {
    pub(super) name: Text<'a>,
    pub(super) zones: Vec<(Text<'a>, Texts<'a>)>,
}

/// `[[check]]`.
pub(super) struct RawCheck<'a> {
    pub(super) span: Span,
    /// See [`Fields::mistyped`].
    pub(super) mistyped: bool,
    pub(super) name: Option<Text<'a>>,
    pub(super) kind: Option<Text<'a>>,
    pub(super) port: Option<At<i64>>,
    pub(super) interval: Option<Text<'a>>,
    pub(super) timeout: Option<Text<'a>>,
    pub(super) fall: Option<At<i64>>,
    pub(super) rise: Option<At<i64>>,
    pub(super) jitter: Option<At<i64>>,
    pub(super) via: Option<Text<'a>>,
    pub(super) vip: Option<Text<'a>>,
    /// Every key that stands there, with its place.
    pub(super) keys: Vec<Text<'a>>,
    pub(super) method: Option<Text<'a>>,
    pub(super) path: Option<Text<'a>>,
    pub(super) host: Option<Text<'a>>,
    pub(super) status: Option<Texts<'a>>,
    pub(super) body: Option<Text<'a>>,
    pub(super) body_limit: Option<At<i64>>,
    pub(super) server_name: Option<Text<'a>>,
    pub(super) ca_file: Option<Text<'a>>,
    pub(super) verify: Option<At<bool>>,
    pub(super) send: Option<Text<'a>>,
    pub(super) send_hex: Option<Text<'a>>,
    pub(super) expect: Option<Text<'a>>,
    pub(super) expect_hex: Option<Text<'a>>,
    pub(super) expect_at: Option<Text<'a>>,
    pub(super) query: Option<Text<'a>>,
    /// `type`.
    pub(super) record: Option<Text<'a>>,
    pub(super) rcode: Option<Text<'a>>,
    pub(super) command: Option<Texts<'a>>,
    pub(super) user: Option<Text<'a>>,
    pub(super) multihop: Option<At<bool>>,
    pub(super) receive_interval: Option<Text<'a>>,
    pub(super) multiplier: Option<At<i64>>,
    pub(super) passive: Option<At<bool>>,
    pub(super) local: Option<Texts<'a>>,
}

/// `[[set]]`.
pub(super) struct RawSet<'a> {
    pub(super) span: Span,
    /// See [`Fields::mistyped`].
    pub(super) mistyped: bool,
    pub(super) name: Option<Text<'a>>,
    pub(super) domain: Option<Text<'a>>,
    pub(super) checks: Option<Texts<'a>>,
    pub(super) backends: Vec<RawBackend<'a>>,
    /// Whether it stands for a `[[relay]]`.
    pub(super) relay: bool,
}

/// `[[set.backend]]`.
pub(super) struct RawBackend<'a> {
    pub(super) name: Option<Text<'a>>,
    pub(super) rack: Option<Text<'a>>,
    pub(super) address: Option<Text<'a>>,
    pub(super) weight: Option<At<i64>>,
    pub(super) quic_server_id: Option<Text<'a>>,
    pub(super) quic_rotation_id: Option<Text<'a>>,
}

/// `[[service]]`.
pub(super) struct RawService<'a> {
    pub(super) span: Span,
    /// See [`Fields::mistyped`].
    pub(super) mistyped: bool,
    pub(super) name: Option<Text<'a>>,
    pub(super) address: Option<Text<'a>>,
    pub(super) port: Option<At<i64>>,
    pub(super) ports: Option<Text<'a>>,
    pub(super) protocol: Option<Text<'a>>,
    pub(super) on_all_down: Option<Text<'a>>,
    pub(super) forwarding: Option<Text<'a>>,
    pub(super) gue_port: Option<At<i64>>,
    pub(super) reach: Option<Text<'a>>,
    pub(super) udp: Option<Text<'a>>,
    pub(super) quic: Option<RawQuic>,
    pub(super) pools: Vec<RawPool<'a>>,
    pub(super) plan: Option<RawPlan<'a>>,
    /// `[service.residency]`.
    pub(super) residency: Option<At<Vec<(Text<'a>, Texts<'a>)>>>,
    pub(super) panic_threshold: Option<At<i64>>,
    pub(super) protection: RawProtection<'a>,
}

/// `[[service.pool]]`.
pub(super) struct RawPool<'a> {
    pub(super) span: Span,
    pub(super) name: Option<Text<'a>>,
    pub(super) sets: Option<Texts<'a>>,
    pub(super) standby: Option<Texts<'a>>,
    pub(super) relay: Option<Text<'a>>,
    pub(super) table_size: Option<At<i64>>,
    pub(super) capacity: Option<At<i64>>,
}

/// `[service.quic]`, or `[service.quic.rotation]`, which has none of its own.
pub(super) struct RawQuic {
    pub(super) span: Span,
    pub(super) config_id: Option<At<i64>>,
    pub(super) server_id_length: Option<At<i64>>,
    pub(super) rotation: Option<Box<RawQuic>>,
}

impl<'a> RawConfig<'a> {
    /// Reads the whole tree.
    pub(super) fn read(root: &'a DeTable<'a>, report: &mut Report) -> Self {
        let mut fields = Fields::new(root, 0..0, "the file");
        let node = fields.table("node", "[node]", report).map(|f| RawNode::read(f, report));
        if node.is_none() && root.get("node").is_none() {
            report.add(|| {
                Finding::new(&(0..0), "the file has no [node] table").help(
                    "add [node] with name, region, interfaces and hash_key: they describe this edge host",
                )
            });
        }
        let topology = fields.table("topology", "[topology]", report);
        let client_regions = fields.table("client_regions", "[client_regions]", report);
        let checks = fields.tables("check", "[[check]]", report);
        let sets = fields.tables("set", "[[set]]", report);
        let services = fields.tables("service", "[[service]]", report);
        let relays = fields.tables("relay", "[[relay]]", report);
        let recovery = fields.table("recovery", "[recovery]", report);
        let http = fields.table("http", "[http]", report);
        fields.finish(report);
        Self {
            node,
            regions: topology.map_or_else(Vec::new, |f| RawRegion::read_all(&f, report)),
            client_regions: client_regions.map_or_else(Vec::new, |f| read_lists(&f, report)),
            checks: checks.into_iter().map(|f| RawCheck::read(f, report)).collect(),
            sets: sets.into_iter().map(|f| RawSet::read(f, report)).collect(),
            services: services.into_iter().map(|f| RawService::read(f, report)).collect(),
            relays: relays.into_iter().map(|f| RawRelay::read(f, report)).collect(),
            recovery: recovery.map(|f| RawRecovery::read(f, report)),
            http: http.map(|f| RawHttp::read(f, report)),
        }
    }
}

impl<'a> RawRecovery<'a> {
    fn read(mut fields: Fields<'a>, report: &mut Report) -> Self {
        let raw = Self {
            half_open_share: fields.integer("half_open_share", report),
            half_open: fields.duration("half_open", report),
            slow_start: fields.duration("slow_start", report),
            flap_half_life: fields.duration("flap_half_life", report),
        };
        fields.finish(report);
        raw
    }
}

impl<'a> RawNode<'a> {
    fn read(mut fields: Fields<'a>, report: &mut Report) -> Self {
        let mut raw = Self {
            span: fields.span.clone(),
            mistyped: false,
            name: fields.required("name", "name = \"edge-1\": how events and status call this host", report),
            region: fields.required("region", "region = \"...\": the region this host stands in", report),
            zone: fields.string("zone", report),
            interfaces: fields.required_strings(
                "interfaces",
                "interfaces = [\"eth0\"]: where packets for the services arrive",
                report,
            ),
            mode: fields.string("mode", report),
            hash_key: fields.string("hash_key", report),
            hash_key_file: fields.string("hash_key_file", report),
            tunnel_source_v4: fields.string("tunnel_source_v4", report),
            tunnel_source_v6: fields.string("tunnel_source_v6", report),
            state_dir: fields.string("state_dir", report),
            socket: fields.string("socket", report),
            bpffs: fields.string("bpffs", report),
            max_new_flows: fields.integer("max_new_flows", report),
            transition: fields.duration("transition", report),
            flow_idle: fields.duration("flow_idle", report),
            flow_entries: fields.integer("flow_entries", report),
            opening_entries: fields.integer("opening_entries", report),
            answers_per_second: fields.integer("answers_per_second", report),
            client_prefixes_file: fields.string("client_prefixes_file", report),
            panic_threshold: fields.integer("panic_threshold", report),
            target_utilisation: fields.integer("target_utilisation", report),
            max_ejected: fields.integer("max_ejected", report),
            withdraw_command: fields.strings("withdraw_command", report),
            announce_command: fields.strings("announce_command", report),
            relay: RawNodeRelay::read(&mut fields, report),
        };
        raw.mistyped = fields.mistyped;
        fields.finish(report);
        raw
    }
}

impl<'a> RawRegion<'a> {
    fn read_all(topology: &Fields<'a>, report: &mut Report) -> Vec<Self> {
        let regions = topology.entries().filter_map(|(name, value, span)| match value {
            DeValue::Table(zones) => {
                let zones = Fields::new(zones, span, "[topology.REGION]");
                Some(Self { name, zones: read_lists(&zones, report) })
            }
            _ => {
                report.add(|| {
                    Finding::new(&span, format!("region {} must be a table of zones", quote(name.value))).help(
                        "write [topology.REGION] and below it one line per zone, such as z1 = [\"r1\", \"r2\"]",
                    )
                });
                None
            }
        });
        regions.collect()
    }
}

impl<'a> RawCheck<'a> {
    fn read(mut fields: Fields<'a>, report: &mut Report) -> Self {
        let mut raw = Self {
            span: fields.span.clone(),
            mistyped: false,
            name: fields.required("name", "name = \"heartbeat\"; sets refer to it", report),
            kind: fields.required(
                "kind",
                "kind = \"heartbeat\", \"tcp\", \"http\", \"bfd\" or another",
                report,
            ),
            port: fields.integer("port", report),
            interval: fields.required_duration(
                "interval",
                "interval = \"3ms\": the time between two probes",
                report,
            ),
            timeout: fields.duration("timeout", report),
            fall: fields.integer("fall", report),
            rise: fields.integer("rise", report),
            jitter: fields.integer("jitter", report),
            via: fields.string("via", report),
            vip: fields.string("vip", report),
            keys: fields.entries().map(|(key, ..)| key).collect(),
            method: fields.string("method", report),
            path: fields.string("path", report),
            host: fields.string("host", report),
            status: fields.strings("status", report),
            body: fields.string("body", report),
            body_limit: fields.integer("body_limit", report),
            server_name: fields.string("server_name", report),
            ca_file: fields.string("ca_file", report),
            verify: fields.boolean("verify", report),
            send: fields.string("send", report),
            send_hex: fields.string("send_hex", report),
            expect: fields.string("expect", report),
            expect_hex: fields.string("expect_hex", report),
            expect_at: fields.string("expect_at", report),
            query: fields.string("query", report),
            record: fields.string("type", report),
            rcode: fields.string("rcode", report),
            command: fields.strings("command", report),
            user: fields.string("user", report),
            multihop: fields.boolean("multihop", report),
            receive_interval: fields.duration("receive_interval", report),
            multiplier: fields.integer("multiplier", report),
            passive: fields.boolean("passive", report),
            local: fields.strings("local", report),
        };
        raw.mistyped = fields.mistyped;
        fields.finish(report);
        raw
    }
}

impl<'a> RawSet<'a> {
    fn read(mut fields: Fields<'a>, report: &mut Report) -> Self {
        let backends = fields.tables("backend", "[[set.backend]]", report);
        let mut raw = Self {
            span: fields.span.clone(),
            mistyped: false,
            name: fields.required("name", "name = \"...\"; pools refer to it", report),
            domain: fields.required(
                "domain",
                "domain = \"REGION/ZONE\": the domain that holds all backends of the set",
                report,
            ),
            checks: fields.strings("checks", report),
            backends: backends.into_iter().map(|f| RawBackend::read(f, report)).collect(),
            relay: false,
        };
        raw.mistyped = fields.mistyped;
        fields.finish(report);
        raw
    }
}

impl<'a> RawBackend<'a> {
    fn read(mut fields: Fields<'a>, report: &mut Report) -> Self {
        let raw = Self {
            name: fields.required("name", "name = \"...\", unique over the whole file", report),
            rack: fields.required(
                "rack",
                "rack = \"REGION/ZONE/RACK\": a backend stands in one rack",
                report,
            ),
            address: fields.required("address", "address = \"...\": where its tunnel ends", report),
            weight: fields.integer("weight", report),
            quic_server_id: fields.string("quic_server_id", report),
            quic_rotation_id: fields.string("quic_rotation_id", report),
        };
        fields.finish(report);
        raw
    }
}

impl<'a> RawService<'a> {
    fn read(mut fields: Fields<'a>, report: &mut Report) -> Self {
        let pools = fields.tables("pool", "[[service.pool]]", report);
        let plan = fields.table("plan", "[service.plan]", report);
        let residency = fields.table("residency", "[service.residency]", report);
        let quic = fields.table("quic", "[service.quic]", report);
        let ports = fields.string("ports", report);
        let mut raw = Self {
            span: fields.span.clone(),
            mistyped: false,
            name: fields.required("name", "name = \"...\"", report),
            address: fields.required("address", "address = \"...\": the virtual IP", report),
            port: match &ports {
                Some(_) => fields.integer("port", report),
                None => fields.required_integer("port", "port = 80, 1 to 65535", report),
            },
            ports,
            protocol: fields.required("protocol", "protocol = \"tcp\", \"udp\" or \"sctp\"", report),
            on_all_down: fields.string("on_all_down", report),
            forwarding: fields.string("forwarding", report),
            gue_port: fields.integer("gue_port", report),
            reach: fields.string("reach", report),
            udp: fields.string("udp", report),
            quic: quic.map(|f| RawQuic::read(f, report)),
            pools: pools.into_iter().map(|f| RawPool::read(f, report)).collect(),
            plan: plan.map(|f| RawPlan::read(&f, report)),
            residency: residency.map(|f| At { span: f.span.clone(), value: read_lists(&f, report) }),
            panic_threshold: fields.integer("panic_threshold", report),
            protection: RawProtection::read(&mut fields, report),
        };
        raw.mistyped = fields.mistyped;
        fields.finish(report);
        raw
    }
}

impl<'a> RawPool<'a> {
    fn read(mut fields: Fields<'a>, report: &mut Report) -> Self {
        let relay = fields.string("relay", report);
        let raw = Self {
            span: fields.span.clone(),
            name: fields.required("name", "name = \"...\"; the plan refers to it", report),
            sets: match &relay {
                Some(_) => fields.strings("sets", report),
                None => fields.required_strings(
                    "sets",
                    "sets = [\"...\"]: the sets whose backends it has",
                    report,
                ),
            },
            standby: fields.strings("standby", report),
            relay,
            table_size: fields.integer("table_size", report),
            capacity: fields.integer("capacity_new_flows_per_second", report),
        };
        fields.finish(report);
        raw
    }
}

impl RawQuic {
    fn read(mut fields: Fields<'_>, report: &mut Report) -> Self {
        let rotation = fields.table("rotation", "[service.quic.rotation]", report);
        let raw = Self::read_one(&mut fields, report);
        fields.finish(report);
        let rotation = rotation.map(|mut fields| {
            let raw = Self::read_one(&mut fields, report);
            fields.finish(report);
            Box::new(raw)
        });
        Self { rotation, ..raw }
    }

    fn read_one(fields: &mut Fields<'_>, report: &mut Report) -> Self {
        Self {
            span: fields.span.clone(),
            config_id: fields.required_integer(
                "config_id",
                "config_id = 0, 0 to 6: what the first three bits of connection ids say",
                report,
            ),
            server_id_length: fields.required_integer(
                "server_id_length",
                "server_id_length = 4, 1 to 15: bytes of the server id in connection ids",
                report,
            ),
            rotation: None,
        }
    }
}
