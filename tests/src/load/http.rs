//! As much HTTP/1.1 as it takes to ask a backend for its name over a connection that stays open.
use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: weir.test\r\n\r\n";
const LAST_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: weir.test\r\nConnection: close\r\n\r\n";
/// Longest answer that is read, header and body.
const ANSWER_MAX: usize = 4096;

/// Connects from a chosen address and port of the calling thread's namespace. Closing the connection resets it, so that
/// the port is free again at once.
pub(crate) fn connect(source: SocketAddr, vip: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(vip), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SockAddr::from(source)).with_context(|| format!("cannot bind {source}"))?;
    socket.connect_timeout(&SockAddr::from(vip), timeout).context("cannot connect")?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    Ok(socket.into())
}

/// Sends one request and returns the body of the answer, without the newline at its end.
pub(crate) fn ask(stream: &mut TcpStream) -> Result<String> {
    stream.write_all(REQUEST).context("cannot send")?;
    let mut answer = Vec::with_capacity(256);
    let mut part = [0; ANSWER_MAX];
    loop {
        let count = match stream.read(&mut part) {
            // With a timeout set, the kernel does not go on by itself.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other.context("no answer")?,
        };
        if count == 0 {
            bail!("closed before the answer was complete");
        }
        answer.extend_from_slice(&part[..count]);
        if let Some(body) = complete_body(&answer)? {
            return Ok(body);
        }
        if answer.len() > ANSWER_MAX {
            bail!("the answer is longer than {ANSWER_MAX} bytes");
        }
    }
}

/// Sends one request after which the server is to close, reads until it does, and returns the body of the answer.
pub(crate) fn ask_last(stream: &mut TcpStream) -> Result<String> {
    stream.write_all(LAST_REQUEST).context("cannot send")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX as u64 + 1).read_to_end(&mut answer).context("not read to the end")?;
    complete_body(&answer)?.context("closed before the answer was complete")
}

/// The body, once all of it is there.
fn complete_body(answer: &[u8]) -> Result<Option<String>> {
    let text = str::from_utf8(answer).context("the answer is no text")?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Ok(None);
    };
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200 ") {
        bail!("answered {status}");
    }
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.context("the answer has no Content-Length")?.1.trim().parse()?;
    Ok((body.len() >= length).then(|| body[..length].trim_end().to_owned()))
}

/// A client's address of the family of a VIP, with a port.
pub(crate) fn source(client: &crate::lab::Client, vip: SocketAddr, port: u16) -> SocketAddr {
    let address = if vip.is_ipv4() { IpAddr::V4(client.v4) } else { IpAddr::V6(client.v6) };
    SocketAddr::new(address, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_complete_when_its_length_is_there() {
        let answer = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 7\r\n\r\nw1r1b1\n";
        for cut in 0..answer.len() {
            assert_eq!(complete_body(&answer[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(complete_body(answer).unwrap().as_deref(), Some("w1r1b1"));
    }

    #[test]
    fn other_answers_are_errors() {
        assert!(complete_body(b"HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n").is_err());
        assert!(complete_body(b"HTTP/1.1 200 OK\r\n\r\nabc").is_err());
    }
}
