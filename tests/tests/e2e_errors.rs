//! Bad input and a hostile surrounding: each is refused with a remedy and the documented exit code, and what runs, runs on.
mod e2e_support;
#[path = "e2e_support/seccomp.rs"]
mod seccomp;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{Xdp, XdpMode, links::FdLink},
};
use e2e_support::*;
use lb_tests::{
    lab::{ConfigOptions, Daemon, Lab, Netns},
    load::Traffic,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

/// What runs after its daemon was killed, and must still run as it is after every refused start.
struct Orphan<'lab> {
    lab: &'lab Lab,
    traffic: Traffic,
    link: Link,
    leaked: u64,
    files: BTreeMap<PathBuf, Vec<u8>>,
    config: String,
}

impl<'lab> Orphan<'lab> {
    fn new(lab: &'lab Lab) -> Self {
        let daemon = start(lab, &quiet());
        done(&daemon, &["backend", "drain", "w1r2b1", "--reason", "stands"]);
        daemon.kill9().unwrap();
        let config = fs::read_to_string(config_path(lab)).unwrap();
        let (traffic, link, leaked) = (traffic(lab), link(lab), leaked(lab));
        Orphan { lab, traffic, link, leaked, files: state_files(lab), config }
    }

    /// Asserts that nothing changed, neither packets nor files.
    #[track_caller]
    fn is_untouched(&self) {
        assert_eq!((link(self.lab), leaked(self.lab)), (self.link, self.leaked));
        assert_eq!(state_files(self.lab), self.files);
        assert!(!pins(self.lab).join("next").exists(), "half a data plane was left");
        nothing_lost(&self.traffic.records_from(0));
    }

    /// Starts a daemon that must be refused, with this configuration.
    fn start(&self, config: &str) -> Output {
        fs::write(config_path(self.lab), config).unwrap();
        daemon_behind(self.lab, &[])
    }

    /// Starts a daemon with the configuration of before: it finds everything as it was.
    #[track_caller]
    fn recovers(self) -> Daemon<'lab> {
        goes_on(&self.traffic, 0);
        let daemon = start(self.lab, &quiet());
        assert_eq!(last_start(&daemon), "started: adopted what was forwarding");
        assert_eq!(health(&daemon, "backend", "w1r2b1")["override"]["reason"], "stands");
        goes_on(&self.traffic, 0);
        let records = self.traffic.stop().unwrap();
        nothing_lost(&records);
        no_connection_broke(&records);
        daemon
    }
}

/// The files of the state folder, without the lock: who held it last is no state.
fn state_files(lab: &Lab) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = files(&state_dir(lab));
    files.remove(&state_dir(lab).join("lock"));
    files
}

/// `weir daemon` with the edge's configuration, behind other programs.
fn daemon_behind(lab: &Lab, wrapper: &[&str]) -> Output {
    weir_behind(lab, wrapper, &["daemon", "--config", config_path(lab).to_str().unwrap()])
}

/// The text with one part replaced, which must be there.
#[track_caller]
fn edit(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not in the configuration");
    text.replacen(from, to, 1)
}

#[test]
fn a_bad_configuration_is_refused_with_place_and_remedy_and_changes_nothing() {
    let lab = raise(1);
    let orphan = Orphan::new(&lab);
    let good = orphan.config.clone();
    let twice = "\n[[service]]\nname = \"again\"\naddress = \"192.0.2.10\"\nport = 80\nprotocol = \"tcp\"\n\
                 [[service.pool]]\nname = \"all\"\nsets = [\"web-w1\"]\n";
    // What is wrong; what says so; where (the first line of this text that follows the last good one).
    let cases = [
        (edit(&good, "mode = \"native\"", "mode = \"native"), "this is no TOML", "mode = \"native\n"),
        (edit(&good, "mode = ", "modus = "), "unknown key", "modus = "),
        (edit(&good, "name = \"w1r2b1\"", "name = \"w1r1b1\""), "w1r1b1\" is defined twice", ""),
        (
            edit(&good, "rack = \"west/w1/r2\"", "rack = \"west/w1/r9\""),
            "west/w1/r9",
            "rack = \"west/w1/r9\"",
        ),
        (edit(&good, "rack = \"west/w1/r2\"\n", ""), "has no \"rack\"", ""),
        (format!("{good}{twice}"), "two services have the address 192.0.2.10:80/tcp", ""),
        (edit(&good, "port = 80", "port = 80000"), "1 to 65535", "port = 80000"),
    ];
    for (config, word, place) in &cases {
        let output = orphan.start(config);
        refused(&output, 3, &[word, "help", "edge-1.toml"]);
        if !place.is_empty() {
            let line = config[..config.find(place).unwrap()].matches('\n').count() + 1;
            refused(&output, 3, &[&format!("edge-1.toml:{line}:")]);
        }
        orphan.is_untouched();
        let check =
            lab.weir(&["check", "--config", config_path(&lab).to_str().unwrap(), "-o", "json"]).unwrap();
        let problems: Value = serde_json::from_slice(&check.stdout).unwrap();
        assert!(check.status.code() == Some(3) && !problems["problems"].as_array().unwrap().is_empty());
    }
    fs::remove_file(config_path(&lab)).unwrap();
    refused(&daemon_behind(&lab, &[]), 3, &["cannot read", "--config"]);
    orphan.is_untouched();
    orphan.recovers();
}

#[test]
fn without_privileges_or_bpf_a_start_is_refused_and_changes_nothing() {
    let lab = raise(1);
    let orphan = Orphan::new(&lab);
    let no_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let agent = ["agent", "--interface", "eth0", "--address", "10.0.1.2"];
    for (wrapper, missing) in [
        (&no_user[..], "CAP_NET_ADMIN and CAP_BPF missing"),
        (&["setpriv", "--bounding-set=-cap_39,-cap_21"], "CAP_BPF missing"),
        (&["setpriv", "--bounding-set=-cap_12"], "CAP_NET_ADMIN missing"),
    ] {
        refused(&daemon_behind(&lab, wrapper), 6, &[missing, "sudo weir daemon", "AmbientCapabilities="]);
        refused(&weir_behind(&lab, wrapper, &agent), 6, &[missing, "sudo weir agent"]);
        let detach = ["detach", "--bpffs", "/sys/fs/bpf/weir"];
        refused(&weir_behind(&lab, wrapper, &detach), 6, &[missing, "sudo weir detach"]);
        orphan.is_untouched();
    }
    let config = config_path(&lab);
    let daemon = ["daemon", "--config", config.to_str().unwrap()];
    for (errno, code, words) in [
        (libc::ENOSYS, 7, ["this kernel cannot", "CONFIG_BPF_SYSCALL"]),
        (libc::EPERM, 6, ["no privilege to", "CAP_BPF"]),
    ] {
        for args in [&daemon[..], &agent[..]] {
            let mut command = command_behind(&[], args);
            seccomp::refuse_bpf(&mut command, errno);
            let output = lab.edge_netns(0).unwrap().run(move || Ok(command.output()?)).unwrap();
            refused(&output, code, &words);
        }
        orphan.is_untouched();
    }
    orphan.recovers();
}

#[test]
fn the_privileges_that_the_remedy_names_are_enough() {
    let lab = raise(1);
    let daemon = start(&lab, &quiet());
    assert!(daemon.sigterm().unwrap().success());
    let needed = "--bounding-set=-all,+net_admin,+cap_38,+cap_39";
    let netns = lab.edge_netns(0).unwrap().clone();
    let mut command =
        command_behind(&["setpriv", needed], &["daemon", "--config", config_path(&lab).to_str().unwrap()]);
    let mut child = netns.run(move || Ok(command.stderr(Stdio::null()).spawn()?)).unwrap();
    until("it forwards", || lab.weir(&["status"]).unwrap().status.success());
    assert!(lab.curl_vip("west", lb_tests::lab::web_vips()[0]).is_ok());
    let status: Value = serde_json::from_slice(&lab.weir(&["status", "-o", "json"]).unwrap().stdout).unwrap();
    let pid = i32::try_from(status["daemon"]["pid"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn pins_that_are_not_ours_are_refused_and_left_as_they_are() {
    let lab = raise(1);
    let orphan = Orphan::new(&lab);
    let (bpffs, pins) = (lab.bpffs().join("edge-1"), pins(&lab));
    let detach = format!("weir detach --bpffs {}", bpffs.display());
    let foreign = || Array::<MapData, u64>::create(1, 0).unwrap();

    // A foreign map under a name of ours; a map where a link should be; a file that nobody knows.
    for (pin, words) in [
        (pins.join("current/SLOTS"), "map SLOTS"),
        (pins.join("current/FLOWS"), "map FLOWS"),
        (pins.join("current/program"), "program"),
        (pins.join("links/eth0"), "is no XDP link"),
    ] {
        let aside = bpffs.parent().unwrap().join("aside");
        fs::rename(&pin, &aside).unwrap();
        foreign().pin(&pin).unwrap();
        refused(&daemon_behind(&lab, &[]), 8, &[pin.parent().unwrap().to_str().unwrap(), words, &detach]);
        assert!(pin.exists());
        fs::rename(&aside, &pin).unwrap();
        orphan.is_untouched();
    }
    let unknown = pins.join("current/STRANGER");
    foreign().pin(&unknown).unwrap();
    refused(&daemon_behind(&lab, &[]), 8, &["STRANGER", "is not known", &detach]);
    fs::remove_file(&unknown).unwrap();
    orphan.is_untouched();

    // No BPF file system.
    let elsewhere = edit(&orphan.config, &format!("bpffs = \"{}", lab.bpffs().display()), "bpffs = \"/run");
    refused(&orphan.start(&elsewhere), 7, &["is not on a BPF file system", "mount -t bpf"]);
    orphan.is_untouched();
    orphan.recovers();
}

#[test]
fn a_second_daemon_is_refused_and_the_first_one_is_not_disturbed() {
    let lab = raise(1);
    let daemon = start(&lab, &quiet());
    let traffic = traffic(&lab);
    let config = fs::read_to_string(config_path(&lab)).unwrap();
    let pid = format!("pid {}", daemon.pid());
    refused(&daemon_behind(&lab, &[]), 8, &[&pid, "stop that daemon first"]);

    // Another folder for its state does not help: there is one socket, and one set of pins.
    let path = lab.directory().join("second.toml");
    let arguments = ["daemon", "--config", path.to_str().unwrap()];
    let state = state_dir(&lab).display().to_string();
    let other_state = edit(&config, &state, &format!("{state}-second"));
    fs::write(&path, &other_state).unwrap();
    refused(&lab.weir(&arguments).unwrap(), 8, &["another daemon listens", "node.socket"]);
    fs::write(&path, edit(&other_state, "edge-1.sock", "second.sock")).unwrap();
    refused(&lab.weir(&arguments).unwrap(), 8, &["another weir process uses the pins", "stop it first"]);

    goes_on(&traffic, 0);
    assert_eq!(status(&daemon)["daemon"]["pid"], daemon.pid());
    nothing_lost(&traffic.stop().unwrap());
}

#[test]
fn damaged_state_is_refused_or_mended_and_never_overwritten() {
    let lab = raise(1);
    let mut orphan = Orphan::new(&lab);
    let state = state_dir(&lab);
    let (overrides, journal) = (state.join("overrides.json"), state.join("events.jsonl"));
    for file in [&overrides, &journal] {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o022, 0);

    let good = fs::read(&overrides).unwrap();
    for bad in [&good[..good.len() / 2], b"", b"[]"] {
        fs::write(&overrides, bad).unwrap();
        refused(&daemon_behind(&lab, &[]), 3, &["overrides.json", "damaged", "nothing was changed", "mv "]);
        assert_eq!(fs::read(&overrides).unwrap(), bad);
        fs::write(&overrides, &good).unwrap();
        orphan.is_untouched();
    }

    // What cannot be written to is refused: here the folder is read-only for this one process.
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    let read_only = ["unshare", "--mount", "sh", "-c", script, state.to_str().unwrap()];
    refused(&daemon_behind(&lab, &read_only), 1, &["lock", "is the state directory writable?"]);
    orphan.is_untouched();

    let aside = state.join("aside");
    fs::rename(&journal, &aside).unwrap();
    fs::create_dir(&journal).unwrap();
    refused(&daemon_behind(&lab, &[]), 1, &["cannot read the event journal", "move the file away"]);
    fs::remove_dir(&journal).unwrap();
    fs::rename(&aside, &journal).unwrap();
    orphan.is_untouched();

    // A line that a crash tore is no reason not to start; what comes after it is whole.
    let mut file = OpenOptions::new().append(true).open(&journal).unwrap();
    file.write_all(b"{\"seq\":99,\"time\":\"20").unwrap();
    orphan.files = state_files(&lab);
    orphan.is_untouched();
    let before = fs::read_to_string(&journal).unwrap().lines().count() as u64 - 1;
    let daemon = orphan.recovers();
    let events = daemon.cli_json(&["events"]).unwrap();
    let numbers: Vec<_> =
        events.as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=before + 1).collect::<Vec<_>>());
    let text = fs::read_to_string(&journal).unwrap();
    let parsed = text.lines().map(serde_json::from_str::<Value>).filter(Result::is_ok).count() as u64;
    assert_eq!(parsed, before + 1, "{text}");
}

#[test]
fn a_word_that_cannot_be_saved_is_said_to_last_only_as_long_as_the_daemon() {
    let lab = raise(1);
    let daemon = start(&lab, &quiet());
    let obstacle = state_dir(&lab).join("overrides.json.tmp");
    fs::create_dir(&obstacle).unwrap();
    let drain = ["backend", "drain", "w1r1b1", "--reason", "fans"];
    refused(&daemon.cli(&drain).unwrap(), 1, &["will not outlive the daemon", "give the command again"]);
    assert_eq!(health(&daemon, "backend", "w1r1b1")["state"], "DRAINING");
    fs::remove_dir(&obstacle).unwrap();
    done(&daemon, &drain);
    daemon.kill9().unwrap();
    let daemon = start(&lab, &quiet());
    assert_eq!(health(&daemon, "backend", "w1r1b1")["override"]["reason"], "fans");
}

#[test]
fn commands_that_make_no_sense_are_refused_with_a_remedy() {
    let lab = raise(1);
    let absent = lab.weir(&["status"]).unwrap();
    refused(&absent, 4, &["there is no socket", "edge-1.sock", "weir daemon", "--socket"]);
    let daemon = start(&lab, &quiet());
    let told = events(&daemon).len();
    let long = "x".repeat(600);
    for (args, code, words) in [
        (&["backend", "show", "w1r1b9"][..], 5, &["w1r1b9", "weir backend list"][..]),
        (&["backend", "fail", "w1r1b9", "--reason", "r"], 5, &["w1r1b9", "weir backend list"]),
        (&["domain", "show", "west/w9"], 5, &["west/w9", "weir domain list"]),
        (&["domain", "drain", "west/w9", "--reason", "r"], 5, &["west/w9", "weir domain list"]),
        (&["service", "show", "wob"], 5, &["wob", "weir service list"]),
        (&["backend", "drain", "w1r1b1", "--reason", ""], 2, &["reason"]),
        (&["backend", "drain", "w1r1b1", "--reason", "  "], 2, &["reason"]),
        (&["backend", "drain", "w1r1b1", "--reason", "a\nb"], 2, &["reason"]),
        (&["backend", "drain", "w1r1b1", "--reason", &long], 2, &["reason", "512"]),
        (&["backend", "drain", "w1r1b1"], 2, &["--reason"]),
        (&["explain", "198.51.100.7:40000", "[2001:db8:100::10]:80/tcp"], 2, &["famil"]),
        (&["explain", "198.51.100.7", "192.0.2.10:80/tcp"], 2, &["198.51.100.7"]),
        (&["explain", "198.51.100.7:1", "192.0.2.10:80/dccp"], 2, &["tcp", "udp", "sctp"]),
        (&["events", "-n", "1000000"], 2, &["at most"]),
        (&["status", "--socket", "/dev/null"], 4, &["/dev/null"]),
    ] {
        refused(&daemon.cli(args).unwrap(), code, words);
    }
    let explained = daemon.cli_json(&["explain", "198.51.100.7:40000", "192.0.2.99:80/tcp"]).unwrap();
    assert_eq!(explained["verdict"], "pass", "{explained}");
    assert_eq!(events(&daemon).len(), told, "a refused command did something");
}

#[test]
fn everything_is_json_on_demand_and_a_reader_may_leave_or_follow() {
    let lab = raise(1);
    let daemon = start(&lab, &quiet());
    assert_eq!(fs::metadata(daemon.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    for args in [
        &["status"][..],
        &["service", "list"],
        &["service", "show", "web"],
        &["backend", "list"],
        &["backend", "show", "w1r1b1"],
        &["domain", "list"],
        &["domain", "show", "west/w1"],
        &["explain", "198.51.100.7:40000", "192.0.2.10:80/tcp"],
        &["events"],
        &["check", "--config", config_path(&lab).to_str().unwrap()],
    ] {
        let json = daemon.cli_json(args).unwrap();
        assert!(
            json.as_object().map_or(json.as_array().map(Vec::len), |o| Some(o.len())) > Some(0),
            "{args:?}"
        );
        let table = daemon.cli(args).unwrap();
        assert!(table.status.success() && !table.stdout.is_empty(), "{}", text(&table));
        assert!(
            table.stderr.is_empty() && serde_json::from_slice::<Value>(&table.stdout).is_err(),
            "{args:?}"
        );
    }

    for number in 0..20 {
        done(&daemon, &["backend", "drain", "w1r1b1", "--reason", &format!("number {number}")]);
    }
    let weir = lb_tests::lab::weir_binary().unwrap();
    let script = "set -o pipefail; \"$0\" events -n 1000 --socket \"$1\" | head -1";
    let head = std::process::Command::new("bash")
        .args(["-c", script])
        .arg(weir)
        .arg(daemon.socket())
        .output()
        .unwrap();
    assert!(head.status.success() && head.stderr.is_empty(), "{}", text(&head));
    assert!(text(&head).starts_with("TIME"), "{}", text(&head));

    let mut follow = command_behind(&[], &["events", "--follow", "-n", "0", "-o", "json", "--socket"]);
    let mut follow =
        follow.arg(daemon.socket()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    // It shows nothing of the past, so it can be seen to follow only by telling it something new, until it does.
    let mut number = 0;
    let (sender, receiver) = std::sync::mpsc::channel();
    // Reads to the end: a follower that nobody reads any more ends by itself.
    std::thread::spawn(move || lines.for_each(|line| drop(sender.send(line))));
    let mut first = None;
    until("the follower prints a new event", || {
        number += 1;
        done(&daemon, &["backend", "drain", "w1r1b1", "--reason", &format!("news {number}")]);
        first = receiver.try_recv().ok();
        first.is_some()
    });
    let event: Value = serde_json::from_str(&first.unwrap().unwrap()).unwrap();
    assert!(event["cause"].as_str().unwrap().contains("news "), "{event}");
    assert!(daemon.sigterm().unwrap().success());
    assert_eq!(follow.wait().unwrap().code(), Some(4), "it ends with the daemon");
}

/// A program of somebody else's on the edge's interface, for as long as this lives.
fn foreign_program(netns: &Netns, mode: XdpMode) -> (Ebpf, FdLink, u32) {
    let object = Path::new(env!("WEIR_BPF_DIR")).join("lab");
    netns
        .run(move || {
            let mut object = EbpfLoader::new().btf(None).load_file(object)?;
            let program: &mut Xdp = object.program_mut("weir_pass").unwrap().try_into()?;
            program.load()?;
            let id = program.attach("eth0", mode)?;
            let link: FdLink = program.take_link(id)?.try_into()?;
            let program = program.info()?.id();
            Ok((object, link, program))
        })
        .unwrap()
}

/// How XDP is attached to the edge's interface: `xdp`, `xdpgeneric` or nothing, as `ip link` says it.
fn attached(lab: &Lab) -> Option<&'static str> {
    let show = || Ok(std::process::Command::new("ip").args(["link", "show", "eth0"]).output()?);
    let text = text(&lab.edge_netns(0).unwrap().run(show).unwrap());
    ["xdpgeneric", "xdp"]
        .into_iter()
        .find(|word| text.contains(&format!(" {word} ")) || text.contains(&format!(" {word}\n")))
}

#[test]
fn an_interface_that_is_missing_or_taken_is_named_and_left_alone() {
    let lab = raise(1);
    let netns = lab.edge_netns(0).unwrap();
    let generic = || ConfigOptions { mode: "generic".into(), ..quiet() };
    for theirs in [XdpMode::Driver, XdpMode::Skb] {
        let (object, foreign, id) = foreign_program(netns, theirs);
        for ours in [quiet(), generic()] {
            lab.write_config(&ours).unwrap();
            let output = daemon_behind(&lab, &[]);
            refused(&output, 8, &["`eth0` already runs another XDP program", &format!("id {id}"), "xdp off"]);
            assert_eq!(foreign.info().unwrap().program_id(), id);
            assert!(attached(&lab).is_some() && !pins(&lab).join("next").exists());
        }
        drop((foreign, object));
        until("the foreign program is gone", || attached(&lab).is_none());
    }

    let daemon = start(&lab, &generic());
    let traffic = traffic(&lab);
    assert_eq!(attached(&lab), Some("xdpgeneric"));
    daemon.kill9().unwrap();

    let config = fs::read_to_string(config_path(&lab)).unwrap();
    for missing in ["[\"eth9\"]", "[\"eth0\", \"eth9\"]"] {
        fs::write(config_path(&lab), edit(&config, "[\"eth0\"]", missing)).unwrap();
        refused(&daemon_behind(&lab, &[]), 7, &["there is no interface `eth9`", "eth0", "node.interfaces"]);
        assert_eq!(attached(&lab), Some("xdpgeneric"));
    }
    goes_on(&traffic, 0);
    nothing_lost(&traffic.stop().unwrap());

    let daemon = start(&lab, &quiet());
    assert_eq!(attached(&lab), Some("xdp"), "{}", daemon.log_tail());
    goes_on(&e2e_support::traffic(&lab), 0);
}
