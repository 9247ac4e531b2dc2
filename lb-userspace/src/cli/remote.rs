//! The daemon of another host: `weir --server https://edge-1:9440 --cert me.pem --key me.key --ca ca.pem status`.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use clap::Args;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio_rustls::TlsConnector;

use super::client::Client;

/// Port that an address without one means.
const DEFAULT_PORT: u16 = 9440;

/// Options that name a daemon over TCP.
#[derive(Clone, PartialEq, Eq, Debug, Default, Args)]
pub struct Remote {
    /// A daemon over TCP instead of the socket: https://HOST[:PORT], or http:// where it is not encrypted
    #[arg(long, global = true, env = "WEIR_SERVER", value_name = "URL", help_heading = "Another host")]
    pub server: Option<ServerUrl>,
    /// PEM file of the authorities of its certificate; without it those of this host
    #[arg(long, global = true, env = "WEIR_CA", value_name = "FILE", help_heading = "Another host")]
    pub ca: Option<PathBuf>,
    /// PEM file with your certificate
    #[arg(long, global = true, env = "WEIR_CERT", value_name = "FILE", help_heading = "Another host")]
    pub cert: Option<PathBuf>,
    /// PEM file with its private key
    #[arg(long, global = true, env = "WEIR_KEY", value_name = "FILE", help_heading = "Another host")]
    pub key: Option<PathBuf>,
}

/// Where a daemon listens over TCP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerUrl {
    /// Whether connections are encrypted.
    pub tls: bool,
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "write it as https://edge-1.example.net:9440";
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(format!("it does not begin with https:// or http://; {example}")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(format!("it has more than a host and a port; {example}"));
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        if ServerName::try_from(host).is_err() || bare.is_none() && host.contains(':') {
            return Err(format!("\"{}\" is no name and no address; {example}", host.escape_debug()));
        }
        let port = port.map_or(Ok(DEFAULT_PORT), str::parse);
        let port =
            port.ok().filter(|&port| port != 0).ok_or_else(|| format!("its port is none; {example}"))?;
        Ok(Self { tls, host: host.to_owned(), port })
    }
}

impl ServerUrl {
    /// Host and port as a request names them.
    #[must_use]
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

/// Why a server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// Options that belong together are not all there.
    #[error("{0}")]
    Options(&'static str),
    /// A file cannot be used.
    #[error("--{option} {} {problem}", path.display())]
    File {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The host trusts nobody.
    #[error("this host has no certificate authorities; name some with --ca")]
    NoAuthorities,
    /// The library refused.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// A server with what it takes to connect to it.
#[derive(Clone)]
pub struct Server {
    /// Where it is.
    pub url: ServerUrl,
    /// How, if it is encrypted.
    pub tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Remote {
    /// A client of the server, or of the socket if none is named.
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub fn client(&self, socket: &Path) -> Result<Client, RemoteError> {
        let Some(url) = self.server.clone() else {
            // Variables of the environment may name certificates for other commands.
            return Ok(Client::new(socket));
        };
        let tls = if url.tls { Some((self.connector()?, name(&url)?)) } else { None };
        Ok(Client::of_server(Server { url, tls }))
    }

    fn connector(&self) -> Result<TlsConnector, RemoteError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.authorities()?);
        let mut config = match (&self.cert, &self.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = certificates("cert", cert)?;
                let private = PrivateKeyDer::from_pem_file(key).map_err(|error| file("key", key, &error))?;
                builder.with_client_auth_cert(chain, private).map_err(|error| RemoteError::File {
                    option: "key",
                    path: key.clone(),
                    problem: format!("is not the key of {}: {error}", cert.display()),
                })?
            }
            _ => return Err(RemoteError::Options("--cert and --key belong together, and one is missing")),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn authorities(&self) -> Result<RootCertStore, RemoteError> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for certificate in certificates("ca", path)? {
                    roots.add(certificate).map_err(|error| file("ca", path, &error))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(RemoteError::NoAuthorities);
                }
            }
        }
        Ok(roots)
    }
}

fn name(url: &ServerUrl) -> Result<ServerName<'static>, RemoteError> {
    ServerName::try_from(url.host.clone()).map_err(|_| RemoteError::Options("--server names no host"))
}

fn file(option: &'static str, path: &Path, problem: &impl fmt::Display) -> RemoteError {
    RemoteError::File { option, path: path.to_owned(), problem: format!("cannot be used: {problem}") }
}

fn certificates(option: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, RemoteError> {
    let found = CertificateDer::pem_file_iter(path).map_err(|error| file(option, path, &error))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| file(option, path, &error))?;
    if found.is_empty() {
        return Err(file(option, path, &"it holds no certificate"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_hosts_with_or_without_a_port() {
        for (text, shown) in [
            ("https://edge-1.example.net", "https://edge-1.example.net:9440"),
            ("https://edge-1:443/", "https://edge-1:443"),
            ("http://192.0.2.5:80", "http://192.0.2.5:80"),
            ("https://[2001:db8::5]", "https://[2001:db8::5]:9440"),
            ("https://[2001:db8::5]:9441", "https://[2001:db8::5]:9441"),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap().to_string(), shown);
        }
        for (text, problem) in [
            ("edge-1:9440", "does not begin"),
            ("ftp://edge-1", "does not begin"),
            ("https://", "no name"),
            ("https://edge-1:0", "port"),
            ("https://edge-1:http", "port"),
            ("https://edge-1:65536", "port"),
            ("https://2001:db8::5", "no name"),
            ("https://me@edge-1", "more than"),
            ("https://edge-1/v1", "more than"),
        ] {
            let error = text.parse::<ServerUrl>().unwrap_err();
            assert!(error.contains(problem) && error.contains("https://edge-1.example.net:9440"), "{error}");
        }
    }
}
