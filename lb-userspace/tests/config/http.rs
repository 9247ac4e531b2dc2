//! What is served over TCP.

use lb_userspace::config::Operator;

use crate::base::{BASE, accepted, errors, refused};

#[test]
fn nothing_is_served_over_tcp_unless_the_file_says_so() {
    assert_eq!(accepted(BASE).http.listen, None);
    assert_eq!(accepted(&format!("{BASE}[http]\n")).http.listen, None);
    for address in ["127.0.0.1:9440", "[::1]:9440", "0.0.0.0:1"] {
        let config = accepted(&format!("{BASE}[http]\nlisten = \"{address}\"\n"));
        assert_eq!(config.http.listen, Some(address.parse().unwrap()));
    }
}

#[test]
fn addresses_that_cannot_be_are_refused_with_an_example() {
    refused(
        &format!("{BASE}[http]\nlisten = \"localhost:9440\"\nport = 1\n"),
        r#"
error: listen "localhost:9440" of [http] is no address with a port
  --> weir.toml:51:10
   |
51 | listen = "localhost:9440"
   |          ^^^^^^^^^^^^^^^^
   = help: write an address and a port, such as "127.0.0.1:9440" or "[2001:db8::5]:9440"

error: unknown key "port" in [http]
  --> weir.toml:52:1
   |
52 | port = 1
   | ^^^^
   = help: known keys: "listen", "certificate_file", "key_file", "client_ca_file", "client_crl_file", "operators""#,
    );
    for (address, problem) in [("127.0.0.1:0", "has port 0"), ("224.0.0.1:80", "is a multicast address")] {
        refused(
            &format!("{BASE}[http]\nlisten = \"{address}\"\n"),
            &format!(
                r#"
error: listen "{address}" of [http] {problem}
  --> weir.toml:51:10
   |
51 | listen = "{address}"
   |          {}
   = help: write an address and a port, such as "127.0.0.1:9440" or "[2001:db8::5]:9440""#,
                "^".repeat(address.len() + 2)
            ),
        );
    }
}

/// An authority's and a server's files in a folder, and `[http]` that names them.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        use rcgen::{
            BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa,
            KeyIdMethod, KeyPair, SerialNumber, date_time_ymd,
        };
        let files = Self(tempfile::tempdir().unwrap());
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let params = CertificateParams::new(vec!["edge-1".to_owned()]).unwrap();
        let server = params.signed_by(&key, &authority).unwrap();
        let revocations = |authority: &CertifiedIssuer<'_, KeyPair>| {
            let params = CertificateRevocationListParams {
                this_update: date_time_ymd(2024, 1, 1),
                next_update: date_time_ymd(2040, 1, 1),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: Vec::new(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            params.signed_by(authority).unwrap().pem().unwrap()
        };
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "another");
        let another = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let (crl, foreign) = (revocations(&authority), revocations(&another));
        for (name, text, mode) in [
            ("crl.pem", crl.clone(), 0o644),
            ("foreign.crl", foreign, 0o644),
            ("broken.crl", crl.replace("MII", "AII").replace("MIH", "AIH"), 0o644),
            ("ca.pem", authority.pem(), 0o644),
            ("server.pem", server.pem(), 0o644),
            ("server.key", key.serialize_pem(), 0o600),
            ("other.key", other.serialize_pem(), 0o600),
            ("open.key", key.serialize_pem(), 0o640),
            ("loose.pem", server.pem(), 0o666),
            ("empty.pem", "nothing\n".to_owned(), 0o600),
            ("broken.pem", server.pem().replace("MII", "AII"), 0o644),
            ("locked.key", key.serialize_pem().replace("PRIVATE", "ENCRYPTED PRIVATE"), 0o600),
            ("large.pem", server.pem() + &"#".repeat(1 << 20), 0o644),
        ] {
            let path = files.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        }
        files
    }

    /// Lines `key = "value"`, in which a value that begins with `@` is a file of the folder.
    fn config(&self, keys: &[(&str, &str)]) -> String {
        let lines = keys.iter().map(|(key, value)| match value.strip_prefix('@') {
            Some(file) => format!("{key} = \"{}\"\n", self.0.path().join(file).display()),
            None => format!("{key} = {value}\n"),
        });
        format!("{BASE}[http]\n{}", lines.collect::<String>())
    }
}

const LISTEN: (&str, &str) = ("listen", "\"127.0.0.1:9440\"");
const SERVER: [(&str, &str); 3] = [LISTEN, ("certificate_file", "@server.pem"), ("key_file", "@server.key")];

#[test]
fn certificates_and_operators_are_read() {
    let files = Files::new();
    let tls = accepted(&files.config(&SERVER)).http.tls.unwrap();
    assert!(tls.clients.is_none() && tls.key.ends_with("server.key"));
    let operators = r#"["ops@example.net", "OU=net work"]"#;
    let all = [&SERVER[..], &[("client_ca_file", "@ca.pem"), ("operators", operators)]].concat();
    let clients = accepted(&files.config(&all)).http.tls.unwrap().clients.unwrap();
    let expected = [Operator::Name("ops@example.net".to_owned()), Operator::Unit("net work".to_owned())];
    assert_eq!(clients.operators, expected);
    assert_eq!(clients.crl, None);
    let revoked = [&SERVER[..], &[("client_ca_file", "@ca.pem"), ("client_crl_file", "@crl.pem")]].concat();
    let clients = accepted(&files.config(&revoked)).http.tls.unwrap().clients.unwrap();
    assert!(clients.crl.unwrap().ends_with("crl.pem"));
    let without = [&SERVER[..], &[("client_ca_file", "@ca.pem")]].concat();
    assert!(accepted(&files.config(&without)).http.tls.unwrap().clients.unwrap().operators.is_empty());
}

#[test]
fn what_does_not_fit_together_is_refused_at_its_place() {
    let files = Files::new();
    let with = |changes: &[(&'static str, &'static str)]| {
        let kept = SERVER.iter().filter(|(key, _)| !changes.iter().any(|(other, _)| other == key));
        let set = changes.iter().filter(|(_, value)| !value.is_empty());
        files.config(&kept.chain(set).copied().collect::<Vec<_>>())
    };
    let ca = ("client_ca_file", "@ca.pem");
    let long = format!("[\"{}\"]", "a".repeat(257));
    let many = format!("[{}]", (0..65).map(|n| format!("\"o{n}\"")).collect::<Vec<_>>().join(", "));
    let (long, many): (&'static str, &'static str) = (long.leak(), many.leak());
    for (changes, message, remedy) in [
        (&[("key_file", "")][..], "has \"certificate_file\" and no \"key_file\"", "add key_file"),
        (&[("certificate_file", "")], "has \"key_file\" and no \"certificate_file\"", "add certificate_file"),
        (&[("listen", "")], "has \"certificate_file\" and no \"listen\"", "add listen"),
        (&[("operators", "[\"ops\"]")], "has \"operators\" and no \"client_ca_file\"", "add client_ca_file"),
        (&[("certificate_file", ""), ("key_file", ""), ca], "has \"client_ca_file\" and no", "over TLS only"),
        (&[("key_file", "@other.key")], "is not the key of the certificate in", "requested"),
        (&[("key_file", "@open.key")], "can be read or changed by others (mode 0640)", "chmod 600"),
        (&[("key_file", "@locked.key")], "holds an encrypted key", "not encrypted"),
        (&[("key_file", "@server.pem")], "can be read or changed by others (mode 0644)", "chmod 600"),
        (&[("key_file", "@empty.pem")], "holds no private key", "PEM"),
        (&[("key_file", "@none.key")], "cannot be read: No such file", "daemon runs as root"),
        (&[("key_file", "@")], "is no regular file", "PEM"),
        (&[("key_file", "\"server.key\"")], "is no absolute path", "begin it with"),
        (&[("certificate_file", "@server.key")], "holds no certificate", "certificate first"),
        (&[("certificate_file", "@loose.pem")], "can be changed by others (mode 0666)", "chmod 644"),
        (&[("certificate_file", "@broken.pem")], "no X.509 certificate", "certificate first"),
        (&[("certificate_file", "@large.pem")], "MAX_TLS_FILE_BYTES", "what is needed"),
        (&[("client_ca_file", "@server.pem")], "that is no authority's", "authorities whose clients"),
        (
            &[("client_crl_file", "@crl.pem")],
            "has \"client_crl_file\" and no \"client_ca_file\"",
            "add client_ca",
        ),
        (&[ca, ("client_crl_file", "@ca.pem")], "holds no revocation list", "gencrl"),
        (&[ca, ("client_crl_file", "@none.crl")], "cannot be read: No such file", "daemon runs as root"),
        (&[ca, ("client_crl_file", "@broken.crl")], "no revocation list", "gencrl"),
        (
            &[ca, ("client_crl_file", "@foreign.crl")],
            "holds no list of ",
            "all authorities of client_ca_file",
        ),
        (&[ca, ("operators", "[\"\"]")], "operator \"\" of [http] is empty", "OU=network"),
        (&[ca, ("operators", "[\"OU= \"]")], "is empty", "OU=network"),
        (&[ca, ("operators", "[\"*.example.net\"]")], "stands for one name only", "OU=network"),
        (&[ca, ("operators", "[\" ops\"]")], "white space", "OU=network"),
        (&[ca, ("operators", long)], "MAX_OPERATOR_CHARS", "OU=network"),
        (&[ca, ("operators", many)], "has 65 operators; MAX_OPERATORS is 64", "organisational unit"),
        (&[ca, ("operators", "\"ops\"")], "must be a list of strings", "[\"ops\"]"),
    ] {
        let text = with(changes);
        let shown = errors(&text).to_string();
        assert!(shown.contains(message) && shown.contains(remedy), "{changes:?}:\n{shown}");
        assert!(shown.contains("--> weir.toml:5"), "{shown}");
    }
}
