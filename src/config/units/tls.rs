//! The values of TLS settings: versions, cipher suites.

use super::{Scalar, Unit, ciphers, quoted};
use crate::config::tls::{self, Authorities, Ciphers, Negotiation, SslMode, Versions};
use crate::config::units::words::Words;

impl Words for SslMode {
    const KIND: &'static str =
        "`\"disable\"`, `\"allow\"`, `\"prefer\"`, `\"require\"`, `\"verify-ca\"` or `\"verify-full\"`";
    const ALL: &'static [(&'static str, Self)] = &[
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];
}

impl Words for Negotiation {
    const KIND: &'static str = "`\"postgres\"` or `\"direct\"`";
    const ALL: &'static [(&'static str, Self)] = &[("postgres", Self::Postgres), ("direct", Self::Direct)];
}

/// Versions of TLS, with pgbouncer's names.
pub(in crate::config) struct Protocols;

impl Unit for Protocols {
    type Value = Versions;
    const KIND: &'static str = "versions of TLS";

    fn read(scalar: &Scalar) -> Result<Versions, String> {
        let how = r#"write "secure" for all that are safe, or some of "tlsv1.2", "tlsv1.3""#;
        let mut versions = Versions { v1_2: false, v1_3: false };
        for word in super::items(scalar, how)? {
            match word.to_ascii_lowercase().as_str() {
                "secure" | "all" | "legacy" => versions = Versions::ALL,
                "tlsv1.2" => versions.v1_2 = true,
                "tlsv1.3" => versions.v1_3 = true,
                "tlsv1.0" | "tlsv1.1" | "tlsv1" => {
                    return Err(format!("{word} is not safe and not supported; {how}"));
                }
                _ => return Err(format!("{word:?} is not a version of TLS; {how}")),
            }
        }
        if versions == (Versions { v1_2: false, v1_3: false }) {
            return Err(format!("there is no version in it; {how}"));
        }
        Ok(versions)
    }

    fn write(value: &Versions) -> Option<String> {
        Some(quoted(match value {
            Versions { v1_2: false, .. } => "tlsv1.3",
            Versions { v1_3: false, .. } => "tlsv1.2",
            _ => "secure",
        }))
    }
}

/// A file of authorities, or the word for those of the system.
pub(in crate::config) struct Roots;

impl Unit for Roots {
    type Value = Option<Authorities>;
    const KIND: &'static str = "file or `\"system\"`";

    fn read(scalar: &Scalar) -> Result<Option<Authorities>, String> {
        super::text(scalar).map(|text| match text {
            "" => None,
            "system" => Some(Authorities::System),
            file => Some(Authorities::File(file.into())),
        })
    }

    fn write(value: &Option<Authorities>) -> Option<String> {
        Some(quoted(&match value {
            None => String::new(),
            Some(Authorities::System) => "system".to_owned(),
            Some(Authorities::File(file)) => file.display().to_string(),
        }))
    }
}

/// Cipher suites of TLS 1.3, or of TLS 1.2, by any of their names.
pub(in crate::config) struct Suites<const V1_3: bool>;

impl<const V1_3: bool> Unit for Suites<V1_3> {
    type Value = Ciphers;
    const KIND: &'static str = "cipher suites";

    fn read(scalar: &Scalar) -> Result<Ciphers, String> {
        let how = || {
            let names = tls::suite_names(V1_3).join("\", \"");
            format!(r#"write "default", or some of "{names}""#)
        };
        // OpenSSL separates names by colons.
        let text = match scalar {
            Scalar::Text(text) => Scalar::Text(text.replace(':', ",")),
            other => other.clone(),
        };
        let names = super::items(&text, &how())?;
        let everything = ["default", "secure", "normal", "fast", "all", "compat", "legacy"];
        if names.is_empty()
            || matches!(&names[..], [word] if everything.contains(&word.to_ascii_lowercase().as_str()))
        {
            return Ok(Ciphers::Default);
        }
        if !V1_3
            && !names.iter().all(|name| tls::is_suite(name, V1_3))
            && let Scalar::Text(text) = &text
            && let Some(selected) = ciphers::selected(text)
        {
            return match selected.len() {
                0 => Err(format!("{text:?} selects no cipher suite that pgvalet has; {}", how())),
                count if count == tls::suite_names(V1_3).len() => Ok(Ciphers::Default),
                _ => Ok(Ciphers::Only(selected)),
            };
        }
        match names.iter().find(|name| !tls::is_suite(name, V1_3)) {
            Some(unknown) => Err(format!("{unknown:?} is no cipher suite that pgvalet has; {}", how())),
            None => Ok(Ciphers::Only(names)),
        }
    }

    fn write(value: &Ciphers) -> Option<String> {
        Some(quoted(&match value {
            Ciphers::Default => "default".to_owned(),
            Ciphers::Only(names) => names.join(":"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Scalar {
        Scalar::Text(value.into())
    }

    #[test]
    fn versions_have_pgbouncers_names() {
        assert_eq!(Protocols::read(&text("secure")), Ok(Versions::ALL));
        assert_eq!(Protocols::read(&text("tlsv1.2, tlsv1.3")), Ok(Versions::ALL));
        assert_eq!(Protocols::read(&text("tlsv1.3")), Ok(Versions { v1_2: false, v1_3: true }));
        assert!(Protocols::read(&text("tlsv1.1")).unwrap_err().contains("not safe"));
        assert!(Protocols::read(&text("")).is_err());
        for value in ["secure", "tlsv1.2", "tlsv1.3"] {
            assert_eq!(Protocols::write(&Protocols::read(&text(value)).unwrap()), Some(quoted(value)));
        }
    }

    #[test]
    fn suites_have_the_names_of_the_standards_and_of_openssl() {
        let old = Suites::<false>::read(&text("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305"));
        let new = Suites::<false>::read(&text(
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        ));
        let chosen = |ciphers: &Ciphers| tls::cryptography_with(ciphers, &Ciphers::Default).cipher_suites;
        let chosen = [old, new].map(|read| chosen(&read.unwrap()));
        assert_eq!(chosen[0], chosen[1]);
        assert_eq!(chosen[0].iter().filter(|suite| suite.tls13().is_none()).count(), 2);
        assert!(Suites::<true>::read(&text("TLS_AES_256_GCM_SHA384")).is_ok());
        assert_eq!(Suites::<true>::read(&text("fast")), Ok(Ciphers::Default));
        assert_eq!(Suites::<false>::read(&text("HIGH:!aNULL")), Ok(Ciphers::Default));
        for wrong in ["RC4:3DES", "HIGH:nonsense", "TLS_AES_256_GCM_SHA384"] {
            assert!(Suites::<false>::read(&text(wrong)).is_err(), "{wrong}");
        }
        assert!(Suites::<true>::read(&text("ECDHE-RSA-AES128-GCM-SHA256")).is_err());
    }
}
