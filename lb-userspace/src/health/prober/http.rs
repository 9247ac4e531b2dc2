//! One request over HTTP/1.1 and what came back. Every connection is new: a check that reuses one does not see that new
//! ones are refused.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::stream;
use crate::config::{HttpCheck, TlsCheck};
use crate::health::round::Miss;

/// Bytes of an answer's head; a longer one is no answer.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Why TLS cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The file of authorities.
    #[error("cannot read ca_file {}: {problem}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The host trusts nobody.
    #[error("this host has no certificate authorities; install ca-certificates, or name a ca_file")]
    NoAuthorities,
    /// The library refused.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// What all targets of a check share.
pub(super) struct Http {
    check: HttpCheck,
    tls: Option<TlsConnector>,
}

impl Http {
    /// Reads the authorities to trust.
    pub(super) fn new(check: &HttpCheck) -> Result<Self, HttpError> {
        let tls = check.tls.as_ref().map(connector).transpose()?;
        Ok(Self { check: check.clone(), tls })
    }

    /// Asks once.
    pub(super) async fn probe(&self, address: IpAddr) -> Result<(), Miss> {
        if let Some(vip) = self.check.vip {
            let to = SocketAddr::new(vip, self.check.port);
            return stream::through(address, to, |stream| self.talk(stream, to)).await;
        }
        let to = SocketAddr::new(address, self.check.port);
        let stream = TcpStream::connect(to).await.map_err(|error| connect_miss(&error))?;
        // Only the latency of a probe is lost if it cannot be set.
        let _ = stream.set_nodelay(true);
        // An abandoned connection is reset, so that neither side keeps anything.
        let _ = stream.set_zero_linger();
        self.talk(stream, to).await
    }

    async fn talk(&self, stream: impl AsyncRead + AsyncWrite + Unpin, to: SocketAddr) -> Result<(), Miss> {
        match &self.tls {
            None => self.ask(stream, to).await,
            Some(tls) => {
                let name = self.server_name(to.ip()).ok_or(Miss::Tls)?;
                let stream = tls.connect(name, stream).await.map_err(|error| tls_miss(&error))?;
                self.ask(stream, to).await
            }
        }
    }

    /// The name that the certificate must hold.
    fn server_name(&self, address: IpAddr) -> Option<ServerName<'static>> {
        let given = self.check.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let host = || self.check.host.as_deref().map(|host| without_port(host).to_owned());
        match given.or_else(host) {
            Some(name) => ServerName::try_from(name).ok(),
            None => Some(ServerName::from(address)),
        }
    }

    async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Unpin, to: SocketAddr) -> Result<(), Miss> {
        let mut client = http1::Builder::new();
        let (mut sender, connection) = client
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Miss::Broken)?;
        let answer = async {
            let response = sender.send_request(self.request(to)).await.map_err(|_| Miss::Broken)?;
            self.judge(response).await
        };
        tokio::pin!(connection);
        tokio::pin!(answer);
        // The connection is what reads and writes; the answer comes out while it does, or right after it has ended.
        tokio::select! {
            biased;
            judged = &mut answer => judged,
            _ = &mut connection => answer.await,
        }
    }

    fn request(&self, to: SocketAddr) -> Request<Empty<Bytes>> {
        let method = if self.check.head { Method::HEAD } else { Method::GET };
        let host = self.check.host.clone().unwrap_or_else(|| {
            let default_port = if self.tls.is_some() { 443 } else { 80 };
            match (to.ip(), to.port()) {
                (IpAddr::V4(ip), port) if port == default_port => ip.to_string(),
                (IpAddr::V6(ip), port) if port == default_port => format!("[{ip}]"),
                _ => to.to_string(),
            }
        });
        Request::builder()
            .method(method)
            .uri(&self.check.path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, "weir")
            .header(header::CONNECTION, "close")
            .body(Empty::new())
            .expect("path and host were checked with the configuration")
    }

    async fn judge(&self, response: Response<Incoming>) -> Result<(), Miss> {
        let status = response.status().as_u16();
        if !self.check.status.iter().any(|&(first, last)| (first..=last).contains(&status)) {
            return Err(Miss::Status(status));
        }
        let Some(expected) = &self.check.body else { return Ok(()) };
        let (mut body, mut read) = (response.into_body(), Vec::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Miss::Broken)?.into_data() else { continue };
            let room = self.check.body_limit - read.len();
            read.extend_from_slice(&data[..data.len().min(room)]);
            if contains(&read, expected.as_bytes()) {
                return Ok(());
            }
            if read.len() == self.check.body_limit {
                break;
            }
        }
        Err(Miss::Body)
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// `example.com` of `example.com:8080`, `::1` of `[::1]:8080`.
fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn connect_miss(error: &io::Error) -> Miss {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Miss::Refused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Miss::Unreachable,
        io::ErrorKind::TimedOut => Miss::Silent,
        _ => Miss::Unsent,
    }
}

fn tls_miss(error: &io::Error) -> Miss {
    let is_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    if is_tls { Miss::Tls } else { Miss::Broken }
}

fn connector(tls: &TlsCheck) -> Result<TlsConnector, HttpError> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let mut config = if tls.verify {
        builder.with_root_certificates(authorities(tls)?).with_no_client_auth()
    } else {
        let verifier = Arc::new(AnyCertificate(provider));
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Each probe shakes hands in full, so that each verifies the certificate.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn authorities(tls: &TlsCheck) -> Result<RootCertStore, HttpError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = &tls.ca_file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(HttpError::NoAuthorities) } else { Ok(roots) };
    };
    let unreadable = |problem: String| HttpError::CaFile { path: path.clone(), problem };
    let found = CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    if roots.is_empty() { Err(unreadable("it holds no certificate".to_owned())) } else { Ok(roots) }
}

/// For `verify = false`: any certificate will do, as long as the peer has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_header_names_its_host() {
        for (host, name) in [
            ("example.com", "example.com"),
            ("example.com:8080", "example.com"),
            ("[2001:db8::1]:8080", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("192.0.2.1:1", "192.0.2.1"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
