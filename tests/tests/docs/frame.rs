//! Parts of a configuration, laid over a whole one.
use crate::markdown::{Block, root};
use lb_userspace::config::Config;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};
use toml::{Table, Value};

/// What a part is laid over if it does not say.
pub(crate) const USUAL: &str = "two-regions.toml";

/// Names of all examples, sorted.
pub(crate) fn examples() -> Vec<String> {
    let entries = fs::read_dir(root().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.filter(|name| name.ends_with(".toml")).collect();
    names.sort();
    names
}

/// An example as a tree.
pub(crate) fn load(name: &str) -> Result<Table, String> {
    let text = fs::read_to_string(root().join("examples").join(name))
        .map_err(|error| format!("examples/{name}: {error}"))?;
    judge(&text)?;
    text.parse().map_err(|error| format!("{error}"))
}

/// Whether a block is a configuration, or part of one.
pub(crate) fn check(block: &Block) -> Result<(), String> {
    let part: Table = block.text.parse().map_err(|error| format!("{error}"))?;
    if part.contains_key("node") && part.contains_key("service") && block.mark("frame").is_none() {
        return judge(&block.text);
    }
    let mut whole = load(block.mark("frame").unwrap_or(USUAL))?;
    overlay(&mut whole, part);
    let text = toml::to_string(&whole).map_err(|error| format!("{error}"))?;
    judge(&text)
}

/// What the resolver says, with files of `/etc/weir` that are there.
fn judge(text: &str) -> Result<(), String> {
    let text = text.replace("/etc/weir", etc().to_str().unwrap());
    Config::parse(&text, "block").map(drop).map_err(|error| error.to_string())
}

/// Stands for `/etc/weir`.
pub(crate) fn etc() -> &'static Path {
    static ETC: OnceLock<PathBuf> = OnceLock::new();
    ETC.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("docs-etc");
        fs::create_dir_all(&folder).unwrap();
        fs::write(
            folder.join("hash.key"),
            "5f1d3c0e8a7b49262f6e1c5d0b9a8374e6d5c4b3a29180706f5e4d3c2b1a0918\n",
        )
        .unwrap();
        tls(&folder.join("tls"));
        fs::write(folder.join("deny.txt"), "203.0.113.0/24\n").unwrap();
        fs::write(folder.join("clients.csv"), "203.0.113.0/24,east\n").unwrap();
        folder
    })
}

/// An authority with its revocation list, certificates of `edge-1` and of an operator, and their keys.
fn tls(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertifiedIssuer::self_signed(authority, authority_key).unwrap();
    let lists = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(2040, 1, 1),
        crl_number: rcgen::SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let lists = lists.signed_by(&authority).unwrap();
    let issue = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, "network");
        (params.signed_by(&key, &authority).unwrap().pem(), key.serialize_pem())
    };
    let (server, operator) =
        (issue(&["edge-1", "edge-1.example.net", "127.0.0.1"]), issue(&["ops.example.net"]));
    for (name, text) in [
        ("clients.crl", lists.pem().unwrap()),
        ("clients.pem", authority.pem()),
        ("ca.pem", authority.pem()),
        ("edge-1.pem", server.0),
        ("edge-1.key", server.1),
        ("ops.pem", operator.0),
        ("ops.key", operator.1),
    ] {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Lays a part over a whole. Of tables that may repeat, one with the name of another is laid over that, one without a name over the
/// first, and any other is added.
pub(crate) fn overlay(whole: &mut Table, part: Table) {
    for (key, value) in part {
        match (whole.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(part)) => overlay(below, part),
            (Some(Value::Array(all)), Value::Table(part)) => over_one(all, part),
            (Some(Value::Array(all)), Value::Array(parts)) if parts.iter().all(Value::is_table) => {
                for part in parts {
                    if let Value::Table(part) = part {
                        over_one(all, part);
                    }
                }
            }
            (_, value) => drop(whole.insert(key, value)),
        }
    }
}

fn over_one(all: &mut Vec<Value>, part: Table) {
    let found = match part.get("name") {
        None => all.first_mut(),
        Some(name) => all.iter_mut().find(|one| one.get("name") == Some(name)),
    };
    match found {
        Some(Value::Table(one)) => overlay(one, part),
        _ => all.push(Value::Table(part)),
    }
}

#[test]
fn parts_find_their_place() {
    let mut whole: Table = "a = 1\n[[s]]\nname = \"x\"\nb = 1\n[[s]]\nname = \"y\"\nb = 2\n".parse().unwrap();
    overlay(&mut whole, "[[s]]\nname = \"y\"\nb = 3\n[[s]]\nc = 4\n[[s]]\nname = \"z\"\n".parse().unwrap());
    overlay(&mut whole, "[s.plan]\nd = 5\n".parse().unwrap());
    let s = whole["s"].as_array().unwrap();
    assert_eq!((s.len(), s[1]["b"].as_integer(), s[0]["c"].as_integer()), (3, Some(3), Some(4)));
    assert_eq!(s[0]["plan"]["d"].as_integer(), Some(5));
}
