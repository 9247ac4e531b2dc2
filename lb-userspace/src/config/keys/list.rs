//! The list.

use super::{
    Content::{Keys, Lists, Tables},
    Fallback::{self, ByKind, Is, Nothing, Required, Same, Told},
    Key, Section,
    Type::{self, Choice, Duration, Flag, Integer, Integers, Text, Texts},
};
use crate::config::limits::{
    MAX_ANSWERS, MAX_BODY_BYTES, MAX_BURST, MAX_FLOW_ENTRIES, MAX_JITTER, MAX_QUIC_CONFIG_ID,
    MAX_QUIC_SERVER_ID_BYTES, MAX_RATE, MAX_STREAK, MAX_WEIGHT, MIN_ANSWERS, MIN_FLOW_ENTRIES,
};

const fn key(name: &'static str, of: Type, default: Fallback, text: &'static str) -> Key {
    Key { name, of, default, only: None, text }
}

const fn of_kinds(kinds: &'static [&'static str], key: Key) -> Key {
    Key { only: Some(("kind", kinds)), ..key }
}

const PORT: Type = Integer(1, 65_535);
const PERCENT: Type = Integer(0, 100);
const STREAK: Type = Integer(1, MAX_STREAK as i64);
const RATE: Type = Integer(1, MAX_RATE as i64);
const BURST: Type = Integer(1, MAX_BURST as i64);
const ENTRIES: Type = Integer(MIN_FLOW_ENTRIES as i64, MAX_FLOW_ENTRIES as i64);
const WEIGHT: Type = Integer(1, MAX_WEIGHT as i64);
const FAST: &[&str] = &["heartbeat", "icmp"];
const SLOW: &[&str] = &["tcp", "udp", "dns", "http", "https", "exec"];
const NOT_BFD: &[&str] = &["heartbeat", "icmp", "tcp", "udp", "dns", "http", "https", "exec"];
const WEB: &[&str] = &["http", "https"];
const TABLE_SIZES: [i64; lb_maglev::TABLE_SIZES.len()] = {
    let mut sizes = [0; lb_maglev::TABLE_SIZES.len()];
    let mut at = 0;
    while at < sizes.len() {
        sizes[at] = lb_maglev::TABLE_SIZES[at] as i64;
        at += 1;
    }
    sizes
};

const NODE: &[Key] = &[
    key("name", Text, Required, "The host's name in events and status."),
    key("region", Text, Required, "The region that the host stands in."),
    key("zone", Text, Nothing, "The zone that it stands in, as REGION/ZONE."),
    key("interfaces", Texts, Required, "Where packets for the services arrive: XDP is attached there."),
    key(
        "mode",
        Choice(&["native", "generic"]),
        Is("\"native\""),
        "How XDP is attached: in the driver, or in the kernel's stack where the driver cannot.",
    ),
    key(
        "hash_key",
        Text,
        Nothing,
        "Key of the flow hash, 64 hexadecimal digits, the same on all hosts of the fleet and secret. This or hash_key_file has to be there.",
    ),
    key("hash_key_file", Text, Nothing, "A file with the key, by its absolute path, instead of hash_key."),
    key(
        "tunnel_source_v4",
        Text,
        Nothing,
        "Prefix of the outer source addresses of tunnels to IPv4 backends.",
    ),
    key(
        "tunnel_source_v6",
        Text,
        Nothing,
        "Prefix of the outer source addresses of tunnels to IPv6 backends.",
    ),
    key(
        "state_dir",
        Text,
        Is("\"/var/lib/weir\""),
        "Holds the lock, operators' words and the journal of events.",
    ),
    key("socket", Text, Is("\"/run/weir/weir.sock\""), "The daemon's unix socket."),
    key("bpffs", Text, Is("\"/sys/fs/bpf/weir\""), "Pins go below it; on a mounted bpffs."),
    key("max_new_flows", RATE, Nothing, "New flows a second of all services beyond which some are shed."),
    key(
        "transition",
        Duration,
        Is("\"5m\""),
        "For how long a silent connection keeps its backend after a change of the configuration, 100ms to 24h.",
    ),
    key(
        "flow_idle",
        Duration,
        Is("\"24h\""),
        "After how long without a packet a connection away from home is forgotten, 1m to 720h.",
    ),
    key(
        "flow_entries",
        ENTRIES,
        Told("16384 for each CPU"),
        "Connections away from home that are remembered.",
    ),
    key(
        "opening_entries",
        ENTRIES,
        Told("32768 for each CPU"),
        "Connections away from home of which only the first packet was seen.",
    ),
    key(
        "answers_per_second",
        Integer(MIN_ANSWERS as i64, MAX_ANSWERS as i64),
        Is("1000"),
        "Pings and packets that are too big which each CPU answers; and as many questions of neighbours.",
    ),
    key(
        "panic_threshold",
        PERCENT,
        Is("50"),
        "A plan stops believing health when less than this of what operators let in is healthy, in percent; 0 for never.",
    ),
    key(
        "target_utilisation",
        Integer(1, 100),
        Is("80"),
        "Part of a pool's capacity that is used before its flows spill, in percent.",
    ),
    key(
        "max_ejected",
        PERCENT,
        Is("100"),
        "Most of a pool's weight that checks of single backends take out, in percent; 100 for no bound.",
    ),
    key(
        "withdraw_command",
        Texts,
        Nothing,
        "A program by its absolute path, and its arguments: takes this host's routes away while it hears no backend at all. Goes with announce_command.",
    ),
    key("announce_command", Texts, Nothing, "A program, and its arguments: brings the routes back."),
    key(
        "client_prefixes_file",
        Text,
        Nothing,
        "A file with more prefixes of client regions, one line \"prefix,client_region\" each.",
    ),
    key(
        "relay_addresses",
        Texts,
        Nothing,
        "Addresses at which this host takes packets that other regions relay.",
    ),
    key("relay_peers", Texts, Nothing, "Prefixes from which it takes them."),
    key("relay_gue_port", PORT, Is("6080"), "UDP port on which it takes them by GUE."),
];

const CHECK: &[Key] = &[
    key("name", Text, Required, "Its name; sets refer to it."),
    key(
        "kind",
        Choice(&["heartbeat", "tcp", "http", "https", "udp", "dns", "icmp", "exec", "bfd"]),
        Required,
        "What is sent.",
    ),
    key("interval", Duration, Required, "Time from one probe to the next."),
    of_kinds(
        NOT_BFD,
        key(
            "timeout",
            Duration,
            ByKind(&[(FAST, "=interval"), (SLOW, "\"1s\"")]),
            "How long an answer may take.",
        ),
    ),
    of_kinds(
        NOT_BFD,
        key("fall", STREAK, ByKind(&[(FAST, "2"), (SLOW, "3")]), "Consecutive misses until DOWN."),
    ),
    key("rise", STREAK, ByKind(&[(&["bfd"], "1"), (NOT_BFD, "3")]), "Consecutive successes until UP."),
    of_kinds(
        NOT_BFD,
        key(
            "jitter",
            Integer(0, MAX_JITTER as i64),
            ByKind(&[(FAST, "0"), (SLOW, "10")]),
            "Each probe is delayed by a random time of up to this share of the interval, in percent.",
        ),
    ),
    of_kinds(
        &["heartbeat", "tcp", "http", "https", "udp", "dns"],
        key(
            "port",
            PORT,
            ByKind(&[(&["heartbeat"], "6777"), (&["http"], "80"), (&["https"], "443"), (&["dns"], "53")]),
            "Port of the backend. Checks of kind tcp and udp must say it.",
        ),
    ),
    of_kinds(WEB, key("method", Choice(&["GET", "HEAD"]), Is("\"GET\""), "The method of the request.")),
    of_kinds(WEB, key("path", Text, Is("\"/\""), "Path and query, from / on.")),
    of_kinds(WEB, key("host", Text, Told("the backend's address"), "The host header.")),
    of_kinds(
        WEB,
        key("status", Texts, Is("[\"200-299\"]"), "Codes and ranges of codes that count as an answer."),
    ),
    of_kinds(WEB, key("body", Text, Nothing, "What the body must hold.")),
    of_kinds(
        WEB,
        key(
            "body_limit",
            Integer(1, MAX_BODY_BYTES as i64),
            Is("16384"),
            "Bytes of the body that are looked at.",
        ),
    ),
    of_kinds(
        &["https"],
        key(
            "server_name",
            Text,
            Told("the host, or the backend's address"),
            "The name that the certificate must hold.",
        ),
    ),
    of_kinds(
        &["https"],
        key("ca_file", Text, Told("the host's own authorities"), "PEM file of the authorities to trust."),
    ),
    of_kinds(&["https"], key("verify", Flag, Is("true"), "Whether the certificate is verified.")),
    of_kinds(&["udp"], key("send", Text, Nothing, "What is sent. This or send_hex has to be there.")),
    of_kinds(&["udp"], key("send_hex", Text, Nothing, "What is sent, as hexadecimal digits.")),
    of_kinds(
        &["udp"],
        key("expect", Text, Nothing, "What the answer must hold; without it any answer will do."),
    ),
    of_kinds(&["udp"], key("expect_hex", Text, Nothing, "The same as hexadecimal digits.")),
    of_kinds(
        &["udp"],
        key("expect_at", Choice(&["prefix", "contains"]), Told("prefix"), "Where the answer must hold it."),
    ),
    of_kinds(&["dns"], key("query", Text, Nothing, "The name that is asked for; has to be there.")),
    of_kinds(
        &["dns"],
        key(
            "type",
            Choice(&["A", "NS", "CNAME", "SOA", "PTR", "MX", "TXT", "AAAA", "SRV"]),
            Is("\"A\""),
            "The type of record that is asked for.",
        ),
    ),
    of_kinds(
        &["dns"],
        key(
            "rcode",
            Choice(&["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "any"]),
            Is("\"NOERROR\""),
            "The response code that the answer must have.",
        ),
    ),
    of_kinds(&["exec"], key("command", Texts, Nothing, "A program by its absolute path, and its arguments.")),
    of_kinds(&["exec"], key("user", Text, Told("as the daemon"), "As whom it runs.")),
    of_kinds(
        &["bfd"],
        key("multihop", Flag, Is("false"), "Over several hops (RFC 5883) instead of one (RFC 5881)."),
    ),
    of_kinds(
        &["bfd"],
        key(
            "receive_interval",
            Duration,
            Same("interval"),
            "The shortest interval at which this host takes packets.",
        ),
    ),
    of_kinds(
        &["bfd"],
        key("multiplier", Integer(1, 255), Is("3"), "Packets of this host that the peer may miss."),
    ),
    of_kinds(&["bfd"], key("passive", Flag, Is("false"), "Waits for the peer's first packet.")),
    of_kinds(
        &["bfd"],
        key("local", Texts, Told("as the route says"), "Source addresses, at most one of each family."),
    ),
    of_kinds(
        &["tcp", "http", "https"],
        key(
            "via",
            Choice(&["direct", "tunnel"]),
            Is("\"direct\""),
            "The way of the probes: through the tunnel, as clients' packets go.",
        ),
    ),
    of_kinds(
        &["tcp", "http", "https"],
        key("vip", Text, Nothing, "The virtual IP that is probed; with via = \"tunnel\"."),
    ),
];

const SERVICE: &[Key] = &[
    key("name", Text, Required, "Its name."),
    key("address", Text, Required, "The virtual IP, or a prefix of them."),
    key("port", PORT, Nothing, "The port that clients use. This or ports has to be there."),
    key("ports", Text, Nothing, "A range, such as \"8000-8099\", or \"any\"."),
    key("protocol", Choice(&["tcp", "udp", "sctp"]), Required, "The protocol that clients use."),
    key(
        "on_all_down",
        Choice(&["drop", "fail-open"]),
        Is("\"drop\""),
        "What happens to a flow when no pool of its plan can take it.",
    ),
    key("forwarding", Choice(&["ipip", "gue", "l2"]), Is("\"ipip\""), "How packets travel to the backends."),
    Key {
        only: Some(("forwarding", &["gue"])),
        ..key("gue_port", PORT, Is("6080"), "UDP port on which backends take GUE.")
    },
    key(
        "reach",
        Choice(&["route", "arp"]),
        Is("\"route\""),
        "How packets for the VIP come to this host: a router sends them, or Weir answers its neighbours.",
    ),
    Key {
        only: Some(("protocol", &["udp"])),
        ..key(
            "udp",
            Choice(&["move", "stick"]),
            Told("move"),
            "Whether each datagram goes where a new flow goes, or where an established one goes.",
        )
    },
    key(
        "priority",
        Choice(&["P0", "P1", "P2", "P3"]),
        Is("\"P2\""),
        "Priority class: under overload new flows of P3 are shed first, those of P0 last.",
    ),
    key("panic_threshold", PERCENT, Told("the node's"), "As in [node], for this service."),
];

const QUIC: &[Key] = &[
    key(
        "config_id",
        Integer(0, MAX_QUIC_CONFIG_ID as i64),
        Required,
        "What the first three bits of connection ids say.",
    ),
    key(
        "server_id_length",
        Integer(1, MAX_QUIC_SERVER_ID_BYTES as i64),
        Required,
        "Bytes of the server id in connection ids.",
    ),
];

const PACKETS: Key = key("packets_per_second", RATE, Nothing, "Packets a second.");
const PACKET_BURST: Key = key(
    "burst",
    BURST,
    Told("a tenth of packets_per_second"),
    "Packets at once; only with packets_per_second.",
);
const FLOWS: Key = key("new_flows_per_second", RATE, Nothing, "New flows a second.");
const FLOW_BURST: Key = key(
    "new_flows_burst",
    BURST,
    Told("a tenth of new_flows_per_second"),
    "New flows at once; only with new_flows_per_second.",
);

const fn section(path: &'static [&'static str], text: &'static str, keys: &'static [Key]) -> Section {
    Section { path, repeats: false, required: false, text, content: Keys(keys) }
}

const fn repeated(path: &'static [&'static str], text: &'static str, keys: &'static [Key]) -> Section {
    Section { repeats: true, ..section(path, text, keys) }
}

/// All tables, those above before those below.
pub const SECTIONS: &[Section] = &[
    Section { required: true, ..section(&["node"], "This edge host.", NODE) },
    Section {
        content: Tables,
        ..section(&["topology"], "Regions; in each its zones, each with the list of its racks.", &[])
    },
    Section {
        content: Lists,
        ..section(
            &["client_regions"],
            "Client regions, each with its prefixes; the longest match wins, and all others are of client region default.",
            &[],
        )
    },
    repeated(&["check"], "How backends are probed.", CHECK),
    repeated(
        &["set"],
        "One complete deployment of a service inside one domain.",
        &[
            key("name", Text, Required, "Its name; pools refer to it."),
            key("domain", Text, Required, "The domain in which all its backends stand."),
            key(
                "checks",
                Texts,
                Nothing,
                "The checks of its backends; without them they are always believed UP.",
            ),
        ],
    ),
    repeated(
        &["set", "backend"],
        "A host that serves.",
        &[
            key("name", Text, Required, "Its name, unique over the whole file."),
            key("rack", Text, Required, "The rack that it stands in, as REGION/ZONE/RACK."),
            key("address", Text, Required, "Where its tunnel ends, and where it is probed."),
            key("weight", WEIGHT, Is("100"), "Its share among the members of its pool."),
            key(
                "quic_server_id",
                Text,
                Nothing,
                "Its server id in QUIC connection ids, as hexadecimal digits.",
            ),
            key("quic_rotation_id", Text, Nothing, "The same for [service.quic.rotation]."),
        ],
    ),
    repeated(
        &["relay"],
        "Weir hosts of another region, to which packets may be relayed.",
        &[
            key("name", Text, Required, "Its name; pools refer to it."),
            key("region", Text, Required, "The region whose hosts these are."),
            key("checks", Texts, Nothing, "The checks of its hosts."),
        ],
    ),
    repeated(
        &["relay", "host"],
        "One of them.",
        &[
            key("name", Text, Required, "Its name, unique over all backends."),
            key("address", Text, Required, "One of the relay_addresses of that host."),
            key("weight", WEIGHT, Is("100"), "Its share among the hosts."),
        ],
    ),
    repeated(&["service"], "A virtual IP with ports and protocol.", SERVICE),
    repeated(
        &["service", "pool"],
        "Backends of a service; a pool has one table.",
        &[
            key("name", Text, Required, "Its name; the plan refers to it."),
            key("sets", Texts, Nothing, "The sets whose backends it has. This or relay has to be there."),
            key("standby", Texts, Nothing, "Sets that take nothing until a canary begins."),
            key("relay", Text, Nothing, "The relay whose hosts it has."),
            key("table_size", Integers(&TABLE_SIZES), Is("65537"), "Slots of its table."),
            key(
                "capacity_new_flows_per_second",
                RATE,
                Nothing,
                "New flows a second that this host may send to all of its backends; what comes beyond spills.",
            ),
        ],
    ),
    Section {
        content: Lists,
        ..section(
            &["service", "plan"],
            "For each client region, the pools to try in order; or a table { pools = [...], mode = \"zone-affine\", rho = 0.7 }, where \
             mode may also be nearest (the default) or strict. Without it the nearest pools come first.",
            &[],
        )
    },
    Section {
        content: Lists,
        ..section(
            &["service", "residency"],
            "For each client region, the regions that may serve it; who is not named has those of default.",
            &[],
        )
    },
    section(&["service", "quic"], "How connection ids name backends (draft-ietf-quic-load-balancers).", QUIC),
    section(&["service", "quic", "rotation"], "Another configuration of them, while both are in use.", QUIC),
    section(
        &["service", "access"],
        "Who may reach the service: the longest prefix decides; with an allow list, whoever is in none may not.",
        &[
            key("allow", Texts, Nothing, "Prefixes that may."),
            key("allow_file", Text, Nothing, "A file with more of them, one in each line."),
            key("deny", Texts, Nothing, "Prefixes that may not."),
            key("deny_file", Text, Nothing, "A file with more of them, one in each line."),
        ],
    ),
    section(
        &["service", "limits"],
        "How much the service takes.",
        &[
            PACKETS,
            PACKET_BURST,
            FLOWS,
            FLOW_BURST,
            key("max_new_flows", RATE, Nothing, "New flows a second beyond which some are shed at random."),
        ],
    ),
    section(
        &["service", "limits", "per_source"],
        "How much each source prefix may send.",
        &[
            key("v4", Integer(1, 32), Is("24"), "Length of the source prefix of an IPv4 client."),
            key("v6", Integer(1, 64), Is("56"), "Length of the source prefix of an IPv6 client."),
            PACKETS,
            PACKET_BURST,
            FLOWS,
            FLOW_BURST,
        ],
    ),
    section(
        &["recovery"],
        "How what was DOWN comes back; without this table at once.",
        &[
            key("half_open_share", Integer(1, 100), Is("5"), "Percent of new flows that it takes at first."),
            key("half_open", Duration, Is("\"0s\""), "For how long."),
            key("slow_start", Duration, Is("\"0s\""), "From there to all of them."),
            key(
                "flap_half_life",
                Duration,
                Is("\"0s\""),
                "After which time the penalty of failures has halved: what fails often is held; 0s for never.",
            ),
        ],
    ),
    section(
        &["http"],
        "What is served over TCP: to read only, metrics, the status page, and of the API what tells; with client_ca_file all of the API.",
        &[
            key(
                "listen",
                Text,
                Nothing,
                "Address and port, such as 127.0.0.1:9440; nothing is served over TCP without it.",
            ),
            key(
                "certificate_file",
                Text,
                Nothing,
                "PEM file, by its absolute path, with the daemon's certificate and those that signed it: connections are encrypted.",
            ),
            key("key_file", Text, Nothing, "PEM file with its private key, for its owner only."),
            key(
                "client_ca_file",
                Text,
                Nothing,
                "PEM file of the authorities of clients' certificates. Who has none cannot connect; who has one may read all of the API.",
            ),
            key(
                "client_crl_file",
                Text,
                Nothing,
                "PEM file with a revocation list of each of these authorities: whose certificate is in one cannot connect.",
            ),
            key(
                "operators",
                Texts,
                Nothing,
                "Who may also operate: names of clients' certificates (alternative or common names), or OU=UNIT.",
            ),
        ],
    ),
];
