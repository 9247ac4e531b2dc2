//! PEM files of `[http]`: certificates, private keys, authorities. They are read with the configuration, so that a bad one is told with
//! its place, and again by every reload.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::limits::MAX_TLS_FILE_BYTES;

/// Why a file cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}; {remedy}")]
pub struct TlsFileError {
    /// Goes on after the file's name.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl TlsFileError {
    pub(super) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into() }
    }
}

/// What the system says without the number that it adds.
fn of_io(error: &std::io::Error) -> TlsFileError {
    TlsFileError::new(
        format!("cannot be read: {error}"),
        "the file must be there, and readable by the user who runs this (the daemon runs as root)",
    )
}

/// A regular file's bytes. `secret` ones must be for their owner only.
fn bytes(path: &Path, secret: bool) -> Result<Vec<u8>, TlsFileError> {
    // Opening something else than a file, such as a FIFO, could block for ever.
    if !std::fs::metadata(path).map_err(|error| of_io(&error))?.is_file() {
        return Err(TlsFileError::new("is no regular file", "name a PEM file"));
    }
    let file = File::open(path).map_err(|error| of_io(&error))?;
    let mode = file.metadata().map_err(|error| of_io(&error))?.permissions().mode() & 0o7777;
    if secret && mode & 0o077 != 0 {
        return Err(TlsFileError::new(
            format!("can be read or changed by others (mode {mode:04o})"),
            format!("run `chmod 600 {}`; if others have read it, make a new key", path.display()),
        ));
    }
    if !secret && mode & 0o022 != 0 {
        return Err(TlsFileError::new(
            format!("can be changed by others (mode {mode:04o})"),
            format!("run `chmod 644 {}`", path.display()),
        ));
    }
    let mut bytes = Vec::new();
    file.take(MAX_TLS_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| of_io(&error))?;
    if bytes.len() as u64 > MAX_TLS_FILE_BYTES {
        return Err(TlsFileError::new(
            format!("is larger than MAX_TLS_FILE_BYTES = {MAX_TLS_FILE_BYTES}"),
            "name a PEM file with what is needed only",
        ));
    }
    Ok(bytes)
}

fn certificates(path: &Path, remedy: &str) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let bytes = bytes(path, false)?;
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate
            .map_err(|error| TlsFileError::new(format!("has a damaged PEM section: {error}"), remedy))?;
        parse(&certificate).map_err(|problem| {
            let number = found.len() + 1;
            TlsFileError::new(format!("holds, as number {number}, no X.509 certificate: {problem}"), remedy)
        })?;
        found.push(certificate);
    }
    match found.is_empty() {
        false => Ok(found),
        true => Err(TlsFileError::new("holds no certificate", remedy)),
    }
}

/// A certificate that is one.
pub(crate) fn parse<'c>(certificate: &'c CertificateDer<'_>) -> Result<X509Certificate<'c>, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    Ok(parsed)
}

/// The certificate of a server, and those between it and its authority.
pub(crate) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    certificates(path, "name a PEM file with the daemon's certificate first, then those that signed it")
}

/// The authorities to trust.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, TlsFileError> {
    let remedy = "name a PEM file with the certificates of the authorities whose clients may connect";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, remedy)? {
        let is_authority = parse(&certificate).is_ok_and(|parsed| parsed.is_ca());
        if !is_authority {
            return Err(TlsFileError::new("holds a certificate that is no authority's", remedy));
        }
        roots.add(certificate).map_err(|error| {
            TlsFileError::new(format!("holds an authority that cannot be used: {error}"), remedy)
        })?;
    }
    Ok(roots)
}

/// Revocation lists, and when the first of them is to be replaced by its next issue.
pub(crate) struct RevocationLists {
    pub(crate) lists: Vec<CertificateRevocationListDer<'static>>,
    pub(crate) next_update: Option<jiff::Timestamp>,
}

/// The revocation lists of authorities (RFC 5280, section 5). Each authority in the other file, if that is known, must have one: of whom there is
/// none, no certificate would be accepted.
pub(crate) fn revocation_lists(
    path: &Path,
    authorities: Option<&Path>,
) -> Result<RevocationLists, TlsFileError> {
    let remedy = "name a PEM file with the revocation lists of all authorities of client_ca_file, as `openssl ca -gencrl` writes them";
    let bytes = bytes(path, false)?;
    let (mut lists, mut issuers, mut next_update) = (Vec::new(), Vec::new(), None);
    for list in CertificateRevocationListDer::pem_slice_iter(&bytes) {
        let damaged = |problem: String| TlsFileError::new(problem, remedy);
        let list = list.map_err(|error| damaged(format!("has a damaged PEM section: {error}")))?;
        let number = lists.len() + 1;
        let (_, parsed) = CertificateRevocationList::from_der(&list)
            .map_err(|error| damaged(format!("holds, as number {number}, no revocation list: {error}")))?;
        issuers.push(parsed.issuer().as_raw().to_vec());
        let next = parsed.next_update().and_then(|next| jiff::Timestamp::from_second(next.timestamp()).ok());
        next_update = [next_update, next].into_iter().flatten().min();
        lists.push(list);
    }
    if lists.is_empty() {
        return Err(TlsFileError::new("holds no revocation list", remedy));
    }
    for certificate in authorities.map_or(Ok(Vec::new()), |path| certificates(path, remedy))? {
        let Ok(authority) = parse(&certificate) else { continue };
        if !issuers.iter().any(|issuer| issuer == authority.subject().as_raw()) {
            return Err(TlsFileError::new(format!("holds no list of {}", authority.subject()), remedy));
        }
    }
    Ok(RevocationLists { lists, next_update })
}

/// A private key.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsFileError> {
    let remedy =
        "name a PEM file with one private key that is not encrypted: RSA, ECDSA (P-256, P-384) or Ed25519";
    let bytes = bytes(path, true)?;
    let text = String::from_utf8_lossy(&bytes);
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(TlsFileError::new(
            "holds an encrypted key, and nobody is there to give its password",
            remedy,
        ));
    }
    let key = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| TlsFileError::new("holds no private key", remedy))?;
    ring::sign::any_supported_type(&key)
        .map_err(|_| TlsFileError::new("holds a key of a kind that is not supported", remedy))?;
    Ok(key)
}

/// Whether a certificate is that of a key.
pub(crate) fn pair(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsFileError> {
    let chain = chain(certificate)?;
    let signer = ring::sign::any_supported_type(&private_key(key)?)
        .map_err(|error| TlsFileError::new(error.to_string(), "make another key"))?;
    let certified = CertifiedKey::new(chain, signer);
    certified.keys_match().map_err(|_| {
        let certificate = certificate.display();
        TlsFileError::new(
            format!("is not the key of the certificate in {certificate}"),
            "name the key with which that certificate was requested; its own must stand first in certificate_file",
        )
    })?;
    Ok(certified)
}
