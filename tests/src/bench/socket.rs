//! Requests to a daemon without the command line: a program takes longer to start than what is measured.
use crate::clock::monotonic_ns;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Gets from a daemon.
///
/// # Errors
/// It does not answer, or with an error.
pub(super) fn get(socket: &Path, path: &str) -> Result<Value> {
    request(socket, "GET", path, "").map(|(_, answer)| answer)
}

/// Posts to a daemon; returns when the request was written, and the answer.
///
/// # Errors
/// As [`get`].
pub(super) fn post(socket: &Path, path: &str, body: &Value) -> Result<(u64, Value)> {
    request(socket, "POST", path, &body.to_string())
}

fn request(socket: &Path, method: &str, path: &str, body: &str) -> Result<(u64, Value)> {
    let mut stream = UnixStream::connect(socket).context("the daemon's socket")?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: weir\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let at_ns = monotonic_ns();
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    ensure!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
    Ok((at_ns, serde_json::from_str(body).with_context(|| format!("{method} {path}: {answer}"))?))
}
