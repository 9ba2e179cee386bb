//! When certificates, and lists of revoked ones, expire.

use crate::net::tls::certificate::{next_update, not_after};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use std::path::{Path, PathBuf};

/// When the certificates of a file expire.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Expiry {
    /// The setting that names the file.
    pub setting: &'static str,
    /// The file.
    pub file: PathBuf,
    /// The moment, in seconds of Unix time.
    pub at: u64,
}

/// Of a certificate with its chain: it counts until the first of them expires.
pub(super) fn of_chain(setting: &'static str, file: &Path, chain: &[CertificateDer<'_>]) -> Option<Expiry> {
    let at = chain.iter().filter_map(|certificate| not_after(certificate)).min()?;
    Some(Expiry { setting, file: file.to_owned(), at })
}

/// Of authorities: some of a list may have expired long ago, so the last of them counts.
pub(super) fn of_authorities(
    setting: &'static str,
    file: &Path,
    authorities: &[CertificateDer<'_>],
) -> Option<Expiry> {
    let at = authorities.iter().filter_map(|certificate| not_after(certificate)).max()?;
    Some(Expiry { setting, file: file.to_owned(), at })
}

/// Of lists of revoked certificates: certificates count until the first of them expires.
pub(super) fn of_revocations(
    setting: &'static str,
    file: &Path,
    lists: &[CertificateRevocationListDer<'_>],
) -> Option<Expiry> {
    let at = lists.iter().filter_map(|list| next_update(list)).min()?;
    Some(Expiry { setting, file: file.to_owned(), at })
}
