//! Each kind of check in the lab, up and down and up again, against real servers.
use lb_tests::{
    e2e,
    lab::{Check, ConfigOptions, Daemon, Lab, web_vips},
};
use lb_userspace::{api::types::BackendView, plan::state::State, telemetry::event::EventKind};
use std::fs;

const VICTIM: &str = "w1r1b2";

/// A daemon with this check.
fn start<'lab>(lab: &'lab Lab, check: &str) -> Daemon<'lab> {
    let timing = "interval = \"100ms\"\ntimeout = \"500ms\"\nfall = 2\nrise = 2";
    e2e::start(lab, &ConfigOptions { check: Check::Text(format!("{check}\n{timing}")), ..e2e::calm() })
}

/// Until the victim is DOWN for this reason.
#[track_caller]
fn wait_down(daemon: &Daemon<'_>, since_ns: u64, reason: &str) {
    e2e::eventually(&format!("{VICTIM} is DOWN: {reason}"), || {
        let events = e2e::events_since(daemon, since_ns);
        let found = events.iter().any(|event| {
            event.kind == EventKind::BackendState
                && event.subject == VICTIM
                && event.to == Some(State::Down)
                && event.cause.contains(reason)
        });
        anyhow::ensure!(found, "{events:#?}");
        Ok(())
    });
    let others: Vec<BackendView> = e2e::ask(daemon, &["backend", "list"]);
    let down: Vec<_> = others.iter().filter(|b| b.health.state == State::Down).map(|b| &b.name).collect();
    assert_eq!(down, [VICTIM], "nobody else");
}

/// Breaks, sees it, mends, sees it.
#[track_caller]
fn see(daemon: &Daemon<'_>, reason: &str, break_it: impl FnOnce(), mend_it: impl FnOnce()) {
    let since_ns = e2e::now_ns();
    break_it();
    wait_down(daemon, since_ns, reason);
    mend_it();
    e2e::wait_all_up(daemon);
}

#[test]
fn http_sees_status_body_freeze_and_death() {
    let lab = e2e::raise_rack(3);
    let daemon = start(&lab, "kind = \"http\"\npath = \"/\"\nbody = \"w1r1b\"");
    see(
        &daemon,
        "check alive: no answer",
        || lab.freeze_backend(VICTIM).unwrap(),
        || lab.thaw_backend(VICTIM).unwrap(),
    );
    see(
        &daemon,
        "check alive: refused",
        || lab.kill_backend(VICTIM).unwrap(),
        || lab.restart_backend(VICTIM).unwrap(),
    );
    daemon.sigterm().unwrap();
    // Only the victim's page lacks what is expected now.
    let config = ConfigOptions {
        check: Check::Text(
            "kind = \"http\"\nbody = \"w1r1b2\"\ninterval = \"100ms\"\nfall = 2\nrise = 2".to_owned(),
        ),
        ..e2e::calm()
    };
    let daemon = lab.start_daemon(&lab.write_config(&config).unwrap()).unwrap();
    daemon.wait_ready(e2e::DEADLINE).unwrap();
    for name in ["w1r1b1", "w1r1b3"] {
        e2e::eventually(&format!("{name} is DOWN"), || {
            let backend: BackendView = e2e::ask(&daemon, &["backend", "show", name]);
            anyhow::ensure!(backend.checks[0].last == "unexpected body", "{backend:?}");
            Ok(())
        });
    }
    assert_eq!(e2e::state(&daemon, "backend", VICTIM), State::Up);
}

#[test]
fn udp_and_dns_see_a_name_server_die() {
    let lab = e2e::raise_rack(3);
    let dnsmasq = |name: &str| {
        let backend = lab.topology().backend(name).unwrap();
        lab.start_dnsmasq(lab.backend_netns(name).unwrap(), backend.v4.into()).unwrap()
    };
    let mut servers: Vec<_> = ["w1r1b1", "w1r1b3"].map(dnsmasq).into();
    let checks = [
        "kind = \"dns\"\nquery = \"web.example\"".to_owned(),
        // The same query by hand: A of web.example, and an answer that repeats its id and has no error.
        "kind = \"udp\"\nport = 53\nsend_hex = \"abcd 0100 0001 0000 0000 0000 03 776562 07 6578616d706c65 00 0001 0001\"\n\
         expect_hex = \"abcd 8580 0001 0001\""
            .to_owned(),
    ];
    for check in checks {
        let victim = dnsmasq(VICTIM);
        let daemon = start(&lab, &check);
        let mut again = None;
        see(&daemon, "check alive: no answer", || victim.freeze().unwrap(), || victim.thaw().unwrap());
        see(&daemon, "check alive: refused", || victim.kill().unwrap(), || again = Some(dnsmasq(VICTIM)));
        daemon.sigterm().unwrap();
    }
    servers.clear();
}

#[test]
fn icmp_sees_a_host_that_does_not_answer() {
    let lab = e2e::raise_rack(3);
    let daemon = start(&lab, "kind = \"icmp\"");
    let ignore = |value: &str| {
        let set = || Ok(fs::write("/proc/sys/net/ipv4/icmp_echo_ignore_all", value)?);
        lab.backend_netns(VICTIM).unwrap().run(set).unwrap();
    };
    see(&daemon, "check alive: no answer", || ignore("1"), || ignore("0"));
}

#[test]
fn exec_believes_a_program() {
    let lab = e2e::raise_rack(3);
    let folder = lab.directory().display();
    let check = format!(
        "kind = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", \"test ! -e {folder}/ill-$WEIR_ADDRESS || exit 7\"]"
    );
    let daemon = start(&lab, &check);
    let file = lab.directory().join(format!("ill-{}", lab.topology().backend(VICTIM).unwrap().v4));
    see(
        &daemon,
        "check alive: exit code 7",
        || fs::write(&file, "").unwrap(),
        || fs::remove_file(&file).unwrap(),
    );
}

/// A check through the tunnel sees that the VIP is missing or the tunnel's end is gone, where a direct one sees a good server.
#[test]
fn a_check_through_the_tunnel_tests_what_the_packets_do() {
    let lab = e2e::raise_rack(2);
    let [v4, v6] = [(web_vips()[0].ip(), 32), (web_vips()[1].ip(), 128)];
    let (tcp, http) = ("kind = \"tcp\"", "kind = \"http\"\nbody = \"w1r1b\"");
    for (kind, (vip, length)) in [(tcp, v4), (http, v4), (tcp, v6), (http, v6)] {
        let text = format!(
            "{kind}\nvia = \"tunnel\"\nvip = \"{vip}\"\nport = 80\ninterval = \"50ms\"\ntimeout = \"500ms\"\nfall = 2\nrise = 2"
        );
        let daemon = e2e::start(&lab, &ConfigOptions { check: Check::Text(text), ..e2e::calm() });
        let is = |name: &str, state: State| {
            e2e::eventually(&format!("{name} is {}", state.name()), || {
                let now = e2e::state(&daemon, "backend", name);
                anyhow::ensure!(now == state, "{now:?}");
                Ok(())
            });
        };
        let first = lab.backend_netns("w1r1b1").unwrap();
        first.ip(&[format!("addr del {vip}/{length} dev lo")]).unwrap();
        is("w1r1b1", State::Down);
        let address = lab.topology().backend("w1r1b1").unwrap().v4;
        lab.router_netns().run(|| Ok(std::net::TcpStream::connect((address, 80))?)).unwrap();
        first.ip(&[format!("addr add {vip}/{length} dev lo")]).unwrap();
        is("w1r1b1", State::Up);

        lab.stop_agent("w1r1b2").unwrap();
        is("w1r1b2", State::Down);
        lab.start_agent("w1r1b2").unwrap();
        is("w1r1b2", State::Up);

        lab.kill_backend("w1r1b2").unwrap();
        is("w1r1b2", State::Down);
        let events = e2e::events_since(&daemon, 0);
        let told =
            events.iter().rev().find(|event| event.subject == "w1r1b2" && event.to == Some(State::Down));
        assert!(told.is_some_and(|event| event.cause.contains("refused")), "{told:?}");
        lab.restart_backend("w1r1b2").unwrap();
        is("w1r1b2", State::Up);
        daemon.sigterm().unwrap();
    }
}
