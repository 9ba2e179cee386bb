//! What stands in a certificate that pgvalet wants to know: whom it names, and what channel binding makes of it.
//!
//! Owns no trust: whether a certificate counts is decided in the handshake. What cannot be read counts as absent.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;
use x509_cert::der::asn1::{ContextSpecific, ObjectIdentifier};
use x509_cert::der::{Decode, SliceReader, TagNumber};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::spki::AlgorithmIdentifierRef;
use x509_cert::time::Time;

/// Whom a certificate was made out to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// The first common name (CN), as PostgreSQL takes it.
    pub common_name: Option<String>,
    /// The whole distinguished name as in RFC 2253, the most specific part first.
    pub distinguished_name: String,
    /// The host names among the alternative names.
    pub dns_names: Vec<String>,
    /// The mail addresses among the alternative names.
    pub emails: Vec<String>,
    /// The URIs among the alternative names, such as `spiffe://...`.
    pub uris: Vec<String>,
    /// From when to when it is valid, in seconds of Unix time.
    validity: (u64, u64),
    /// Whether it has alternative names that are hosts or addresses: a common name is no host name then.
    pub(super) names_hosts: bool,
}

impl Subject {
    /// Reads a certificate; `None` if it is none. Names with a NUL in them are left out: other programs would read less
    /// of them than we do.
    #[must_use]
    pub fn of(der: &[u8]) -> Option<Subject> {
        let certificate = Certificate::from_der(der).ok()?;
        let certificate = certificate.tbs_certificate();
        let name = certificate.subject();
        // Of several the first, as PostgreSQL takes it.
        let common_name = name.iter().find(|part| part.oid == COMMON_NAME);
        let mut subject = Subject {
            common_name: common_name
                .and_then(|part| std::str::from_utf8(part.value.value()).ok())
                .filter(|name| is_whole(name))
                .map(str::to_owned),
            distinguished_name: name.to_string(),
            validity: {
                let validity = certificate.validity();
                (seconds(validity.not_before), seconds(validity.not_after))
            },
            ..Subject::default()
        };
        let names = certificate.get_extension::<SubjectAltName>();
        // What cannot be read may name hosts; then the common name does not count.
        subject.names_hosts = names.is_err();
        let names = names.ok().flatten();
        for name in names.iter().flat_map(|(_, names)| names.0.iter()) {
            let (list, text) = match name {
                GeneralName::DnsName(name) => (&mut subject.dns_names, name.as_str()),
                GeneralName::Rfc822Name(name) => (&mut subject.emails, name.as_str()),
                GeneralName::UniformResourceIdentifier(name) => (&mut subject.uris, name.as_str()),
                GeneralName::IpAddress(_) => {
                    subject.names_hosts = true;
                    continue;
                }
                _ => continue,
            };
            if is_whole(text) {
                list.push(text.to_owned());
            }
        }
        subject.names_hosts |= !subject.dns_names.is_empty();
        Some(subject)
    }

    /// Whether the certificate is valid at this moment, in seconds of Unix time.
    pub(super) fn is_valid_at(&self, now: u64) -> bool {
        (self.validity.0..=self.validity.1).contains(&now)
    }
}

/// When a certificate expires, in seconds of Unix time; `None` if it is none.
#[must_use]
pub fn not_after(der: &[u8]) -> Option<u64> {
    Certificate::from_der(der)
        .ok()
        .map(|certificate| seconds(certificate.tbs_certificate().validity().not_after))
}

/// When a list of revoked certificates is to be replaced by a newer one, in seconds of Unix time.
#[must_use]
pub fn next_update(der: &[u8]) -> Option<u64> {
    CertificateList::<Rfc5280>::from_der(der).ok()?.tbs_cert_list.next_update.map(seconds)
}

/// The hash of a server's certificate for the channel binding `tls-server-end-point` (RFC 5929): with the algorithm that
/// the certificate is signed with, where that is MD5 or SHA-1 with SHA-256. `None` where the algorithm has none of its
/// own, such as Ed25519: no binding is defined then.
#[must_use]
pub fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = Certificate::from_der(der).ok()?;
    let algorithm = certificate.signature_algorithm();
    let mut oid = algorithm.oid;
    if oid == RSA_PSS {
        // The first of its parameters is the hash; without it, it is SHA-1.
        let parameters = algorithm.parameters.as_ref();
        oid = parameters.and_then(|parameters| pss_hash(parameters.value())).unwrap_or(SHA_1);
    }
    match oid.to_string().as_str() {
        // md5WithRSAEncryption, sha1WithRSAEncryption, ecdsa-with-SHA1, id-sha1
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.3.14.3.2.26"
        // sha256WithRSAEncryption, ecdsa-with-SHA256, id-sha256
        | "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" | "2.16.840.1.101.3.4.2.1" => {
            Some(Sha256::digest(der).to_vec())
        }
        // The same for 384, 512 and 224.
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => {
            Some(Sha384::digest(der).to_vec())
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => {
            Some(Sha512::digest(der).to_vec())
        }
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" | "2.16.840.1.101.3.4.2.4" => {
            Some(Sha224::digest(der).to_vec())
        }
        _ => None,
    }
}

/// id-at-commonName
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// id-RSASSA-PSS
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
/// id-sha1
const SHA_1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");

/// The hash that stands in `RSASSA-PSS-params ::= SEQUENCE { hashAlgorithm [0] AlgorithmIdentifier OPTIONAL, ... }`
/// (RFC 4055).
fn pss_hash(parameters: &[u8]) -> Option<ObjectIdentifier> {
    let mut reader = SliceReader::new(parameters).ok()?;
    let hash = ContextSpecific::<AlgorithmIdentifierRef<'_>>::decode_explicit(&mut reader, TagNumber(0));
    Some(hash.ok()??.value.oid)
}

fn seconds(time: Time) -> u64 {
    time.to_unix_duration().as_secs()
}

fn is_whole(name: &str) -> bool {
    !name.is_empty() && !name.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm, names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, "app");
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate_for(algorithm).unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn names_are_read() {
        let names = vec![
            SanType::DnsName("db.example.com".try_into().unwrap()),
            SanType::Rfc822Name("app@example.com".try_into().unwrap()),
            SanType::URI("spiffe://example/app".try_into().unwrap()),
        ];
        let subject = Subject::of(&certificate(&rcgen::PKCS_ECDSA_P256_SHA256, names)).unwrap();
        assert_eq!(subject.common_name.as_deref(), Some("app"));
        assert_eq!(subject.distinguished_name, "CN=app,O=Example");
        assert_eq!(subject.dns_names, ["db.example.com"]);
        assert_eq!(subject.emails, ["app@example.com"]);
        assert_eq!(subject.uris, ["spiffe://example/app"]);
        assert!(subject.names_hosts && subject.is_valid_at(1_700_000_000) && !subject.is_valid_at(0));
        assert_eq!(Subject::of(b"no certificate"), None);
    }

    #[test]
    fn alternative_names_that_cannot_be_read_may_be_hosts() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "db.example.com");
        let garbage = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 0x7f, 0]);
        params.custom_extensions = vec![garbage];
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        // So that verify-full does not fall back to the common name.
        assert!(Subject::of(&der).is_none_or(|subject| subject.names_hosts));
    }

    /// RFC 5929, section 4.1.
    #[test]
    fn the_end_point_is_hashed_as_its_certificate_was() {
        let p256 = certificate(&rcgen::PKCS_ECDSA_P256_SHA256, Vec::new());
        assert_eq!(end_point(&p256), Some(Sha256::digest(&p256).to_vec()));
        let p384 = certificate(&rcgen::PKCS_ECDSA_P384_SHA384, Vec::new());
        assert_eq!(end_point(&p384), Some(Sha384::digest(&p384).to_vec()));
        assert_eq!(end_point(&certificate(&rcgen::PKCS_ED25519, Vec::new())), None);
        // RSASSA-PSS with SHA-512: [0] { SEQUENCE { 2.16.840.1.101.3.4.2.3 } }
        let parameters = [0xa0, 13, 0x30, 11, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3];
        assert_eq!(pss_hash(&parameters).unwrap().to_string(), "2.16.840.1.101.3.4.2.3");
        assert_eq!(pss_hash(&[]), None);
    }
}
