//! TLS of the TCP listener: the certificate that it shows, who may connect, who may operate. What a reload installs holds for the next
//! connection, and who may operate for the next request; connections that are open stay.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::CertificateDer,
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use tokio_rustls::TlsAcceptor;

use super::{
    access::{Identity, Role},
    limits::HANDSHAKE_LOG_GAP,
};
use crate::config::{Operator, Tls, TlsFileError, tls_files};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error("{key} {} of [http] {}", path.display(), source.message)]
    File {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: TlsFileError,
    },
    /// Nobody would trust the certificate now.
    #[error("certificate_file {} of [http] {problem}", path.display())]
    Time {
        /// The file.
        path: PathBuf,
        /// Since or until when.
        problem: String,
    },
    /// The library refused the authorities.
    #[error("client_ca_file {} of [http] cannot be used: {source}", path.display())]
    Clients {
        /// The file.
        path: PathBuf,
        /// Why.
        source: VerifierBuilderError,
    },
    /// The library refused.
    #[error("TLS of [http] cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl TlsError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &str {
        match self {
            Self::File { source, .. } => &source.remedy,
            Self::Time { .. } => "have it renewed by its authority, or set the clock; then weir reload",
            Self::Clients { .. } | Self::Tls(_) => "weir check says more of the files of [http]",
        }
    }
}

/// What was read from the files of `[http]`.
pub struct Credentials {
    /// Does handshakes.
    pub(super) acceptor: TlsAcceptor,
    /// Who may operate; none where nobody is asked for a certificate.
    operators: Option<Vec<Operator>>,
    /// When the first of the revocation lists is to be replaced.
    next_revocations: Option<jiff::Timestamp>,
    /// When the certificate begins and ends to be good.
    validity: (jiff::Timestamp, jiff::Timestamp),
    path: PathBuf,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("path", &self.path).field("validity", &self.validity).finish()
    }
}

impl Credentials {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`TlsError`]; a certificate whose time has passed is none: see [`Credentials::check_time`].
    pub fn read(tls: &Tls) -> Result<Self, TlsError> {
        let failed = |key, path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::File { key, path, source }
        };
        let chain =
            tls_files::chain(&tls.certificate).map_err(failed("certificate_file", &tls.certificate))?;
        tls_files::pair(&tls.certificate, &tls.key).map_err(failed("key_file", &tls.key))?;
        let key = tls_files::private_key(&tls.key).map_err(failed("key_file", &tls.key))?;
        let validity = validity(&chain[0]);
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let mut next_revocations = None;
        let builder = match &tls.clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let roots =
                    tls_files::authorities(&clients.ca).map_err(failed("client_ca_file", &clients.ca))?;
                let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                if let Some(path) = &clients.crl {
                    let read = tls_files::revocation_lists(path, Some(&clients.ca));
                    let revoked = read.map_err(failed("client_crl_file", path))?;
                    next_revocations = revoked.next_update;
                    // One that is late still holds: it must not lock out who is to mend that.
                    verifier = verifier.with_crls(revoked.lists);
                }
                let verifier = verifier.build();
                let refused = |source| TlsError::Clients { path: clients.ca.clone(), source };
                builder.with_client_cert_verifier(verifier.map_err(refused)?)
            }
        };
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            operators: tls.clients.as_ref().map(|clients| clients.operators.clone()),
            next_revocations,
            validity,
            path: tls.certificate.clone(),
        })
    }

    /// Whether the certificate is good at this moment.
    ///
    /// # Errors
    /// [`TlsError::Time`].
    pub fn check_time(&self, now: jiff::Timestamp) -> Result<(), TlsError> {
        let (begins, ends) = self.validity;
        let failed = |problem| Err(TlsError::Time { path: self.path.clone(), problem });
        if now >= ends {
            failed(format!("expired on {ends}: no client would accept it"))
        } else if now < begins {
            failed(format!("is good from {begins} on only: no client would accept it"))
        } else {
            Ok(())
        }
    }

    /// When the certificate ends to be good.
    #[must_use]
    pub const fn expires(&self) -> jiff::Timestamp {
        self.validity.1
    }

    /// When the first of the revocation lists is to be replaced, if there are any.
    #[must_use]
    pub const fn next_revocations(&self) -> Option<jiff::Timestamp> {
        self.next_revocations
    }

    /// Whether clients have to show a certificate.
    pub(super) fn asks_clients(&self) -> bool {
        self.operators.is_some()
    }
}

/// When a certificate begins and ends to be good (RFC 5280, 4.1.2.5).
fn validity(certificate: &CertificateDer<'_>) -> (jiff::Timestamp, jiff::Timestamp) {
    let parsed = tls_files::parse(certificate);
    let at = |seconds: i64, or| jiff::Timestamp::from_second(seconds).unwrap_or(or);
    parsed.map_or((jiff::Timestamp::MIN, jiff::Timestamp::MAX), |parsed| {
        let validity = parsed.validity();
        (
            at(validity.not_before.timestamp(), jiff::Timestamp::MIN),
            at(validity.not_after.timestamp(), jiff::Timestamp::MAX),
        )
    })
}

/// Why somebody was refused over TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Too many connections of one address.
    Connections,
    /// The handshake failed or took too long: no certificate, one that is not trusted, or no TLS at all.
    Handshake,
    /// Too many requests of one address.
    Rate,
    /// The certificate may not do what was asked for.
    Role,
}

impl Refused {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Connections, Self::Handshake, Self::Rate, Self::Role];

    /// Name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Handshake => "handshake",
            Self::Rate => "rate",
            Self::Role => "role",
        }
    }
}

/// The TCP listener's side of the configuration, and its counts. Shared by server and reload.
#[derive(Debug, Default)]
pub struct Https {
    current: RwLock<Option<Arc<Credentials>>>,
    refused: [AtomicU64; Refused::ALL.len()],
    /// When a refused handshake was last told.
    told: Mutex<Option<Instant>>,
}

impl Https {
    /// With the files of a configuration, or without encryption.
    ///
    /// # Errors
    /// See [`TlsError`]. A certificate whose time has passed is told and taken: a daemon does not stay away for that.
    pub fn load(tls: Option<&Tls>) -> Result<Self, TlsError> {
        let credentials = tls.map(Credentials::read).transpose()?;
        if let Some(Err(error)) = credentials.as_ref().map(|c| c.check_time(jiff::Timestamp::now())) {
            tracing::error!("{error}; {}", error.remedy());
        }
        let https = Self::default();
        https.install(credentials);
        Ok(https)
    }

    /// From now on these hold.
    pub fn install(&self, credentials: Option<Credentials>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = credentials.map(Arc::new);
    }

    /// What holds; nothing where connections are not encrypted.
    pub(super) fn current(&self) -> Option<Arc<Credentials>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What somebody may do now.
    pub(super) fn role(&self, identity: &Identity) -> Role {
        let current = self.current();
        let operators = current.as_ref().and_then(|current| current.operators.as_deref());
        match operators.is_some_and(|operators| operators.iter().any(|operator| identity.is(operator))) {
            true => Role::Operate,
            false => Role::Read,
        }
    }

    /// Counts a refusal.
    pub(super) fn count(&self, refused: Refused) {
        self.refused[refused as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a handshake that failed, and tells of it: strangers must not fill the log.
    pub(super) fn refuse_handshake(&self, from: SocketAddr, why: &str) {
        self.count(Refused::Handshake);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= HANDSHAKE_LOG_GAP) {
            *told = Some(Instant::now());
            tracing::info!(%from, "refused in the handshake: {why}");
        }
    }

    /// How often whom was refused, by name.
    #[must_use]
    pub fn refused(&self) -> Vec<(&'static str, u64)> {
        let count = |refused: Refused| self.refused[refused as usize].load(Ordering::Relaxed);
        Refused::ALL.iter().map(|&refused| (refused.name(), count(refused))).collect()
    }

    /// When the certificate ends to be good, if there is one.
    #[must_use]
    pub fn expires(&self) -> Option<jiff::Timestamp> {
        self.current().map(|current| current.validity.1)
    }
}
