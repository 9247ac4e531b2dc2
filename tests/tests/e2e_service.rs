//! The daemon as a service: what it tells a service manager, what it may still do once it runs, and that nobody notices how often it
//! is restarted and upgraded.

mod e2e_support;

use e2e_support::{
    PATIENCE, another_build, config_path, done, drops, last_start, leaked, link, quiet, raise, refused,
    start, status, text, uncounted, until,
};
use lb_common::abi::ABI_VERSION;
use lb_tests::{
    lab::{ConfigOptions, Daemon, Frozen, Lab, VIP_V4, VIP_V6, weir_binary},
    load::LiveFlows,
};
use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

/// NET_ADMIN, NET_RAW, SYS_NICE, PERFMON and BPF.
const KEPT: u64 = 1 << 12 | 1 << 13 | 1 << 23 | 1 << 38 | 1 << 39;
/// KILL, SETGID and SETUID, for programs of other users.
const FOR_OTHERS: u64 = 1 << 5 | 1 << 6 | 1 << 7;
/// The watchdog's period; three pings go into it.
const WATCHDOG: Duration = Duration::from_millis(900);

/// A program that starts `weir` with a socket like a service manager's, and what that is told.
fn manager(lab: &Lab) -> (Receiver<String>, PathBuf) {
    let path = lab.directory().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let (sender, messages) = channel();
    // A manager always reads. It ends with the test's process.
    thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(length) = socket.recv(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    let script = lab.directory().join("managed");
    let (path, weir) = (path.display(), weir_binary().unwrap());
    let lines = format!(
        "#!/bin/sh\nexport NOTIFY_SOCKET={path} WATCHDOG_USEC={}\nexec {} \"$@\"\n",
        WATCHDOG.as_micros(),
        weir.display()
    );
    fs::write(&script, lines).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    (messages, script)
}

/// The next message; none if there is none in time.
fn message(messages: &Receiver<String>, patience: Duration) -> Option<String> {
    messages.recv_timeout(patience).ok()
}

/// The next message that is not the watchdog's.
fn news(messages: &Receiver<String>) -> String {
    loop {
        let message = message(messages, PATIENCE).expect("the daemon says something");
        if message != "WATCHDOG=1" {
            return message;
        }
    }
}

/// The capability sets of all threads, each once.
fn sets(pid: i32, name: &str) -> BTreeSet<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let read = |path: &Path| fs::read_to_string(path.join("status")).ok();
    threads
        .filter_map(|thread| read(&thread.unwrap().path()))
        .map(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        })
        .collect()
}

#[track_caller]
fn holds_only(daemon: &Daemon<'_>, expected: u64) {
    // The thread that needs more for the start may be ending.
    until("the start is over", || sets(daemon.pid(), "CapEff:") == [expected].into());
    for set in ["CapPrm:", "CapBnd:"] {
        assert_eq!(sets(daemon.pid(), set), [expected].into(), "{set}");
    }
    for set in ["CapInh:", "CapAmb:"] {
        assert_eq!(sets(daemon.pid(), set), [0].into(), "{set}");
    }
}

fn with(extra: &str) -> ConfigOptions {
    ConfigOptions { extra: extra.to_owned(), ..quiet() }
}

fn serves(lab: &Lab, port: u16) {
    let url = format!("http://{VIP_V4}:{port}/");
    until("the service answers", || lab.curl_with("west", &["--max-time", "1", &url]).is_ok());
}

#[test]
fn a_service_manager_hears_all_and_what_was_given_up_is_missed_by_no_reload() {
    let lab = raise(1);
    let (socket, managed) = manager(&lab);
    let config = lab.write_config(&quiet()).unwrap();
    let daemon = lab.start_other_daemon(&managed, 0, &config).unwrap();
    assert_eq!(news(&socket), "READY=1");
    daemon.wait_ready(PATIENCE).unwrap();
    holds_only(&daemon, KEPT);
    serves(&lab, 80);

    // The control thread alone stands still: nothing but the watchdog can tell.
    assert_eq!(message(&socket, PATIENCE).as_deref(), Some("WATCHDOG=1"));
    let frozen = Frozen::new(daemon.pid(), "weir-control").unwrap();
    while socket.try_recv().is_ok() {}
    let late = std::iter::from_fn(|| message(&socket, WATCHDOG)).take(3).count();
    assert!(late <= 2, "{late} pings while the control thread stood still");
    drop(frozen);
    assert_eq!(message(&socket, PATIENCE).as_deref(), Some("WATCHDOG=1"));

    // Another generation of maps, programs, sockets, and a control thread with its priority.
    let scheduling = status(&daemon)["control"]["scheduling"].clone();
    let more = "\n[[service]]\nname = \"more\"\naddress = \"VIP\"\nport = 8080\nprotocol = \"tcp\"\nforwarding = \"gue\"\n\
                [[service.pool]]\nname = \"all\"\nsets = [\"web-w1\"]\ntable_size = 4093\n\
                [[check]]\nname = \"ping\"\nkind = \"icmp\"\ninterval = \"1s\"\n"
        .replace("VIP", &VIP_V4.to_string());
    lab.write_config(&with(&more)).unwrap();
    done(&daemon, &["reload"]);
    let reloading = news(&socket);
    let began = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
    let now = lb_tests::clock::monotonic_ns() / 1_000;
    assert!(began.parse::<u64>().unwrap() <= now, "{began} {now}");
    assert_eq!(news(&socket), "READY=1");
    assert!(daemon.cli(&["service", "show", "more"]).unwrap().status.success());
    assert_eq!(status(&daemon)["control"]["scheduling"], scheduling);
    serves(&lab, 80);
    holds_only(&daemon, KEPT);

    // What takes more than is left is refused, and nothing else than a restart helps.
    let others = format!(
        "{more}[[check]]\nname = \"mine\"\nkind = \"exec\"\ninterval = \"1s\"\ncommand = [\"/bin/true\"]\nuser = \"nobody\"\n"
    );
    lab.write_config(&with(&others)).unwrap();
    refused(&daemon.cli(&["reload"]).unwrap(), 8, &["another user", "CAP_SETUID", "systemctl restart weir"]);
    assert_eq!(news(&socket).split('\n').next(), Some("RELOADING=1"));
    assert_eq!(news(&socket), "READY=1");

    assert!(daemon.sigterm().unwrap().success());
    assert_eq!(news(&socket), "STOPPING=1");
    let daemon = start(&lab, &with(&others));
    holds_only(&daemon, KEPT | FOR_OTHERS);
    let said = text(&lab.weir(&["check", "--config", config_path(&lab).to_str().unwrap()]).unwrap());
    assert!(said.contains("is valid"), "{said}");
}

/// What `weir doctor` finds, by check and severity, and what it exits with.
fn doctor(lab: &Lab) -> (BTreeSet<(String, String)>, i32, String) {
    let config = config_path(lab);
    let output = lab.weir(&["doctor", "-o", "json", "--config", config.to_str().unwrap()]).unwrap();
    let said = text(&output);
    let findings: Vec<serde_json::Value> =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let word = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
    for finding in &findings {
        let is_ok = finding["severity"] == "ok";
        assert!(is_ok || finding["remedy"].is_string(), "{finding}");
    }
    let found = findings.iter().map(|finding| (word(finding, "check"), word(finding, "severity"))).collect();
    (found, output.status.code().unwrap(), said)
}

fn has(found: &BTreeSet<(String, String)>, check: &str, severity: &str) -> bool {
    found.contains(&(check.to_owned(), severity.to_owned()))
}

/// The exit code that the worst of these comes to.
fn code(found: &BTreeSet<(String, String)>) -> i32 {
    let any = |severity: &str| found.iter().any(|(_, of)| of == severity);
    if any("error") {
        12
    } else if any("warning") {
        11
    } else {
        0
    }
}

#[test]
fn doctor_finds_what_was_broken_and_a_bundle_tells_all_but_the_key() {
    let lab = raise(1);
    lab.write_config(&quiet()).unwrap();
    // Without a daemon.
    let (found, exit, said) = doctor(&lab);
    assert!(has(&found, "daemon", "note") && has(&found, "config.file", "ok"), "{said}");
    assert_eq!(exit, code(&found), "{said}");

    let daemon = start(&lab, &quiet());
    let (found, exit, said) = doctor(&lab);
    for check in
        ["daemon", "daemon.version", "xdp.mode", "mtu", "rp_filter", "pins.leftover", "state.lock", "driver"]
    {
        assert!(has(&found, check, "ok"), "{check}: {said}");
    }
    assert!(!has(&found, "rp_filter", "warning") && !has(&found, "mtu", "warning"), "{said}");
    assert_eq!(exit, code(&found), "{said}");

    // Two things that hurt, and one that is broken.
    let edge = lab.edge_netns(0).unwrap();
    edge.run(|| Ok(fs::write("/proc/sys/net/ipv4/conf/eth0/rp_filter", "1")?)).unwrap();
    let leftover = lab.bpffs().join("edge-1/v1");
    fs::create_dir(&leftover).unwrap();
    fs::set_permissions(daemon.socket(), fs::Permissions::from_mode(0o777)).unwrap();
    let (found, exit, said) = doctor(&lab);
    assert!(has(&found, "rp_filter", "warning") && has(&found, "pins.leftover", "warning"), "{said}");
    assert!(has(&found, "socket", "error") && exit == 12, "{said}");
    let table = text(&lab.weir(&["doctor", "--config", config_path(&lab).to_str().unwrap()]).unwrap());
    for words in ["sysctl -w net.ipv4.conf.all.rp_filter=2", "chmod o-w", leftover.to_str().unwrap()] {
        assert!(table.contains(words), "{words}: {table}");
    }
    fs::set_permissions(daemon.socket(), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_dir(&leftover).unwrap();

    let bundle = lab.directory().join("bundle.tar.gz");
    let config = config_path(&lab);
    let arguments = ["support-bundle", bundle.to_str().unwrap(), "--config", config.to_str().unwrap()];
    done(&daemon, &arguments);
    assert_eq!(fs::metadata(&bundle).unwrap().permissions().mode() & 0o777, 0o600);
    let key = fs::read_to_string(&config).unwrap();
    let key = key.lines().find_map(|line| line.strip_prefix("hash_key = \"")).unwrap().trim_end_matches('"');
    let unpacked = std::process::Command::new("tar").arg("-xzOf").arg(&bundle).output().unwrap();
    let content = String::from_utf8_lossy(&unpacked.stdout);
    assert_eq!(key.len(), 64);
    assert!(!content.contains(key), "the bundle has the key");
    let version = format!("abi {ABI_VERSION}");
    for words in ["hash_key = \"redacted\"", "\"rp_filter\"", "ADMISSION", "started: ", &version] {
        assert!(content.contains(words), "no {words} in the bundle");
    }
    let listed = std::process::Command::new("tar").arg("-tzf").arg(&bundle).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout);
    for name in
        ["status.json", "events.json", "config/effective.toml", "doctor.json", "maps.json", "versions.txt"]
    {
        assert!(listed.contains(&format!("/{name}\n")), "no {name} in {listed}");
    }
}

/// How often the daemon ends and starts under load.
const RESTARTS: usize = 20;
/// Where numbered datagrams and live connections go.
const NUMBERED_PORT: u16 = 9000;
const LIVE_PORT: u16 = 9001;

/// Services for what is counted, each with one pool over the west; and one service more for every other configuration.
fn counted(is_other: bool) -> ConfigOptions {
    let service = |name: &str, address: &str, port: u16, protocol: &str| {
        format!(
            "\n[[service]]\nname = \"{name}\"\naddress = \"{address}\"\nport = {port}\nprotocol = \"{protocol}\"\n\
             [[service.pool]]\nname = \"all\"\nsets = [\"web-w1\"]\ntable_size = 4093\n"
        )
    };
    let (v4, v6) = (VIP_V4.to_string(), VIP_V6.to_string());
    let mut extra = service("numbered", &v4, NUMBERED_PORT, "udp");
    extra += &service("numbered6", &v6, NUMBERED_PORT, "udp");
    extra += &service("live", &v4, LIVE_PORT, "tcp");
    if is_other {
        extra += &service("other", &v4, 8080, "tcp");
    }
    with(&extra)
}

/// Each exchanged bytes twice since this call, and none broke.
#[track_caller]
fn live_on(all: &[&LiveFlows], after: &str) {
    let rounds: Vec<_> = all.iter().map(|flows| flows.next_round() + 1).collect();
    until(after, || all.iter().zip(&rounds).all(|(flows, round)| flows.has_ended(*round)));
    for flows in all {
        assert!(flows.broken().is_empty(), "{after}: {:?}", flows.broken());
    }
}

/// What the program forwarded so far, by the daemon, and what came to the racks, by the lab.
fn forwarded(lab: &Lab, daemon: &Daemon<'_>) -> (u64, u64) {
    let regions = ["west", "east"].map(|region| lab.tunnel_traffic(region).unwrap().packets);
    (status(daemon)["traffic"]["forwarded_packets"].as_u64().unwrap(), regions.iter().sum())
}

/// Ends the daemon in one of two ways, and starts one of two binaries with one of two configurations, 20 times: restarts, crashes, upgrades
/// and downgrades, with what runs adopted, its program replaced, or all of it replaced. An upgrade of the package is one of these.
#[test]
fn twenty_restarts_and_upgrades_under_load_lose_no_packet() {
    let lab = raise(2);
    let mut daemon = start(&lab, &counted(false));
    let (uncounted_before, leaked_before) = (uncounted(&lab, &daemon), leaked(&lab));
    let live_vip = SocketAddr::from((VIP_V4, LIVE_PORT));
    let servers = lab.live_servers(live_vip).unwrap();
    let at_home = lab.live_flows("west", live_vip, 20_000..20_100).unwrap();
    // These are away from home afterwards: only the flow table keeps them where they are.
    done(&daemon, &["backend", "drain", "w1r1b1", "--reason", "fans"]);
    let away = lab.live_flows("west", live_vip, 21_000..21_100).unwrap();
    assert!(away.backends().values().all(|name| name != "w1r1b1"));
    done(&daemon, &["backend", "restore", "w1r1b1", "--reason", "fans replaced"]);
    let vips = [SocketAddr::from((VIP_V4, NUMBERED_PORT)), SocketAddr::from((VIP_V6, NUMBERED_PORT))];
    let numbered = lab.numbered("west", &vips, 30_000..30_032).unwrap();

    let binaries = [weir_binary().unwrap(), another_build(&lab)];
    let mut running = link(&lab);
    let (mut programs, mut adopted) = (0, 0);
    for turn in 1..=RESTARTS {
        let is_killed = turn % 2 == 0;
        let status = if is_killed { daemon.kill9() } else { daemon.sigterm() }.unwrap();
        assert_eq!(status.code(), (!is_killed).then_some(0), "{turn}: {}", daemon.log_tail());
        let sent = numbered.sent();
        until("datagrams are sent while no daemon runs", || numbered.sent() > sent + 100);
        lab.write_config(&counted(turn / 4 % 2 == 1)).unwrap();
        daemon = lab.start_other_daemon(&binaries[turn / 2 % 2], 0, &config_path(&lab)).unwrap();
        daemon.wait_ready(PATIENCE).unwrap();
        let (said, now) = (last_start(&daemon), link(&lab));
        assert!(said.contains("adopted") || said.contains("established flows go on"), "{turn}: {said}");
        assert_eq!(now.id, running.id, "{turn}: the interface was attached anew");
        programs += usize::from(now.program != running.program);
        adopted += usize::from(said == "started: adopted what was forwarding");
        running = now;
        live_on(&[&at_home, &away], &format!("restart {turn}, which {said}"));
        assert!(numbered.faults().is_empty(), "restart {turn}, which {said}: {:?}", numbered.faults());
    }
    // Else it was not what this test is about.
    assert!(programs >= 8 && adopted >= 4, "{programs} other programs, {adopted} times adopted as it was");

    let account = numbered.stop().unwrap();
    drop((at_home, away));
    assert!(servers.wrong().is_empty(), "{:?}", servers.wrong());
    assert_eq!((account.sent, &account.told), (account.arrived, &Vec::new()), "{account:?}");
    assert_eq!(account.by_backend.len(), 4, "all four serve: {account:?}");
    assert!(account.sent > 10_000, "too little to show anything: {account:?}");
    // The same once more by others' figures, for every packet, answers of connections too.
    assert_eq!(uncounted(&lab, &daemon), uncounted_before, "packets that the program did not see or count");
    assert_eq!(leaked(&lab), leaked_before, "packets that passed the program by");
    assert!(drops(&daemon).values().all(|count| *count == 0), "{:?}", drops(&daemon));
    let (by_program, by_racks) = forwarded(&lab, &daemon);
    assert_eq!(by_program, by_racks, "forwarded, and come to the racks");
}
