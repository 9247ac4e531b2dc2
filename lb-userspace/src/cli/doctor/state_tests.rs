use std::os::unix::{fs::PermissionsExt, net::UnixListener};

use super::super::Severity;
use super::*;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_is_for_root_alone_has_no_bits_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    assert_eq!(mode("secrets.mode", &file, 0o077, "good"), None, "nothing is said of what is not there");
    fs::write(&file, "").unwrap();
    for (bits, severity) in
        [(0o600, Severity::Ok), (0o400, Severity::Ok), (0o640, Severity::Warning), (0o604, Severity::Warning)]
    {
        set_mode(&file, bits);
        let found = mode("secrets.mode", &file, 0o077, "good").unwrap();
        assert_eq!(found.severity, severity, "{found:?}");
        assert_eq!(found.remedy.is_empty(), severity == Severity::Ok);
    }
    assert!(mode("secrets.mode", &file, 0o077, "good").unwrap().remedy.starts_with("chmod 0600 "));
    nix::unistd::chown(&file, Some(65_534.into()), None).unwrap();
    set_mode(&file, 0o600);
    let found = mode("secrets.mode", &file, 0o077, "good").unwrap();
    assert!(found.severity == Severity::Warning && found.seen.contains("65534"), "{found:?}");
}

#[test]
fn a_lock_that_is_held_is_told_from_one_that_is_not() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(lock(dir.path()), None);
    let file = fs::File::create(dir.path().join(LOCK_FILE)).unwrap();
    assert_eq!(lock(dir.path()).unwrap().severity, Severity::Note);
    let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
    assert_eq!(lock(dir.path()).unwrap().severity, Severity::Ok);
    drop(held);
    let free = lock(dir.path()).unwrap();
    assert!(free.severity == Severity::Note && free.remedy.contains("systemctl start"), "{free:?}");
}

#[test]
fn a_socket_is_there_is_one_and_is_not_for_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weir.sock");
    assert_eq!(socket(&path).severity, Severity::Note);
    let listener = UnixListener::bind(&path).unwrap();
    for (bits, severity) in [(0o600, Severity::Ok), (0o660, Severity::Ok), (0o662, Severity::Error)] {
        set_mode(&path, bits);
        assert_eq!(socket(&path).severity, severity, "{bits:o}");
    }
    drop(listener);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    let found = socket(&path);
    assert!(found.severity == Severity::Error && found.seen == "is no socket", "{found:?}");
}

#[test]
fn pins_of_other_versions_and_of_a_switch_cut_short_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join(format!("v{ABI_VERSION}"));
    let severities = || pins(dir.path()).iter().map(|found| found.severity).collect::<Vec<_>>();
    assert_eq!(severities(), [Severity::Ok]);
    fs::create_dir_all(own.join("current")).unwrap();
    assert_eq!(severities(), [Severity::Ok]);
    fs::create_dir(own.join("next")).unwrap();
    assert_eq!(severities(), [Severity::Note]);
    fs::create_dir(own.join("old")).unwrap();
    assert_eq!(severities(), [Severity::Note; 2]);
    fs::create_dir(dir.path().join("v1")).unwrap();
    assert_eq!(severities().iter().max(), Some(&Severity::Warning));
}

#[test]
fn a_key_is_looked_for_where_the_configuration_says() {
    let dir = tempfile::tempdir().unwrap();
    let (config, key) = (dir.path().join("weir.toml"), dir.path().join("key"));
    let path = |path: &Path| path.display().to_string();
    let hex = "00112233445566778899aabbccddeeff".repeat(2);
    let write = |line: &str| {
        let text = format!(
            "[node]\nname = \"e\"\nregion = \"r\"\ninterfaces = [\"eth0\"]\ntunnel_source_v4 = \"10.255.0.0/16\"\n{line}\n\
             [topology.r]\nz = [\"k\"]\n[[set]]\nname = \"s\"\ndomain = \"r/z/k\"\nchecks = []\n[[set.backend]]\nname = \"b\"\n\
             rack = \"r/z/k\"\naddress = \"10.1.0.1\"\n[[service]]\nname = \"web\"\naddress = \"192.0.2.10\"\nport = 80\n\
             protocol = \"tcp\"\n[[service.pool]]\nname = \"p\"\nsets = [\"s\"]\n"
        );
        fs::write(&config, text).unwrap();
        effective::effective(&config).unwrap_or_else(|error| panic!("{error}"));
    };
    let found = || secrets(&config).into_iter().map(|f| (f.subject, f.severity)).collect::<Vec<_>>();
    fs::write(&key, &hex).unwrap();
    // One that others can read is refused by the configuration itself.
    set_mode(&key, 0o600);
    write(&format!("hash_key_file = \"{}\"", path(&key)));
    set_mode(&config, 0o644);
    assert_eq!(found(), [(path(&key), Severity::Ok)], "the configuration itself holds no secret then");
    write(&format!("hash_key = \"{hex}\""));
    assert_eq!(found(), [(path(&config), Severity::Warning)]);
}
