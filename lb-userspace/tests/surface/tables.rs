//! What people see, letter by letter.

use lb_userspace::api::types::{DrainState, DrainView};

use crate::fake::Daemon;

#[track_caller]
fn shows(daemon: &Daemon, arguments: &[&str], expected: &str) {
    let shown = daemon.stdout(arguments);
    assert_eq!(shown.trim_end_matches('\n'), expected.trim_matches('\n'), "{arguments:?} shows:\n{shown}");
    assert!(!shown.contains('\u{1b}'), "colour in a pipe: {shown:?}");
    assert!(shown.lines().all(|line| line == line.trim_end()), "space at the end of a line: {shown:?}");
}

#[test]
fn status() {
    let expected = "
node            edge-1 in west/w1
daemon          weir 0.1.0, pid 4242, up 1 h 2 min, took over a running data plane
xdp             native on eth0, eth1 (NOT ATTACHED)
config          /etc/weir/weir.toml, digest 0123456789ab
services        1
flow table      1234 of 65536 entries, 56 openings, 789 slots marked, in transition until 2026-05-01T12:00:00.250Z, leaving: 1 backends, 0 services
forwarded       2469134 packets, 2.0 GB
control thread  SCHED_FIFO, 12003 rounds, 2 late, 1 in a stall of this host, at most 410.0 us late, 9 stores
events          0
bfd sessions    1 up, 1 down (1 of them awaited); 3 flaps
ATTENTION       isolated: every target is silent, so this host itself is cut off; the last state is held
ATTENTION       no next hop for w1r2b1: their packets are dropped

          UP  SUSPECT  DOWN  DRAINING  RAMP
backends   1        0     1         1     0
domains    2        0     1         0     0

NOT FORWARDED  REASON         PACKETS  BYTES
dropped        all_down            17    1.0 kB
passed         pass_not_vip      5000  300.0 kB
answered       echo_answered        3     180 B

OVERRIDE         STATE                              SINCE                     LEFT        REASON
backend w1r1b1   DRAINING                           2026-05-01T12:00:00.250Z  1 h 59 min  kernel upgrade
domain north/n1  waiting: not in the configuration  2026-05-01T12:00:00.250Z  no end      kernel upgrade

SHIFT    KEEPS  AWAY  LEFT        UNTIL                     BY        REASON
west/w1   25 %  75 %  1 h 30 min  2026-05-01T13:30:00.250Z  operator  cooling is weak
";
    shows(&Daemon::start(), &["status"], expected);
}

#[test]
fn services() {
    let daemon = Daemon::start();
    shows(
        &daemon,
        &["service", "list"],
        "
NAME  ADDRESS                POOLS  BACKENDS  AVAILABLE  PACKETS  BYTES   DROPPED
web   [2001:db8::10]:80/tcp      2         4          1  2469134  2.0 GB       17
",
    );
    let expected = "
name         web
address      [2001:db8::10]:80/tcp
forwarding   gue to port 6080
reach        route
on all down  fail-open
forwarded    2469134 packets, 2.0 GB, 4321 of them opening
dropped      17 packets

POOL  BACKENDS  AVAILABLE  TAKES FLOWS  TABLE  SETS
east         2          1  all          65537  web-east
west         2          0  all          65537  web-west

CLIENT REGION  POOLS IN ORDER
default        west, east
east           east, west
";
    shows(&daemon, &["service", "show", "web"], expected);
}

#[test]
fn backends() {
    let daemon = Daemon::start();
    let expected = "
NAME    STATE     TAKES FLOWS  RACK        ADDRESS       WEIGHT  PACKETS  BYTES     WHY
e1r1b1  DOWN      none         east/e1/r1  2001:db8::11     100  1234567  987.7 MB  heartbeat is failing
w1r1b1  DRAINING  established  west/w1/r1  10.1.1.11        100  1234567  987.7 MB  drained by operator: kernel upgrade
w1r2b1  UP        none         west/w1/r2  10.1.2.11        100  1234567  987.7 MB  west/w1/r2 is limited; no next hop
";
    shows(&daemon, &["backend", "list"], expected);
    let expected = "
name         w1r1b1
state        DRAINING
since        2026-05-01T12:00:00.250Z
checks say   UP
takes flows  established
rack         west/w1/r1
set          web-w1
address      10.1.1.11
weight       100
next hop     02:00:00:00:00:01 by eth0
forwarded    1234567 packets, 987.7 MB
flow table   12 flows away from home, no packet for 0 s
operator     drained by operator: kernel upgrade (since 2026-05-01T12:00:00.250Z, 1 h 59 min left)

CHECK      PORT  STATE    LAST      ROUND TRIP  ANSWERED  MISSED
heartbeat  6777  passing  answered  61.2 us        12000       3
";
    shows(&daemon, &["backend", "show", "w1r1b1"], expected);
    let shown = daemon.stdout(&["backend", "show", "w1r2b1"]);
    assert!(shown.contains("takes flows  none, because of west/w1/r2\n"), "{shown}");
    assert!(shown.contains("next hop     not known\n"), "{shown}");
    daemon.fake.world.lock().unwrap().backends[0].checks.clear();
    assert!(daemon.stdout(&["backend", "show", "w1r2b1"]).ends_with("\n\nno checks: always believed UP\n"));
}

#[test]
fn bfd_sessions() {
    let daemon = Daemon::start();
    let expected = "
BACKEND              PEER       HOPS        STATE  REMOTE  SINCE                     INTERVAL           DETECTION  HEARD        FLAPS  WHY
w1r1b1, w1r1b1-mail  10.1.1.11  single hop  down           2026-05-01T12:00:00.250Z  1.0 s / 10.0 ms                     never      3  awaited for 1.4 s more: this host was silent
w1r2b1               10.1.2.11  multihop    up     up      2026-05-01T12:00:00.250Z  50.0 ms / 20.0 ms   100.0 ms  12.3 ms ago      0
";
    shows(&daemon, &["bfd", "list"], expected);
    let expected = "
backends     w1r2b1
check        alive
peer         10.1.2.11, multihop
state        up
since        2026-05-01T12:00:00.250Z
flaps        0
last heard   12.3 ms ago
sends each   50.0 ms
hears each   20.0 ms
detection    100.0 ms; at the peer 150.0 ms
this side    discriminator 0x12340001, multiplier 3, wants to send each 10.0 ms, takes each 10.0 ms, diagnostic 0 (no diagnostic)
peer's side  up, discriminator 0x000000ab, multiplier 5, wants to send each 20.0 ms, takes each 50.0 ms, diagnostic 3 (neighbor signaled session down)
";
    shows(&daemon, &["bfd", "show", "w1r2b1"], expected);
    let shown = daemon.stdout(&["bfd", "show", "w1r1b1-mail"]);
    for text in [
        "awaited      for 1.4 s more: this host was silent",
        "cause        the peer said so",
        "detection    -; at",
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
}

#[test]
fn domains() {
    let daemon = Daemon::start();
    let expected = "
PATH        LEVEL   STATE  TAKES FLOWS  UP  SUSPECT  DOWN  DRAINING  RAMP  WHY
west        region  UP     all           2        0     1         0     0
west/w1     zone    UP     all           2        0     1         0     0
west/w1/r2  rack    DOWN   none          2        0     1         0     0
";
    shows(&daemon, &["domain", "list"], expected);
    let _ = daemon.stdout(&["domain", "drain", "west/w1", "--reason", "new switch"]);
    let expected = "
path         west/w1
level        zone
state        DRAINING
since        2026-05-01T12:00:00.250Z
checks say   UP
takes flows  all
backends     3 (2 UP, 0 SUSPECT, 1 DOWN, 0 DRAINING, 0 RAMP by their own state)
operator     drained by operator: new switch (since 2026-05-01T12:00:00.250Z, 1 d 0 h left)
";
    shows(&daemon, &["domain", "show", "west/w1"], expected);
}

#[test]
fn actions() {
    let daemon = Daemon::start();
    shows(
        &daemon,
        &["backend", "drain", "w1r2b1", "--reason", "r"],
        "
backend w1r2b1: UP -> DRAINING, in the data plane 12.3 us after the decision
it ends by itself in 1 d 0 h; then the checks have the say
",
    );
    shows(
        &daemon,
        &["backend", "drain", "w1r2b1", "--reason", "r"],
        "
backend w1r2b1 is DRAINING already: nothing changed
it ends by itself in 1 d 0 h; then the checks have the say
",
    );
    shows(
        &daemon,
        &["domain", "fail", "west/w1", "--reason", "r", "--no-expiry"],
        "
domain west/w1: UP -> DOWN, in the data plane 12.3 us after the decision
it has no end: it stands until it is restored
",
    );
    shows(
        &daemon,
        &["domain", "restore", "west/w1", "--reason", "r"],
        "domain west/w1: DOWN -> UP, in the data plane 12.3 us after the decision",
    );
}

#[test]
fn shifts() {
    let daemon = Daemon::start();
    fn shift<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
        [&["shift"], arguments, &["--reason", "r"]].concat()
    }
    shows(
        &daemon,
        &shift(&["zone", "west/w2", "--away", "75%", "--for", "2h"]),
        "west/w2 keeps 25 % of its new flows, 75 % go elsewhere, for 2 h 0 min",
    );
    shows(
        &daemon,
        &["shift", "list"],
        "
SHIFT    KEEPS  AWAY  LEFT        UNTIL                     BY        REASON
west/w1   25 %  75 %  1 h 30 min  2026-05-01T13:30:00.250Z  operator  cooling is weak
west/w2   25 %  75 %  2 h 0 min   2026-05-01T14:00:00.250Z  operator  r
",
    );
    let extended = daemon.stdout(&shift(&["extend", "west/w1", "--for", "1d"]));
    assert!(extended.starts_with("west/w1 keeps 25 %") && extended.ends_with("for 1 d 0 h\n"), "{extended}");
    shows(&daemon, &shift(&["cancel", "west/w1"]), "west/w1 takes all of its new flows again");
    let refused = daemon.weir(&shift(&["region", "west", "--to", "0%", "--for", "1h"]));
    assert_eq!(refused.status.code(), Some(8), "{refused:?}");
    let _ = daemon.stdout(&shift(&["region", "west", "--to", "0%", "--for", "1h", "--force"]));
    assert_eq!(daemon.weir(&shift(&["cancel", "west/w9"])).status.code(), Some(5));
}

#[test]
fn canaries() {
    let daemon = Daemon::start();
    let canary = |arguments: &[&str]| daemon.stdout(&[&["canary"], arguments, &["--reason", "r"]].concat());
    let begun = canary(&["set", "web", "--set", "blue-2", "--share", "2.5%"]);
    assert_eq!(begun, "web: set blue-2 takes 2.5 %, next step 25 %\n");
    assert!(canary(&["step", "web"]).contains("takes 5 %"));
    shows(
        &daemon,
        &["canary", "list"],
        "
CANARY  SET     TAKES  NEXT  SINCE                     REASON
web     blue-2    5 %  25 %  2026-05-01T12:00:00.250Z  r
",
    );
    assert!(daemon.stdout(&["status"]).contains("web     blue-2    5 %"));
    assert!(canary(&["promote", "web"]).contains("takes 100 %"));
    assert_eq!(canary(&["abort", "web"]), "web: all is as the configuration says\n");
    assert_eq!(daemon.weir(&["canary", "step", "web", "--reason", "r"]).status.code(), Some(8));
}

#[test]
fn drains_are_waited_for_with_exit_codes_of_their_own() {
    let daemon = Daemon::start();
    let wait = || daemon.weir(&["backend", "drain", "w1r2b1", "--wait", "--reason", "r"]);
    let drain = |state| {
        let mut world = daemon.fake.world.lock().unwrap();
        let of = world.backends.iter_mut().find(|backend| backend.name == "w1r2b1").unwrap();
        let deadline = None;
        of.health.drain = Some(DrainView {
            state,
            flows: 3,
            walked: true,
            packets_per_second: 20,
            silent_s: 0,
            quiet_s: 60,
            deadline,
        });
    };
    drain(DrainState::Drained);
    let output = wait();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("w1r2b1: DRAINED: 3 flows away from home, 20 packets a second\n"), "{text}");
    drain(DrainState::DeadlinePassed);
    let output = wait();
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("its deadline has passed"), "{output:?}");
    assert!(daemon.stdout(&["backend", "list"]).contains("DRAINING (deadline passed, 3 flows)"));
    let listed = daemon.stdout(&["backend", "show", "w1r2b1"]);
    assert!(
        listed.contains("drain        DRAINING: 3 flows away from home, 20 packets a second"),
        "{listed}"
    );
}

#[test]
fn reports() {
    let daemon = Daemon::start();
    let shown = daemon.stdout(&["report", "--since", "7d"]);
    let (head, table) = shown.split_once("\n\n").unwrap();
    assert!(
        head.contains("the journal begins at 2026-05-01T12:00:00.250Z: older events were rotated away"),
        "{shown}"
    );
    assert!(head.contains("no daemon ran 1 times"), "{shown}");
    let expected = "
KIND     NAME    AVAILABILITY  FAILURES       MTTF         MTTR          DOWN  PLANNED
service  web        99.8680 %         2  3 d 11 h   6 min 40 s   13 min 20 s        0
backend  w1r1b1     99.8680 %         2  3 d 11 h   6 min 40 s   13 min 20 s        0
";
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        squeeze(table.lines().take(3).collect::<Vec<_>>().join(" ").as_str()),
        squeeze(expected),
        "{shown}"
    );
}

#[test]
fn explanations() {
    let daemon = Daemon::start();
    shows(&daemon, &["explain", "198.51.100.7:40000", "192.0.2.10:80/tcp"], "
198.51.100.7:40000 -> 192.0.2.10:80/tcp: a packet that opens a flow, hash 0123456789abcdef
1. the destination is service web
2. the client is in region default, whose plan is west, then east
3. probe 0 finds w1r1b1, which takes no new flows
=> forwarded to backend w1r2b1 in west/w1/r2 (10.1.2.11) of service web, from 10.255.3.4 to 10.1.2.11, by eth0 to 02:00:00:00:00:01
");
    shows(&daemon, &["explain", "[2001:db8:a::7]:40000", "[2001:db8::10]:80/udp", "--established"], "
[2001:db8:a::7]:40000 -> [2001:db8::10]:80/udp: a packet that belongs to an established flow, hash 0123456789abcdef
1. the destination is service web
2. the client is in region default, whose plan is west, then east
3. probe 0 finds w1r1b1, which takes no new flows
=> dropped of service web: no pool of its plan takes it
");
}

#[test]
fn events() {
    let daemon = Daemon::start();
    daemon.record("west/w1");
    let _ = daemon.stdout(&["domain", "fail", "west/w1", "--reason", "cooling failed"]);
    let shown = daemon.stdout(&["events"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(
        lines[0],
        "TIME                      SEQ     SUBJECT                   CHANGE                DETECT     STORE      CAUSE"
    );
    // The time is that of the machine's start; the rest is fixed.
    let after_time: Vec<&str> = lines[1..].iter().map(|line| &line[24..]).collect();
    assert_eq!(
        after_time,
        [
            "  1       domain west/w1            UP -> SUSPECT         3.1 ms     4.2 us     5 of 5 backends missed round 81",
            "  2       west/w1                   UP -> DOWN            -          12.3 us    operator: fail: cooling failed",
        ]
    );
}

#[test]
fn trace() {
    let daemon = Daemon::start();
    let output = daemon.weir(&["trace", "src", "198.51.100.7", "-n", "2"]);
    assert!(output.status.success(), "{output:?}");
    let expected = "
TIME                         CLIENT                 TO                         SERVICE       REGION    PLACED       STEP        PROBES  FLOWS    BACKEND         VERDICT  REASON
2026-05-01T12:00:00.250000Z  198.51.100.7:40000     192.0.2.10:80/tcp          web           west      probing      0 local     2       written  w1r1b1          forward  forwarded
2026-05-01T12:00:00.250000Z  198.51.100.7:40000     192.0.2.10:80/tcp          web           west      probing      0 local     2       written  w1r1b1          forward  forwarded
";
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(shown.trim_end(), expected.trim_matches('\n').trim_end(), "{shown}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "7 packets more were too many to show\n");
    let json = daemon.stdout(&["trace", "-n", "1", "--sample", "1/10", "udp", "-o", "json"]);
    let lines: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["line"], "begin");
    assert_eq!(lines[0]["query"], serde_json::json!({"filter": "udp", "sample": 10, "snap": 0}));
    assert_eq!((&lines[1]["line"], &lines[1]["backend"]), (&"packet".into(), &"w1r1b1".into()));
    assert_eq!(lines.len(), 2);
}

#[test]
fn capture() {
    let daemon = Daemon::start();
    let file = daemon.dir.path().join("f.pcapng");
    let path = file.to_str().unwrap();
    let output = daemon.weir(&["capture", "-w", path, "-n", "2", "--snap", "60", "-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "{\"packets\":2,\"frames\":4,\"lost\":7}\n");
    let written = std::fs::read(&file).unwrap();
    assert_eq!(written[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    let count = |bytes: &[u8]| written.windows(bytes.len()).filter(|window| *window == bytes).count();
    assert_eq!((count(&[0xaa; 60]), count(&[0xbb; 60])), (2, 2));
    let comment = "forward: forwarded, service web, client 198.51.100.7:40000, region west, backend w1r1b1, \
                   by probing, step 0, pool local, probes 2, flow table written";
    assert_eq!(count(comment.as_bytes()), 4);
    // To standard output: the same, and nothing else.
    let output = daemon.weir(&["capture", "-w", "-", "-n", "2", "--snap", "60"]);
    assert_eq!(output.stdout, written, "{output:?}");
}
