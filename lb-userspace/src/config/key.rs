//! The hash key: 32 bytes in hexadecimal, in the configuration or in a file of its own.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::limits::MAX_KEY_FILE_BYTES;
use super::model::HashKey;

/// What a key looks like and where it comes from.
pub(super) const REMEDY: &str = "it is 64 hexadecimal digits (32 bytes); `openssl rand -hex 32` makes one";

/// Why a key file cannot be used.
pub(super) struct KeyFileError {
    /// Goes on after the file's name.
    pub(super) message: String,
    pub(super) remedy: String,
}

impl KeyFileError {
    fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into() }
    }
}

/// Reads 64 hexadecimal digits. The error goes on after the name of what was read, and does not repeat the secret.
pub(super) fn parse(text: &str) -> Result<HashKey, String> {
    if let Some(at) = text.chars().position(|c| !c.is_ascii_hexdigit()) {
        return Err(format!("has a character at position {} that is no hexadecimal digit", at + 1));
    }
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return Err(format!("has {} hexadecimal digits instead of 64", text.len()));
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let nibble = |digit: u8| char::from(digit).to_digit(16).unwrap_or_default() as u8;
        *byte = nibble(digits[0]) << 4 | nibble(digits[1]);
    }
    Ok(HashKey::new(bytes))
}

/// Reads a key file: the digits, white space around them, nothing else; readable by its owner only.
pub(super) fn read(path: &Path) -> Result<HashKey, KeyFileError> {
    let unreadable = |error: std::io::Error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => {
                format!(
                    "create it with `(umask 077; openssl rand -hex 32 > {})`, once for the fleet",
                    path.display()
                )
            }
            _ => "the file must be readable by the user who runs this (the daemon runs as root)".to_owned(),
        };
        KeyFileError::new(format!("cannot be read: {error}"), remedy)
    };
    // Opening something else than a file, such as a FIFO, could block for ever.
    let is_file = std::fs::metadata(path).map_err(unreadable)?.is_file();
    if !is_file {
        return Err(KeyFileError::new("is no regular file", "name a file that holds the key"));
    }
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::new(
            format!("can be read or changed by others (mode {mode:04o})"),
            format!(
                "run `chmod 600 {}`; if others have read it, choose a new key for the fleet",
                path.display()
            ),
        ));
    }
    let mut text = String::new();
    let too_long = || KeyFileError::new("does not hold a key", REMEDY);
    let length = file.take(MAX_KEY_FILE_BYTES + 1).read_to_string(&mut text).map_err(|_| too_long())?;
    if length as u64 > MAX_KEY_FILE_BYTES {
        return Err(too_long());
    }
    parse(text.trim()).map_err(|problem| KeyFileError::new(problem, REMEDY))
}
