//! The API over TCP: certificates that decide and rotate, on a running daemon; and schemathesis, which tries the daemon by its own
//! document.
use anyhow::{Context, Result, ensure};
use lb_tests::{
    e2e,
    lab::{ConfigOptions, Daemon, Lab},
};
use lb_userspace::{api::types::LogView, plan::state::State, telemetry::event::Event};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, IsCa, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output},
};

const PORT: u16 = 9440;
/// Number of the certificate that is lost in the end.
const LOST: u64 = 4711;
/// Examples that schemathesis tries for each operation and phase.
const EXAMPLES: &str = "8";
/// The same examples each time.
const SEED: &str = "7";
/// Answers without end: of these only refusals are tried, which have one.
const ENDLESS: &str = "^/v1/(watch|events/stream)$";

/// An authority that signs for the test; its files lie in the lab's folder.
struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(lab: &Lab) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "lab");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = lab.directory().join("tls");
        fs::create_dir_all(&folder).unwrap();
        let authority = Self { folder, issuer };
        fs::write(authority.file("ca.pem"), authority.issuer.pem()).unwrap();
        authority.issue("server", |_| {});
        authority.issue("ops", |params| {
            params.serial_number = Some(SerialNumber::from(LOST));
            params.distinguished_name.push(DnType::CommonName, "ops");
        });
        authority.issue("reader", |params| params.distinguished_name.push(DnType::CommonName, "reader"));
        authority
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// Makes `NAME.pem` and `NAME.key`.
    fn issue(&self, name: &str, shape: impl FnOnce(&mut CertificateParams)) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
        shape(&mut params);
        let key = KeyPair::generate().unwrap();
        let path = self.file(&format!("{name}.key"));
        fs::write(&path, key.serialize_pem()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.file(&format!("{name}.pem")), certificate.pem()).unwrap();
    }

    /// Writes `crl.pem`, in which one certificate stands, and which was to be replaced long ago.
    fn revoke(&self, number: u64) {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(number),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2024, 2, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        fs::write(self.file("crl.pem"), params.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
    }

    /// The table of the configuration.
    fn table(&self, operators: &str) -> String {
        format!(
            "[http]\nlisten = \"127.0.0.1:{PORT}\"\ncertificate_file = \"{}\"\nkey_file = \"{}\"\nclient_ca_file = \"{}\"\n\
             operators = [{operators}]\n",
            self.path("server.pem"),
            self.path("server.key"),
            self.path("ca.pem")
        )
    }

    /// Runs `weir` on the edge as somebody, over TCP.
    fn weir(&self, lab: &Lab, who: &str, args: &[&str]) -> Output {
        let server = format!("https://127.0.0.1:{PORT}");
        let (ca, cert, key) =
            (self.path("ca.pem"), self.path(&format!("{who}.pem")), self.path(&format!("{who}.key")));
        let remote = ["--server", &server, "--ca", &ca, "--cert", &cert, "--key", &key];
        lab.weir(&[&remote, args].concat()).unwrap()
    }
}

fn start<'lab>(lab: &'lab Lab, extra: String) -> Daemon<'lab> {
    e2e::start(lab, &ConfigOptions { extra, ..e2e::calm() })
}

fn metric(lab: &Lab, authority: &Authority, name: &str) -> Result<f64> {
    let args = ["--silent", "--noproxy", "*", "--max-time", "10", "--cacert", &authority.path("ca.pem")]
        .map(str::to_owned)
        .into_iter()
        .chain(
            ["--cert", &authority.path("reader.pem"), "--key", &authority.path("reader.key")]
                .map(str::to_owned),
        );
    let mut command = Command::new("curl");
    command.args(args).arg(format!("https://127.0.0.1:{PORT}/metrics"));
    let output = lab.edge_netns(0)?.run(move || Ok(command.output()?))?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {name} in {text}"))?.parse()?)
}

#[test]
fn operators_act_over_tls_readers_read_and_certificates_rotate() {
    let lab = e2e::raise_rack(2);
    let authority = Authority::new(&lab);
    let daemon = start(&lab, authority.table("\"ops\""));
    let code = |output: &Output| output.status.code();
    let err = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let backend = lab.topology().backend_names()[0].clone();
    let drain = ["backend", "drain", &backend, "--reason", "fans"];

    assert_eq!(code(&authority.weir(&lab, "reader", &["status"])), Some(0));
    let denied = authority.weir(&lab, "reader", &drain);
    assert!(code(&denied) == Some(6) && err(&denied).contains("reader may read"), "{denied:?}");
    assert_eq!(e2e::state(&daemon, "backend", &backend), State::Up);
    let drained = authority.weir(&lab, "ops", &drain);
    assert_eq!(code(&drained), Some(0), "{drained:?}");
    assert_eq!(e2e::state(&daemon, "backend", &backend), State::Draining);
    let events: Vec<Event> = e2e::ask(&daemon, &["events"]);
    assert!(events.iter().any(|event| event.cause.contains("fans (by ops)")), "{events:#?}");

    // Renewed under the same names: a reload that changes nothing else takes it.
    authority.issue("server", |params| params.not_after = date_time_ymd(2040, 1, 1));
    let expiry = "weir_api_certificate_expiry_seconds";
    let before = metric(&lab, &authority, expiry).unwrap();
    assert_eq!(code(&authority.weir(&lab, "ops", &["reload"])), Some(0));
    assert_eq!(metric(&lab, &authority, expiry).unwrap(), 2_208_988_800.0);
    assert_ne!(before, 2_208_988_800.0);

    // One that nobody would accept changes nothing.
    authority.issue("server", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let refused = authority.weir(&lab, "ops", &["reload"]);
    assert!(code(&refused) == Some(3) && err(&refused).contains("expired on 2021-01-01"), "{refused:?}");
    assert_eq!(metric(&lab, &authority, expiry).unwrap(), 2_208_988_800.0);
    let doctor = daemon.cli(&["doctor", "-o", "json"]).unwrap();
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("expired on 2021-01-01"), "{doctor:?}");

    // Neither does a key that is not its own, and the file says where.
    authority.issue("server", |_| {});
    fs::copy(authority.file("ops.key"), authority.file("server.key")).unwrap();
    let refused = authority.weir(&lab, "ops", &["reload"]);
    assert!(
        code(&refused) == Some(3) && err(&refused).contains("is not the key of the certificate"),
        "{refused:?}"
    );

    // Who may operate is a matter of the file, too.
    authority.issue("server", |_| {});
    let options = ConfigOptions { extra: authority.table("\"reader\""), ..e2e::calm() };
    lab.write_config(&options).unwrap();
    assert_eq!(code(&authority.weir(&lab, "ops", &["reload"])), Some(0));
    let restore = ["backend", "restore", &backend, "--reason", "done"];
    assert_eq!(code(&authority.weir(&lab, "ops", &restore)), Some(6));
    assert_eq!(code(&authority.weir(&lab, "reader", &restore)), Some(0));
    assert_eq!(e2e::state(&daemon, "backend", &backend), State::Up);

    // A certificate is lost: a reload shuts it out, and nobody else.
    authority.revoke(LOST);
    let lists = format!("client_crl_file = \"{}\"\n", authority.path("crl.pem"));
    let options = ConfigOptions { extra: authority.table("\"reader\"") + &lists, ..e2e::calm() };
    lab.write_config(&options).unwrap();
    assert_eq!(code(&authority.weir(&lab, "ops", &["reload"])), Some(6), "it is a reader by now");
    assert_eq!(code(&authority.weir(&lab, "reader", &["reload"])), Some(0));
    let lost = authority.weir(&lab, "ops", &["status"]);
    assert_eq!(code(&lost), Some(4), "{lost:?}");
    assert_eq!(code(&authority.weir(&lab, "reader", &["status"])), Some(0));
    let doctor = daemon.cli(&["doctor", "-o", "json"]).unwrap();
    assert!(
        String::from_utf8_lossy(&doctor.stdout).contains("was to be replaced by 2024-02-01"),
        "{doctor:?}"
    );

    // The log, for a while.
    let set = authority.weir(&lab, "reader", &["log", "level", "debug", "--for", "1h", "-o", "json"]);
    let view: LogView = serde_json::from_slice(&set.stdout).unwrap_or_else(|_| panic!("{set:?}"));
    assert!(view.filter == "debug" && view.left_s.is_some_and(|left| left > 3_500), "{view:?}");
    let logged = |text: &str| fs::read_to_string(daemon.log()).unwrap().contains(text);
    assert!(logged("ordered over TCP") && !logged("DEBUG a connection of the API ended early"));
    UnixStream::connect(daemon.socket()).unwrap().write_all(b"this is no request\r\n\r\n").unwrap();
    e2e::eventually("what is no request is told at debug", || {
        ensure!(logged("DEBUG a connection of the API ended early"), "{}", daemon.log_tail());
        Ok(())
    });
    let reset: LogView = e2e::ask(&daemon, &["log", "level", "--reset"]);
    assert_eq!((reset.filter, reset.left_s), (reset.base, None));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Operations of the document that are to be tried, at least.
const FEWEST_OPERATIONS: usize = 45;

#[test]
fn schemathesis_finds_nothing_that_the_document_does_not_say() {
    let program = root().join("target/tools/schemathesis/bin/schemathesis");
    assert!(program.exists(), "no {}: run `cargo xtask setup`", program.display());
    let lab = e2e::raise_rack(2);
    let authority = Authority::new(&lab);
    let daemon = start(&lab, authority.table("\"ops\""));
    let all = schemathesis(&lab, &authority, &program, &["--exclude-path-regex", ENDLESS]);
    // It did ask, and the daemon is as well as before.
    assert!(all >= FEWEST_OPERATIONS, "{all} operations");
    let refused = ["--include-path-regex", ENDLESS, "--mode", "negative"];
    assert_eq!(schemathesis(&lab, &authority, &program, &refused), 2);
    daemon.wait_ready(e2e::DEADLINE).unwrap();
    e2e::status(&daemon);
}

/// Tries what these arguments choose; how many operations that were.
fn schemathesis(lab: &Lab, authority: &Authority, program: &Path, chosen: &[&str]) -> usize {
    let mut command = Command::new(program);
    command.args(["--config-file", root().join("tests/schemathesis.toml").to_str().unwrap()]);
    command.arg("run").arg(root().join("docs/openapi.json")).current_dir(lab.directory());
    command.args(["--url", &format!("https://127.0.0.1:{PORT}"), "--tls-verify", &authority.path("ca.pem")]);
    command.args([
        "--request-cert",
        &authority.path("ops.pem"),
        "--request-cert-key",
        &authority.path("ops.key"),
    ]);
    command.args(chosen).args(["--max-examples", EXAMPLES, "--seed", SEED, "--no-color"]);
    command.args(["--rate-limit", "45/s", "--generation-deterministic", "--request-timeout", "15"]);
    command.env_remove("HTTPS_PROXY").env_remove("https_proxy").env("NO_PROXY", "*");
    let output = lab.edge_netns(0).unwrap().run(move || Ok(command.output()?)).unwrap();
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    let tested =
        told.split_once("Tested: ").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    tested.unwrap_or_else(|| panic!("{told}"))
}
