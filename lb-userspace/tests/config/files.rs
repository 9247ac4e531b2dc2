//! Files that cannot be read.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use lb_userspace::config::Config;
use lb_userspace::config::limits::MAX_CONFIG_BYTES;

use crate::base::{BASE, with};

/// A folder of its own for one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-config-{}-{test}", std::process::id()));
        fs::create_dir_all(&path).expect("the temporary folder can be written");
        Self(path)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).expect("the temporary folder can be written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Only tidiness is lost if this fails.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn refused(path: &Path, expected: &str) {
    let shown = Config::load(path).expect_err("this should have been refused").to_string();
    let shown = shown.replace(&path.display().to_string(), "FILE");
    assert_eq!(shown, expected.trim_start_matches('\n'));
}

#[test]
fn an_absent_file() {
    refused(
        Path::new("/nonexistent/weir.toml"),
        "
error: cannot read the configuration: No such file or directory (os error 2)
 --> FILE
 = help: name another file with --config, or create this one; examples/ has some to begin with",
    );
}

#[test]
fn a_directory_and_a_device() {
    let folder = Folder::new("directory");
    refused(
        &folder.0,
        "
error: the configuration is a folder without any *.toml
 --> FILE
 = help: put files into it, or name a file such as weir.toml",
    );
    refused(
        Path::new("/dev/zero"),
        "
error: the configuration is no regular file
 --> FILE
 = help: name a file with --config",
    );
}

#[test]
fn a_file_that_is_not_utf8() {
    let folder = Folder::new("latin1");
    let file = folder.file("weir.toml", b"[node]\nname = \"\xfcber\"\n");
    refused(
        &file,
        "
error: the configuration is not UTF-8: byte 0xfc on line 2 (offset 15)
 --> FILE
 = help: save it as UTF-8, for example with `iconv -f latin1 -t utf-8`",
    );
}

#[test]
fn a_file_that_is_too_large() {
    let folder = Folder::new("large");
    let file = folder.file("weir.toml", &vec![b'#'; MAX_CONFIG_BYTES as usize + 1]);
    refused(
        &file,
        "
error: the configuration is larger than 16 MiB
 --> FILE
 = help: MAX_CONFIG_BYTES is the limit; share services out to other edge hosts",
    );
}

const INLINE_KEY: &str = "hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"";
const DIGITS: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF\n";

fn with_key_file(path: &Path) -> String {
    with(&[(INLINE_KEY, &format!("hash_key_file = \"{}\"", path.display()))])
}

/// What the configuration with this key file is refused for, without the place.
fn key_problem(path: &Path) -> (String, String) {
    let error = Config::parse(&with_key_file(path), "weir.toml").expect_err("this should have been refused");
    assert_eq!(error.problems.len(), 1, "{error}");
    let problem = &error.problems[0];
    let tidy = |text: &str| text.replace(&path.display().to_string(), "KEY");
    assert_eq!(problem.place.as_ref().map(|place| (place.line, place.column)), Some((5, 17)));
    (tidy(&problem.message), tidy(problem.remedy.as_deref().unwrap_or_default()))
}

#[test]
fn a_key_file_is_read_if_only_its_owner_can() {
    let folder = Folder::new("key");
    let file = folder.file("hash.key", DIGITS.as_bytes());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    let from_file = Config::parse(&with_key_file(&file), "weir.toml").expect("the key file is fine");
    let inline = Config::parse(BASE, "weir.toml").expect("the base is valid");
    assert_eq!(from_file.node.hash_key, inline.node.hash_key);
    assert_eq!(format!("{:?}", inline.node.hash_key), "HashKey(redacted)");

    for mode in [0o640, 0o604, 0o620] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("the file is ours");
        let (message, remedy) = key_problem(&file);
        assert_eq!(
            message,
            format!("hash_key_file \"KEY\" can be read or changed by others (mode 0{mode:o})")
        );
        assert_eq!(remedy, "run `chmod 600 KEY`; if others have read it, choose a new key for the fleet");
    }
}

#[test]
fn a_key_file_that_holds_no_key() {
    let folder = Folder::new("bad-key");
    let cases: [(&[u8], &str); 4] = [
        (b"0011", "has 4 hexadecimal digits instead of 64"),
        (b"secret", "has a character at position 1 that is no hexadecimal digit"),
        (b"\xff\xfe", "does not hold a key"),
        (&[b'0'; 4096], "does not hold a key"),
    ];
    for (content, problem) in cases {
        let file = folder.file("hash.key", content);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        let (message, remedy) = key_problem(&file);
        assert_eq!(message, format!("hash_key_file \"KEY\" {problem}"));
        assert_eq!(remedy, "it is 64 hexadecimal digits (32 bytes); `openssl rand -hex 32` makes one");
    }
}

#[test]
fn a_key_file_that_is_absent_or_no_file() {
    let folder = Folder::new("no-key");
    let (message, remedy) = key_problem(&folder.0.join("hash.key"));
    assert_eq!(message, "hash_key_file \"KEY\" cannot be read: No such file or directory (os error 2)");
    assert_eq!(remedy, "create it with `(umask 077; openssl rand -hex 32 > KEY)`, once for the fleet");

    let link = folder.0.join("link");
    symlink("/dev/zero", &link).expect("the temporary folder can be written");
    let (message, remedy) = key_problem(&link);
    assert_eq!(message, "hash_key_file \"KEY\" is no regular file");
    assert_eq!(remedy, "name a file that holds the key");
}
