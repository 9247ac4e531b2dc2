//! Certificates on the TCP listener: who may do what, and what changes while it runs.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    sync::Arc,
    thread,
    time::Instant,
};

use lb_userspace::{
    api::{
        https::{Credentials, Https, TlsError},
        types::*,
    },
    config::{Clients, Operator, Tls},
    plan::state::State,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;

use crate::fake::{Daemon, PATIENCE, weir};

/// An authority, and a folder with what it made.
pub(crate) struct Pki {
    dir: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// What is asked for, over which connection.
type Stream = StreamOwned<ClientConnection, TcpStream>;

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let pki = Self { dir: tempfile::tempdir().unwrap(), authority };
        fs::write(pki.file("ca.pem"), pki.authority.pem()).unwrap();
        pki.issue("server", |params| {
            params.subject_alt_names = vec![
                SanType::IpAddress("127.0.0.1".parse().unwrap()),
                SanType::DnsName("localhost".try_into().unwrap()),
            ];
        });
        pki.issue("reader", |params| params.distinguished_name.push(DnType::CommonName, "reader"));
        pki.issue("ops", |params| {
            params.subject_alt_names = vec![SanType::Rfc822Name("ops@example.net".try_into().unwrap())];
        });
        pki
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes `NAME.pem` and `NAME.key`.
    pub(crate) fn issue(&self, name: &str, shape: impl FnOnce(&mut CertificateParams)) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        shape(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        fs::write(self.file(&format!("{name}.pem")), certificate.pem()).unwrap();
        let path = self.file(&format!("{name}.key"));
        fs::write(&path, key.serialize_pem()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Writes `crl.pem`, with the certificates of these numbers.
    fn revoke(&self, numbers: &[u64], until_year: i32) {
        let revoked = |&number: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(number),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until_year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: numbers.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        fs::write(self.file("crl.pem"), params.signed_by(&self.authority).unwrap().pem().unwrap()).unwrap();
    }

    /// The listener's side, with these operators.
    pub(crate) fn tls(&self, operators: &[Operator]) -> Tls {
        Tls {
            certificate: self.file("server.pem"),
            key: self.file("server.key"),
            clients: Some(Clients { ca: self.file("ca.pem"), crl: None, operators: operators.to_vec() }),
        }
    }

    fn https(&self, operators: &[Operator]) -> Https {
        Https::load(Some(&self.tls(operators))).unwrap()
    }

    /// Connects with a certificate of this name, if there is one.
    fn connect(&self, daemon: &Daemon, name: Option<&str>) -> Stream {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("ca.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match name {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = vec![CertificateDer::from_pem_file(self.file(&format!("{name}.pem"))).unwrap()];
                let key = PrivateKeyDer::from_pem_file(self.file(&format!("{name}.key"))).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let tcp = TcpStream::connect(daemon.http).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), tcp)
    }

    /// Status and body; the error if the handshake fails.
    fn ask(&self, daemon: &Daemon, name: &str, line: &str, body: &str) -> (u16, String) {
        on(&mut self.connect(daemon, Some(name)), line, "", body).unwrap()
    }
}

/// Sends one request and reads one answer, which has a length; the connection stays.
fn on(stream: &mut Stream, line: &str, headers: &str, body: &str) -> std::io::Result<(u16, String)> {
    let length = body.len();
    write!(
        stream,
        "{line} HTTP/1.1\r\nHost: localhost:9440\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )?;
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body)?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(head.contains("application/problem+json"), status >= 400, "{head}");
    Ok((status, String::from_utf8(body).unwrap()))
}

fn refused(daemon: &Daemon, cause: &str) -> u64 {
    daemon.https.refused().iter().find(|(name, _)| *name == cause).unwrap().1
}

fn name(name: &str) -> Operator {
    Operator::Name(name.to_owned())
}

const DRAIN: &str = "POST /v1/backends/w1r2b1/drain";
const REASON: &str = r#"{"reason":"fans"}"#;

#[test]
fn a_reader_may_read_and_an_operator_operate() {
    let pki = Pki::new();
    pki.issue("unit", |params| {
        params.distinguished_name.push(DnType::CommonName, "Ada");
        params.distinguished_name.push(DnType::OrganizationalUnitName, "network");
    });
    pki.issue("upper", |params| {
        params.subject_alt_names = vec![SanType::Rfc822Name("NOC@Example.NET".try_into().unwrap())];
    });
    let operators = [name("OPS@example.net"), name("noc@example.net"), Operator::Unit("network".to_owned())];
    let daemon = Daemon::start_with(pki.https(&operators));
    for path in [
        "/v1/status",
        "/v1/guards",
        "/v1/emergency",
        "/v1/diff",
        "/v1/log",
        "/v1/config",
        "/v1/doctor",
        "/metrics",
        "/",
    ] {
        assert_eq!(pki.ask(&daemon, "reader", &format!("GET {path}"), "").0, 200, "{path}");
    }
    assert_eq!(pki.ask(&daemon, "reader", "POST /v1/plans/simulate", r#"{"load":2}"#).0, 200);
    let before = refused(&daemon, "role");
    let orders = [
        (DRAIN, REASON),
        ("POST /v1/reload", ""),
        ("POST /v1/emergency", r#"{"switch":{"kind":"stop","service":"web"},"for_s":60,"reason":"r"}"#),
        ("PUT /v1/log", r#"{"filter":"debug","for_s":60}"#),
        ("DELETE /v1/log", ""),
        // Clients' packets and flows; a file of the host.
        ("GET /v1/watch", ""),
        ("GET /v1/flows", ""),
        ("GET /v1/diff?file=/etc/shadow", ""),
    ];
    for (line, body) in orders {
        let (status, answer) = pki.ask(&daemon, "reader", line, body);
        assert!(status == 403 && answer.contains("urn:weir:problem:forbidden"), "{line}: {status} {answer}");
    }
    assert_eq!(refused(&daemon, "role"), before + orders.len() as u64);
    assert_eq!(daemon.fake.journal.status().last_seq, 0, "something was done");

    for (who, shown) in [("ops", "ops@example.net"), ("unit", "Ada")] {
        let (status, answer) = pki.ask(&daemon, who, DRAIN, REASON);
        let acted: Acted = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{status} {answer}"));
        assert_eq!(acted.to, State::Draining);
        let (_, backend) = pki.ask(&daemon, "reader", "GET /v1/backends/w1r2b1", "");
        assert!(backend.contains(&format!("fans (by {shown})")), "{backend}");
        assert_eq!(pki.ask(&daemon, who, "GET /v1/diff?file=/etc/shadow", "").0, 403, "files are the host's");
    }
    assert_eq!(pki.ask(&daemon, "upper", DRAIN, REASON).0, 200, "e-mail names have no case");
    // A page from elsewhere makes a browser ask with the operator's certificate.
    for foreign in ["Origin: https://evil.example\r\n", "Sec-Fetch-Site: cross-site\r\n", "Origin: null\r\n"]
    {
        let (status, answer) = on(&mut pki.connect(&daemon, Some("ops")), DRAIN, foreign, REASON).unwrap();
        assert!(status == 403 && answer.contains("page from elsewhere"), "{status} {answer}");
    }
    let own = "Origin: https://localhost:9440\r\nSec-Fetch-Site: same-origin\r\n";
    assert_eq!(on(&mut pki.connect(&daemon, Some("ops")), DRAIN, own, REASON).unwrap().0, 200);
}

#[test]
fn without_a_good_certificate_there_is_no_connection() {
    let (pki, other) = (Pki::new(), Pki::new());
    pki.issue("expired", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    for end in ["pem", "key"] {
        fs::copy(other.file(&format!("ops.{end}")), pki.file(&format!("stranger.{end}"))).unwrap();
    }
    let daemon = Daemon::start_with(pki.https(&[name("ops@example.net")]));
    for (number, who) in [None, Some("expired"), Some("stranger")].into_iter().enumerate() {
        let error = on(&mut pki.connect(&daemon, who), "GET /v1/status", "", "").unwrap_err();
        let closed = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
        assert!(closed || error.to_string().contains("fatal alert"), "{error}");
        let deadline = Instant::now() + PATIENCE;
        while refused(&daemon, "handshake") != number as u64 + 1 {
            assert!(Instant::now() < deadline, "{who:?} was not counted");
            thread::yield_now();
        }
    }
    // No TLS at all.
    let mut plain = TcpStream::connect(daemon.http).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"));
    assert_eq!(pki.ask(&daemon, "ops", "GET /v1/status", "").0, 200);
    assert_eq!(pki.ask(&daemon, "reader", DRAIN, REASON).0, 403);
}

#[test]
fn with_a_certificate_and_no_authority_of_clients_everybody_may_read() {
    let pki = Pki::new();
    let daemon = Daemon::start_with(Https::load(Some(&Tls { clients: None, ..pki.tls(&[]) })).unwrap());
    let ask = |line: &str| on(&mut pki.connect(&daemon, None), line, "", "").unwrap().0;
    assert_eq!([ask("GET /v1/status"), ask("GET /v1/plans"), ask("GET /metrics")], [200; 3]);
    assert_eq!([ask("GET /v1/guards"), ask("GET /v1/config"), ask("POST /v1/reload")], [404; 3]);
    // The certificate says whose names these are.
    let mut stream = pki.connect(&daemon, None);
    write!(stream, "GET /v1/status HTTP/1.1\r\nHost: edge-1.example.net\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn certificates_and_operators_change_while_it_runs() {
    let pki = Pki::new();
    let daemon = Daemon::start_with(pki.https(&[name("ops@example.net")]));
    let mut open = pki.connect(&daemon, Some("ops"));
    assert_eq!(on(&mut open, DRAIN, "", REASON).unwrap().0, 200);
    let shown = |stream: &Stream| stream.conn.peer_certificates().unwrap()[0].to_vec();
    let first = shown(&open);

    pki.issue("server", |params| {
        params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
    });
    daemon.https.install(Some(Credentials::read(&pki.tls(&[name("reader")])).unwrap()));
    let mut second = pki.connect(&daemon, Some("reader"));
    assert_eq!(on(&mut second, DRAIN, "", REASON).unwrap().0, 200);
    assert_ne!(shown(&second), first);
    // What was open goes on, and is judged anew.
    assert_eq!(on(&mut open, "GET /v1/status", "", "").unwrap().0, 200);
    assert_eq!(on(&mut open, DRAIN, "", REASON).unwrap().0, 403);

    daemon.https.install(None);
    let mut plain = TcpStream::connect(daemon.http).unwrap();
    write!(plain, "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_revoked_certificate_connects_no_more_from_the_reload_on() {
    let pki = Pki::new();
    for (name, number) in [("lost", 7), ("kept", 8)] {
        pki.issue(name, |params| {
            params.serial_number = Some(SerialNumber::from(number));
            params.distinguished_name.push(DnType::CommonName, name);
        });
    }
    let tls = |lists: bool| {
        let tls = pki.tls(&[name("lost"), name("kept")]);
        let clients =
            tls.clients.map(|clients| Clients { crl: lists.then(|| pki.file("crl.pem")), ..clients });
        Tls { clients, ..tls }
    };
    let daemon = Daemon::start_with(Https::load(Some(&tls(false))).unwrap());
    assert_eq!(pki.ask(&daemon, "lost", DRAIN, REASON).0, 200);
    let is_shut_out = |who: &str| {
        let error = on(&mut pki.connect(&daemon, Some(who)), "GET /v1/status", "", "").unwrap_err();
        let closed = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
        assert!(closed || error.to_string().contains("CertificateRevoked"), "{who}: {error}");
    };
    // A list that is late holds all the same; and says when it ought to have been replaced.
    for until_year in [2040, 2025] {
        pki.revoke(&[7], until_year);
        let credentials = Credentials::read(&tls(true)).unwrap();
        let next = credentials.next_revocations().unwrap();
        assert_eq!(next, format!("{until_year}-01-01T00:00:00Z").parse().unwrap());
        daemon.https.install(Some(credentials));
        is_shut_out("lost");
        assert_eq!(pki.ask(&daemon, "kept", DRAIN, REASON).0, 200);
    }
    assert!(refused(&daemon, "handshake") >= 1);
    // A list that cannot be read installs nothing.
    fs::write(pki.file("crl.pem"), "nothing").unwrap();
    let error = Credentials::read(&tls(true)).unwrap_err();
    assert!(error.to_string().contains("client_crl_file") && error.remedy().contains("gencrl"), "{error}");
}

#[test]
fn an_expired_certificate_is_told_by_its_date() {
    let pki = Pki::new();
    pki.issue("server", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let read = Credentials::read(&pki.tls(&[])).unwrap();
    let error = read.check_time(jiff::Timestamp::now()).unwrap_err();
    assert!(
        matches!(error, TlsError::Time { .. }) && error.to_string().contains("expired on 2021-01-01"),
        "{error}"
    );
    let error = read.check_time("2019-06-01T00:00:00Z".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("good from 2020-01-01"), "{error}");
    read.check_time("2020-06-01T00:00:00Z".parse().unwrap()).unwrap();
    // A daemon does not stay away for it.
    assert_eq!(
        Https::load(Some(&pki.tls(&[]))).unwrap().expires(),
        Some("2021-01-01T00:00:00Z".parse().unwrap())
    );
}

fn remote(daemon: &Daemon, pki: &Pki, ca: &Path, who: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = weir();
    command.arg("--server").arg(format!("https://{}", daemon.http)).arg("--ca").arg(ca);
    if let Some(who) = who {
        command
            .arg("--cert")
            .arg(pki.file(&format!("{who}.pem")))
            .arg("--key")
            .arg(pki.file(&format!("{who}.key")));
    }
    command.args(arguments).output().unwrap()
}

#[test]
fn the_command_line_asks_another_host() {
    let (pki, other) = (Pki::new(), Pki::new());
    let daemon = Daemon::start_with(pki.https(&[name("ops@example.net")]));
    let ca = pki.file("ca.pem");
    let run = |who: Option<&str>, arguments: &[&str]| remote(&daemon, &pki, &ca, who, arguments);
    let code = |output: &Output| output.status.code().unwrap();
    let err = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let status = run(Some("reader"), &["status", "-o", "json"]);
    assert_eq!(code(&status), 0, "{status:?}");
    assert_eq!(serde_json::from_slice::<Status>(&status.stdout).unwrap().node.name, "edge-1");
    let drain = ["backend", "drain", "w1r2b1", "--reason", "fans"];
    let denied = run(Some("reader"), &drain);
    assert!(code(&denied) == 6 && err(&denied).contains("reader may read"), "{denied:?}");
    assert_eq!(code(&run(Some("ops"), &drain)), 0);
    // What lasts, and what the daemon knows better than this host.
    let trace = run(Some("ops"), &["trace", "-n", "1", "-o", "json"]);
    assert!(code(&trace) == 0 && String::from_utf8_lossy(&trace.stdout).contains("w1r1b1"), "{trace:?}");
    let doctor = run(Some("reader"), &["doctor", "-o", "json"]);
    assert!(
        code(&doctor) == 11 && String::from_utf8_lossy(&doctor.stdout).contains("kernel.jit"),
        "{doctor:?}"
    );
    let config = run(Some("reader"), &["config", "show"]);
    assert!(
        code(&config) == 0 && String::from_utf8_lossy(&config.stdout).contains("hash_key = \"redacted\""),
        "{config:?}"
    );

    let nobody = run(None, &["status"]);
    assert!(code(&nobody) == 4 && err(&nobody).contains("--cert and --key"), "{nobody:?}");
    let foreign = remote(&daemon, &pki, &other.file("ca.pem"), Some("ops"), &["status"]);
    assert!(code(&foreign) == 4 && err(&foreign).contains("invalid peer certificate"), "{foreign:?}");
    for (arguments, part) in [
        (&["--server", "edge-1", "status"][..], "https://edge-1.example.net:9440"),
        (
            &["--server", "https://edge-1", "--cert", "x", "--ca", "/nonexistent", "status"],
            "--ca /nonexistent",
        ),
    ] {
        let output = weir().args(arguments).output().unwrap();
        assert!(code(&output) == 2 && err(&output).contains(part), "{output:?}");
    }
    let half = weir()
        .args(["--server", "https://edge-1", "--cert", "x", "status", "--ca"])
        .arg(&ca)
        .output()
        .unwrap();
    assert!(code(&half) == 2 && err(&half).contains("belong together"), "{half:?}");
}
