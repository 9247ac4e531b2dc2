//! Each kind of check in the lab, up and down and up again, against real servers.
use lb_tests::{
    e2e,
    lab::{Check, ConfigOptions, Daemon, Lab, web_vips},
};
use lb_userspace::{api::types::BackendView, plan::state::State, telemetry::event::EventKind};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
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

/// A certificate of `authority` for this name, as PEM, and its key.
fn certificate(authority: &CertifiedIssuer<'static, KeyPair>, name: &str, until_year: i32) -> [String; 2] {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(until_year, 1, 1);
    let key = KeyPair::generate().unwrap();
    [params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem()]
}

#[test]
fn https_sees_freeze_death_and_certificates_that_are_not_good() {
    let lab = e2e::raise_rack(3);
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let file = |name: &str| lab.directory().join(name);
    fs::write(file("ca.pem"), authority.pem()).unwrap();
    for (what, name, until) in
        [("good", "web.example", 4000), ("foreign", "other.example", 4000), ("over", "web.example", 2000)]
    {
        let [certificate, key] = certificate(&authority, name, until);
        fs::write(file(&format!("{what}.pem")), certificate).unwrap();
        fs::write(file(&format!("{what}.key")), key).unwrap();
    }
    let server = |name: &str, what: &str| {
        let (netns, address) = (lab.backend_netns(name).unwrap(), lab.topology().backend(name).unwrap().v4);
        let [certificate, key] = ["pem", "key"].map(|end| file(&format!("{what}.{end}")));
        lab.start_tls_server(netns, address.into(), [&certificate, &key], "all is well").unwrap()
    };
    let _others = ["w1r1b1", "w1r1b3"].map(|name| server(name, "good"));
    let mut victim = server(VICTIM, "good");
    let check = format!(
        "kind = \"https\"\nport = 443\nserver_name = \"web.example\"\nbody = \"all is well\"\nca_file = \"{}\"",
        file("ca.pem").display()
    );
    let daemon = start(&lab, &check);
    see(&daemon, "check alive: no answer", || victim.freeze().unwrap(), || victim.thaw().unwrap());
    for what in ["foreign", "over"] {
        let since_ns = e2e::now_ns();
        victim.kill().unwrap();
        wait_down(&daemon, since_ns, "check alive: refused");
        victim = server(VICTIM, what);
        e2e::eventually(&format!("the {what} certificate is refused"), || {
            let backend: BackendView = e2e::ask(&daemon, &["backend", "show", VICTIM]);
            anyhow::ensure!(backend.checks[0].last.contains("TLS"), "{backend:?}");
            Ok(())
        });
        assert_eq!(e2e::state(&daemon, "backend", VICTIM), State::Down);
        victim.kill().unwrap();
        victim = server(VICTIM, "good");
        e2e::wait_all_up(&daemon);
    }
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
        // Probes leave nothing behind: what is half open for a moment is not half open for a minute.
        e2e::eventually("no connection is left half open", || {
            let table =
                if vip.is_ipv4() { "/proc/thread-self/net/tcp" } else { "/proc/thread-self/net/tcp6" };
            let table = first.run(|| Ok(fs::read_to_string(table)?))?;
            // The fourth column is the state; 03 is SYN_RECV (proc(5)).
            let half_open = table.lines().filter(|line| line.split_whitespace().nth(3) == Some("03")).count();
            anyhow::ensure!(half_open == 0, "{table}");
            Ok(())
        });

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
