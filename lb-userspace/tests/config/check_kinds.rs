//! The kinds of checks: what they say, what they default to, and what is refused.

use std::time::Duration;

use lb_userspace::config::{
    BfdCheck, Check, CheckKind, Config, DnsCheck, ExecCheck, HttpCheck, TlsCheck, UdpCheck,
};

use crate::base::{accepted, errors, refused, with};

/// The base file's check with these lines instead of its kind and interval.
fn file(lines: &str) -> String {
    with(&[("kind = \"heartbeat\"\ninterval = \"3ms\"", lines)])
}

fn check(lines: &str) -> Check {
    accepted(&file(lines)).checks.remove(0)
}

/// The first line and the last line of each problem.
#[track_caller]
fn assert_refused(lines: &str, message: &str, remedy: &str) {
    let error = errors(&file(lines));
    let found = error.problems.iter().any(|problem| {
        problem.message.contains(message) && problem.remedy.as_ref().is_some_and(|text| text.contains(remedy))
    });
    assert!(found, "{lines}\n{error}");
    assert!(error.problems.iter().all(|problem| problem.place.is_some()), "{error}");
}

#[test]
fn http_has_defaults_for_everything() {
    let check = check("kind = \"http\"\ninterval = \"1s\"");
    let expected = HttpCheck {
        port: 80,
        vip: None,
        tls: None,
        head: false,
        path: "/".to_owned(),
        host: None,
        status: vec![(200, 299)],
        body: None,
        body_limit: 16 << 10,
    };
    assert_eq!(check.kind, CheckKind::Http(Box::new(expected)));
    let times = (check.interval, check.timeout, check.fall, check.rise, check.jitter);
    assert_eq!(times, (Duration::from_secs(1), Duration::from_secs(1), 3, 3, 10));
}

#[test]
fn https_says_whom_to_trust() {
    let check = check(
        "kind = \"https\"\ninterval = \"1s\"\njitter = 0\nmethod = \"HEAD\"\npath = \"/alive?deep=1\"\n\
         host = \"www.example.com:8443\"\nport = 8443\nstatus = [\"204\", \"300-399\"]\n\
         server_name = \"backend.example\"\nverify = false",
    );
    let tls = TlsCheck { server_name: Some("backend.example".to_owned()), ca_file: None, verify: false };
    let expected = HttpCheck {
        port: 8443,
        vip: None,
        tls: Some(tls),
        head: true,
        path: "/alive?deep=1".to_owned(),
        host: Some("www.example.com:8443".to_owned()),
        status: vec![(204, 204), (300, 399)],
        body: None,
        body_limit: 16 << 10,
    };
    assert_eq!((check.jitter, check.kind), (0, CheckKind::Http(Box::new(expected))));
}

#[test]
fn the_others_say_what_they_send() {
    let udp = check(
        "kind = \"udp\"\ninterval = \"1s\"\nport = 7\nsend_hex = \"50 ff\"\nexpect = \"P\"\nexpect_at = \"contains\"",
    );
    let expected = UdpCheck { port: 7, send: vec![0x50, 0xff], expect: Some(b"P".to_vec()), anywhere: true };
    assert_eq!(udp.kind, CheckKind::Udp(expected));
    let dns = check(
        "kind = \"dns\"\ninterval = \"1s\"\nquery = \"example.com.\"\ntype = \"AAAA\"\nrcode = \"any\"",
    );
    let expected = DnsCheck { port: 53, query: "example.com".to_owned(), record: 28, rcode: None };
    assert_eq!(dns.kind, CheckKind::Dns(expected));
    let root = check("kind = \"dns\"\ninterval = \"1s\"\nquery = \".\"\ntype = \"NS\"");
    let expected = DnsCheck { port: 53, query: String::new(), record: 2, rcode: Some(0) };
    assert_eq!(root.kind, CheckKind::Dns(expected));
    let icmp = check("kind = \"icmp\"\ninterval = \"1ms\"");
    assert_eq!(
        (icmp.kind, icmp.timeout, icmp.fall, icmp.jitter),
        (CheckKind::Icmp, Duration::from_millis(1), 2, 0)
    );
    let exec = check(
        "kind = \"exec\"\ninterval = \"1s\"\ncommand = [\"/bin/sh\", \"-c\", \"true\"]\nuser = \"root\"",
    );
    let command = ["/bin/sh", "-c", "true"].map(str::to_owned).to_vec();
    assert_eq!(exec.kind, CheckKind::Exec(ExecCheck { command, user: Some((0, 0)) }));
}

#[test]
fn bfd_takes_its_times_from_the_session() {
    let single = check("kind = \"bfd\"\ninterval = \"10ms\"");
    let expected = BfdCheck {
        multihop: false,
        receive_interval: Duration::from_millis(10),
        multiplier: 3,
        passive: false,
        local: Vec::new(),
    };
    assert_eq!((single.kind.port(), single.kind), (3784, CheckKind::Bfd(expected)));
    assert_eq!((single.timeout, single.fall, single.rise), (Duration::from_millis(30), 3, 1));
    let multihop = check(
        "kind = \"bfd\"\ninterval = \"10ms\"\nmultihop = true\nreceive_interval = \"20ms\"\nmultiplier = 5\n\
         passive = true\nlocal = [\"192.0.2.7\", \"2001:db8::7\"]",
    );
    assert_eq!((multihop.timeout, multihop.fall), (Duration::from_millis(100), 5));
    assert_eq!(multihop.kind.port(), 4784);
}

#[test]
fn a_key_of_another_kind_is_refused_with_its_place() {
    refused(
        &file("kind = \"tcp\"\ninterval = \"1s\"\nport = 80\npath = \"/\""),
        r#"
error: "path" has no meaning for check "heartbeat", of kind "tcp"
  --> weir.toml:19:1
   |
19 | path = "/"
   | ^^^^
   = help: remove it; what a check of this kind takes: timeout, fall, jitter, port, via, vip"#,
    );
    for (lines, key, remedy) in [
        ("kind = \"http\"\nverify = false", "verify", "kind = \"https\""),
        ("kind = \"bfd\"\ntimeout = \"1s\"", "timeout", "multiplier"),
        ("kind = \"bfd\"\nfall = 2", "fall", "multiplier"),
        ("kind = \"bfd\"\njitter = 2", "jitter", "6.8.7"),
        ("kind = \"icmp\"\nport = 7", "port", "timeout, fall, jitter"),
        ("kind = \"heartbeat\"\ncommand = [\"/bin/true\"]", "command", "remove it"),
    ] {
        let message = format!("\"{key}\" has no meaning");
        assert_refused(&format!("{lines}\ninterval = \"1s\""), &message, remedy);
    }
}

#[test]
fn a_key_that_no_kind_knows_is_unknown() {
    assert_refused(
        "kind = \"icmp\"\ninterval = \"1s\"\nporrt = 7",
        "unknown key \"porrt\"",
        "did you mean \"port\"?",
    );
}

#[test]
fn bad_values_are_refused_with_what_to_write() {
    let long = "x".repeat(2000);
    for (lines, message, remedy) in [
        (
            "kind = \"http\"\nmethod = \"POST\"",
            "method of check \"heartbeat\" cannot be \"POST\"",
            "\"GET\", \"HEAD\"",
        ),
        ("kind = \"http\"\npath = \"alive\"", "no path of a URL", "begin with \"/\""),
        ("kind = \"http\"\npath = \"/a b\"", "no path of a URL", "%20"),
        ("kind = \"http\"\npath = \"/a\\nb\"", "holds control characters", "plain text"),
        (&format!("kind = \"http\"\npath = \"/{long}\""), "too long", "MAX_CHECK_TEXT_BYTES"),
        ("kind = \"http\"\nhost = \"http://x/\"", "no host name", "www.example.com"),
        ("kind = \"http\"\nstatus = []", "has 0 elements", "200-299"),
        ("kind = \"http\"\nstatus = [\"99\"]", "cannot be \"99\"", "100 to 599"),
        ("kind = \"http\"\nstatus = [\"300-200\"]", "cannot be \"300-200\"", "100 to 599"),
        ("kind = \"http\"\nbody = \"\"", "is empty", "plain text"),
        ("kind = \"http\"\nmethod = \"HEAD\"\nbody = \"x\"", "its method is HEAD", "GET"),
        ("kind = \"http\"\nbody_limit = 0", "body_limit = 0", "MAX_BODY_BYTES"),
        ("kind = \"https\"\nserver_name = \"a b\"", "no host name", "certificate"),
        ("kind = \"https\"\nverify = \"no\"", "must be true or false", "without quotes"),
        ("kind = \"https\"\nca_file = \"/nonexistent\"", "cannot be read", "PEM"),
        ("kind = \"https\"\nca_file = \"ca.pem\"", "is no absolute path", "PEM"),
        ("kind = \"https\"\nca_file = \"/etc/passwd\"", "holds no certificate", "PEM"),
        (
            "kind = \"https\"\nca_file = \"/etc/passwd\"\nverify = false",
            "a ca_file and verify = false",
            "remove one",
        ),
        ("kind = \"udp\"\nsend = \"x\"", "has no \"port\"", "port = 514"),
        ("kind = \"udp\"\nport = 7", "nothing to send", "send_hex"),
        ("kind = \"udp\"\nport = 7\nsend = \"\"", "has 0 bytes", "MAX_DATAGRAM_BYTES"),
        ("kind = \"udp\"\nport = 7\nsend = \"x\"\nsend_hex = \"00\"", "both send and send_hex", "keep one"),
        ("kind = \"udp\"\nport = 7\nsend_hex = \"0g\"", "no list of bytes", "00 ff 1a"),
        (
            "kind = \"udp\"\nport = 7\nsend = \"x\"\nexpect_at = \"prefix\"",
            "neither expect nor expect_hex",
            "any answer",
        ),
        ("kind = \"dns\"", "has no \"query\"", "example.com"),
        ("kind = \"dns\"\nquery = \"a..b\"", "no domain name", "63 letters"),
        ("kind = \"dns\"\nquery = \"\"", "no domain name", "63 letters"),
        (
            "kind = \"dns\"\nquery = \"x\"\ntype = \"B\"",
            "type of check \"heartbeat\" cannot be \"B\"",
            "\"AAAA\"",
        ),
        (
            "kind = \"dns\"\nquery = \"x\"\nrcode = \"OK\"",
            "rcode of check \"heartbeat\" cannot be \"OK\"",
            "\"NOERROR\"",
        ),
        ("kind = \"exec\"", "has no \"command\"", "a program and its arguments"),
        ("kind = \"exec\"\ncommand = []", "is empty", "MAX_COMMAND_ARGUMENTS"),
        ("kind = \"exec\"\ncommand = [\"true\"]", "is no absolute path", "absolute path"),
        ("kind = \"exec\"\ncommand = [\"/nonexistent\"]", "cannot be run", "absolute path"),
        ("kind = \"exec\"\ncommand = [\"/etc/passwd\"]", "may not be executed", "absolute path"),
        ("kind = \"exec\"\ncommand = [\"/bin\"]", "is no program", "absolute path"),
        (
            "kind = \"exec\"\ncommand = [\"/bin/true\"]\nuser = \"no one\"",
            "is not known on this host",
            "nobody",
        ),
        ("kind = \"bfd\"\nmultiplier = 0", "multiplier = 0", "1 to 255"),
        ("kind = \"bfd\"\nreceive_interval = \"1us\"", "receive_interval \"1us\"", "1ms to 60s"),
        ("kind = \"bfd\"\nlocal = [\"127.0.0.1\"]", "a loopback address", "routed to one host"),
        (
            "kind = \"bfd\"\nlocal = [\"192.0.2.1\", \"192.0.2.2\"]",
            "two addresses of one family",
            "at most one",
        ),
        ("kind = \"icmp\"\njitter = 51", "jitter = 51", "0 to 50 percent"),
    ] {
        assert_refused(&format!("{lines}\ninterval = \"1s\""), message, remedy);
    }
    for (kind, shortest) in [
        ("http", "50ms"),
        ("exec", "50ms"),
        ("udp", "10ms"),
        ("dns", "10ms"),
        ("icmp", "1ms"),
        ("bfd", "1ms"),
    ] {
        let remedy = format!("it goes from {shortest} to 60s");
        assert_refused(&format!("kind = \"{kind}\"\ninterval = \"999us\""), "interval \"999us\"", &remedy);
    }
}

#[test]
fn a_tcp_check_through_the_tunnel_names_a_vip() {
    let tcp = |more: &str| file(&format!("kind = \"tcp\"\nport = 80\n{more}\ninterval = \"50ms\""));
    let config = accepted(&tcp("via = \"tunnel\"\nvip = \"192.0.2.10\""));
    let vip = "192.0.2.10".parse().expect("an address");
    assert_eq!(config.checks[0].kind, CheckKind::TcpTunnel { vip, port: 80 });
    assert_eq!(accepted(&tcp("via = \"direct\"")).checks[0].kind, CheckKind::Tcp { port: 80 });
    // HTTP and HTTPS likewise.
    for kind in ["http", "https"] {
        let check = |more: &str| accepted(&file(&format!("kind = \"{kind}\"\n{more}interval = \"50ms\"")));
        let vip_of = |config: &Config| match &config.checks[0].kind {
            CheckKind::Http(http) => http.vip,
            other => panic!("{other:?}"),
        };
        assert_eq!(vip_of(&check("via = \"tunnel\"\nvip = \"192.0.2.10\"\n")), Some(vip));
        assert_eq!(vip_of(&check("")), None);
    }
    for (more, message, remedy) in [
        ("via = \"tunnel\"", "has no \"vip\"", "add vip"),
        ("vip = \"192.0.2.10\"", "has a vip, but does not go through the tunnel", "write via = \"tunnel\""),
        ("via = \"tunel\"\nvip = \"192.0.2.10\"", "\"tunel\"", "tunnel"),
        (
            "via = \"tunnel\"\nvip = \"192.0.2.11\"",
            "is the address of no service",
            "name the VIP of a service",
        ),
        ("via = \"tunnel\"\nvip = \"web\"", "cannot be \"web\"", "write an IPv4 or IPv6 address"),
    ] {
        let error = errors(&tcp(more));
        let problem = &error.problems[0];
        assert!(error.problems.len() == 1 && problem.message.contains(message), "{more}: {error}");
        assert!(problem.remedy.as_deref().unwrap_or_default().contains(remedy), "{more}: {error}");
    }
}
