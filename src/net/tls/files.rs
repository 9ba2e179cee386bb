//! Certificates and keys from PEM files.
//!
//! Errors name the file and say what it should hold.

use rustls::RootCertStore;
use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use std::fs;
use std::path::Path;
use std::time::SystemTime;

/// Why TLS cannot be set up: the setting, the file, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {what}")]
pub struct Unusable {
    /// The setting that names the file.
    pub setting: &'static str,
    /// What is wrong.
    pub what: String,
}

impl Unusable {
    pub(super) fn new(setting: &'static str, what: impl Into<String>) -> Unusable {
        Unusable { setting, what: what.into() }
    }

    pub(super) fn file(setting: &'static str, path: &Path, what: impl std::fmt::Display) -> Unusable {
        Unusable::new(setting, format!("{}: {what}", path.display()))
    }
}

/// All certificates of a file, in its order.
pub(super) fn certificates(
    setting: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let text = read(setting, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(Unusable::file(
            setting,
            path,
            "there is no certificate in it; it must be PEM, with -----BEGIN CERTIFICATE-----",
        )),
        Ok(found) => Ok(found),
        Err(error) => Err(Unusable::file(setting, path, describe(&error))),
    }
}

/// The private key of a file: PKCS#8, PKCS#1 or SEC1.
pub(super) fn private_key(setting: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, Unusable> {
    let text = zeroize::Zeroizing::new(read(setting, path)?);
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(PemError::NoItemsFound) if text.windows(9).any(|words| words == b"ENCRYPTED") => {
            let how = "the key is encrypted with a passphrase, which nobody could type in; decrypt it with: openssl pkey";
            Err(Unusable::file(setting, path, how))
        }
        Err(PemError::NoItemsFound) => Err(Unusable::file(
            setting,
            path,
            "there is no private key in it; it must be PEM, with -----BEGIN PRIVATE KEY-----",
        )),
        Err(error) => Err(Unusable::file(setting, path, describe(&error))),
    }
}

/// The authorities of a file, from its certificates.
pub(super) fn authorities(
    setting: &'static str,
    path: &Path,
    certificates: Vec<CertificateDer<'static>>,
) -> Result<RootCertStore, Unusable> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| {
            let what = format!("a certificate in it cannot be used as an authority: {error}");
            Unusable::file(setting, path, what)
        })?;
    }
    Ok(roots)
}

/// The lists of revoked certificates of a file.
pub(super) fn revocations(
    setting: &'static str,
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, Unusable> {
    let text = read(setting, path)?;
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(Unusable::file(
            setting,
            path,
            "there is no list of revoked certificates in it; it must be PEM, with -----BEGIN X509 CRL-----",
        )),
        Ok(found) => Ok(found),
        Err(error) => Err(Unusable::file(setting, path, describe(&error))),
    }
}

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    changed: (i64, i64),
    length: u64,
    inode: u64,
}

impl Stamp {
    /// The present state of `path`; `None` if there is no such file.
    pub(super) fn of(path: &Path) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(path).ok()?;
        Some(Stamp {
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            length: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, Unusable> {
    fs::read(path).map_err(|error| Unusable::new(setting, format!("cannot read {}: {error}", path.display())))
}

fn describe(error: &PemError) -> String {
    format!("it is not valid PEM: {error}")
}
