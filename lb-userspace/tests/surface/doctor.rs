//! What `weir doctor` makes of what a daemon says of itself.

use serde_json::Value;

use crate::fake::Daemon;

/// Severity, subject and remedy of what was found by a check.
fn found(daemon: &Daemon, check: &str) -> Vec<(String, String, String)> {
    let output = daemon.weir(&["doctor", "-o", "json", "--config", "/nonexistent/weir.toml"]);
    assert_eq!(output.status.code(), Some(12), "there is no configuration: {output:?}");
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let of_check = findings.iter().filter(|finding| finding["check"] == check);
    of_check.map(|f| (text(f, "severity"), text(f, "subject"), text(f, "remedy"))).collect()
}

#[track_caller]
fn is_told(daemon: &Daemon, check: &str, severity: &str, subject: &str, remedy: &str) {
    let found = found(daemon, check);
    let fits = |(is, of, help): &(String, String, String)| {
        (is.as_str(), of.as_str()) == (severity, subject) && !help.is_empty() && help.contains(remedy)
    };
    assert!(found.iter().any(fits), "{check}: {found:?}");
}

#[test]
fn what_a_daemon_says_of_itself_is_found_and_gone_when_it_is_mended() {
    let daemon = Daemon::start();
    is_told(&daemon, "daemon.attached", "error", "eth1", "systemctl restart weir");
    is_told(&daemon, "daemon.next_hops", "error", "w1r2b1", "ip neighbour");
    is_told(&daemon, "daemon.isolated", "error", "edge-1", "links of this host");
    is_told(&daemon, "daemon.version", "warning", "edge-1", "restart");
    assert_eq!(found(&daemon, "daemon.attached").len(), 1, "eth0 is attached");
    {
        let mut world = daemon.fake.world.lock().unwrap();
        world.status.xdp.interfaces.iter_mut().for_each(|interface| interface.attached = true);
        world.status.unresolved_next_hops.clear();
        world.status.isolated = false;
        world.status.daemon.abi = lb_common::abi::ABI_VERSION;
    }
    for check in
        ["daemon.attached", "daemon.next_hops", "daemon.isolated", "daemon.reload", "daemon.scheduling"]
    {
        assert_eq!(found(&daemon, check), [], "{check}");
    }
    assert_eq!(found(&daemon, "daemon.version")[0].0, "ok");
    {
        let mut world = daemon.fake.world.lock().unwrap();
        world.status.config.last_error = Some("weir.toml:5: no\nmore".to_owned());
        world.status.control.scheduling = "SCHED_OTHER: not permitted".to_owned();
        world.status.unresolved_next_hops = (1..=7).map(|number| format!("b{number}")).collect();
    }
    is_told(&daemon, "daemon.reload", "warning", "edge-1", "weir check");
    is_told(&daemon, "daemon.scheduling", "warning", "edge-1", "CAP_SYS_NICE");
    is_told(&daemon, "daemon.next_hops", "error", "b1, b2, b3, b4, b5", "ip route get");
}

#[test]
fn a_daemon_that_is_away_is_no_more_than_a_note() {
    let mut daemon = Daemon::start();
    daemon.stop();
    is_told(&daemon, "daemon", "note", "daemon", "systemctl start weir");
}
