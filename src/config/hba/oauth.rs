//! The method `oauth`: which bearer tokens count.
//!
//! Owns its options. Those of PostgreSQL 18 mean the same here; those that begin with `validator.` are for the one validator
//! that pgvalet has, which takes JSON Web Tokens by the keys of their issuer.

use std::path::{Path, PathBuf};

use super::options::Options;

/// Signatures that a token may have; none of these is made with a secret that both sides know.
pub const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// What comes behind an issuer to make the address of its discovery document.
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// Seconds by which clocks may differ, if the rule does not say.
const LEEWAY: u64 = 60;
/// The most that they may.
const MAX_LEEWAY: u64 = 600;

/// Which bearer tokens count, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuth {
    /// Who has to have issued it, as it stands in the token.
    pub issuer: String,
    /// Where clients find out about the issuer.
    pub discovery: String,
    /// Scopes that it has to have, with spaces between them.
    pub scope: String,
    /// The map of user names; `None`: the token's must be the user's.
    pub map: Option<String>,
    /// Where the keys are that it may be signed with.
    pub keys: KeySource,
    /// For whom it has to have been issued: one of these.
    pub audience: Vec<String>,
    /// Signatures that count: of [`ALGORITHMS`].
    pub algorithms: Vec<&'static str>,
    /// The claim that names its user.
    pub user_claim: String,
    /// Seconds by which the issuer's clock may differ.
    pub leeway: u64,
    /// Whether it is taken as a password from clients that know no bearer tokens.
    pub as_password: bool,
}

/// Where an issuer's keys are: a JSON Web Key Set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// In a file; an absolute path.
    File(PathBuf),
    /// At an address, perhaps the one that a discovery document names.
    Url {
        /// The address, of the keys or of the discovery document.
        url: String,
        /// The issuer whose discovery document it is; `None`: it is the keys.
        discovery_of: Option<String>,
        /// Authorities of the certificates there; `None`: those of the operating system.
        ca_file: Option<PathBuf>,
    },
}

const OPTIONS: [&str; 14] = [
    "issuer",
    "scope",
    "map",
    "validator",
    "delegate_ident_mapping",
    "validator.audience",
    "validator.jwks",
    "validator.ca_file",
    "validator.algorithms",
    "validator.user_claim",
    "validator.leeway",
    "validator.as_password",
    "clientcert",
    "clientname",
];

/// Reads the options of a rule in a file of this directory.
pub(super) fn read(options: &Options<'_>, directory: &Path) -> Result<OAuth, String> {
    if cfg!(not(feature = "oauth")) {
        return Err("this pgvalet was built without oauth; build it with the feature oauth".into());
    }
    options.only(&OPTIONS)?;
    let required = |name: &str, what: &str| {
        options.text(name)?.ok_or_else(|| format!("{name} is missing: {what}; write {name}="))
    };
    if !matches!(options.get("validator"), None | Some("jwks")) {
        return Err("there is one validator, jwks; write validator=jwks, or leave it out".into());
    }
    if options.flag("delegate_ident_mapping")? {
        return Err("delegate_ident_mapping=1: the validator jwks knows no roles; write map=".into());
    }
    let issuer = url("issuer", required("issuer", "who issues the tokens")?)?;
    let (issuer, discovery) = match issuer.split_once("/.well-known/") {
        None => (issuer.to_owned(), format!("{}{DISCOVERY}", issuer.trim_end_matches('/'))),
        // What is behind the kind of the document belongs to the issuer (RFC 8414, section 3.1).
        Some((before, kind)) => {
            let path = kind.split_once('/').map_or("", |(_, path)| path);
            let slash = if path.is_empty() { "" } else { "/" };
            (format!("{before}{slash}{path}"), issuer.to_owned())
        }
    };
    let ca_file = options.text("validator.ca_file")?.map(|file| beside(directory, file));
    let keys = match options.text("validator.jwks")? {
        Some(at) if at.contains("://") => {
            KeySource::Url { url: url("validator.jwks", at)?.into(), discovery_of: None, ca_file }
        }
        Some(file) => KeySource::File(beside(directory, file)),
        None => KeySource::Url { url: discovery.clone(), discovery_of: Some(issuer.clone()), ca_file },
    };
    let audience = required("validator.audience", "tokens that were issued for others would count")?;
    let algorithms = match options.text("validator.algorithms")? {
        None => ALGORITHMS.to_vec(),
        Some(names) => names.split_whitespace().map(algorithm).collect::<Result<_, _>>()?,
    };
    Ok(OAuth {
        issuer,
        discovery,
        scope: required("scope", "what a token has to allow")?.to_owned(),
        map: options.get("map").map(str::to_owned),
        keys,
        audience: audience.split_whitespace().map(str::to_owned).collect(),
        algorithms,
        user_claim: options.text("validator.user_claim")?.unwrap_or("sub").to_owned(),
        leeway: options.number("validator.leeway", MAX_LEEWAY)?.unwrap_or(LEEWAY),
        as_password: options.flag("validator.as_password")?,
    })
}

fn algorithm(name: &str) -> Result<&'static str, String> {
    ALGORITHMS.into_iter().find(|known| *known == name).ok_or_else(|| {
        format!("validator.algorithms: {name:?} is not known; write some of {}", ALGORITHMS.join(", "))
    })
}

/// An address that nobody in between can read or change.
pub(crate) fn url<'a>(name: &str, text: &'a str) -> Result<&'a str, String> {
    let is_private = match text.split_once("://") {
        Some(("https", rest)) => !rest.is_empty(),
        Some(("http", rest)) => {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
            matches!(host, "localhost" | "127.0.0.1" | "[::1]")
        }
        _ => false,
    };
    match is_private {
        true => Ok(text),
        false => Err(format!("{name}={text}: it must begin with https://")),
    }
}

fn beside(directory: &Path, file: &str) -> PathBuf {
    let path = directory.join(file);
    std::path::absolute(&path).unwrap_or(path)
}

#[cfg(all(test, feature = "oauth"))]
mod tests {
    use super::super::tests::only;
    use super::super::{Method, Rule};
    use super::*;

    fn oauth(rule: Result<Rule, String>) -> Result<OAuth, String> {
        match rule?.method {
            Method::OAuth(oauth) => Ok((*oauth).clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_options_are_postgresqls_and_the_validators() {
        let least = oauth(only(
            "hostssl all all all oauth issuer=https://id.test/realm scope=\"openid db\" validator.audience=pg",
        ))
        .unwrap();
        assert_eq!(least.issuer, "https://id.test/realm");
        assert_eq!(least.discovery, "https://id.test/realm/.well-known/openid-configuration");
        assert_eq!((least.scope.as_str(), least.user_claim.as_str()), ("openid db", "sub"));
        assert_eq!((least.leeway, least.algorithms.len(), least.as_password), (60, 9, false));
        assert!(matches!(least.keys, KeySource::Url { discovery_of: Some(_), .. }));

        let most = oauth(only(
            "local all all oauth issuer=\"https://id.test/.well-known/oauth-authorization-server/a\" scope=x map=m \
             validator=jwks validator.audience=\"a b\" validator.jwks=keys.json validator.algorithms=\"ES256 RS256\" \
             validator.user_claim=email validator.leeway=0 validator.as_password=1 delegate_ident_mapping=0",
        ))
        .unwrap();
        assert_eq!(most.issuer, "https://id.test/a");
        assert_eq!(most.discovery, "https://id.test/.well-known/oauth-authorization-server/a");
        assert_eq!(most.keys, KeySource::File("/keys.json".into()));
        assert_eq!(most.audience, ["a", "b"]);
        assert_eq!((most.algorithms, most.map.as_deref()), (vec!["ES256", "RS256"], Some("m")));
        assert_eq!((most.user_claim.as_str(), most.leeway, most.as_password), ("email", 0, true));
    }

    #[test]
    fn what_would_take_too_many_tokens_is_refused() {
        let base = "hostssl all all all oauth issuer=https://id.test scope=x validator.audience=pg";
        for (line, said) in [
            ("hostssl all all all oauth scope=x validator.audience=pg".to_owned(), "issuer is missing"),
            (
                "hostssl all all all oauth issuer=https://i.test validator.audience=a".into(),
                "scope is missing",
            ),
            ("hostssl all all all oauth issuer=https://i.test scope=x".into(), "audience is missing"),
            (format!("{base} issuer=http://id.test"), "https://"),
            (format!("{base} issuer=http://localhost.evil.test"), "https://"),
            (format!("{base} validator.jwks=http://id.test/keys"), "https://"),
            (format!("{base} validator.algorithms=none"), "is not known"),
            (format!("{base} validator.algorithms=HS256"), "is not known"),
            (format!("{base} validator=my_validator"), "one validator"),
            (format!("{base} delegate_ident_mapping=1"), "map="),
            (format!("{base} validator.leeway=601"), "up to 600"),
            (format!("{base} validator.audiense=x"), "did you mean validator.audience?"),
        ] {
            let refused = oauth(only(&line)).expect_err(&line);
            assert!(refused.contains(said), "{line}: {refused}");
        }
        for local in ["http://127.0.0.1:8080/keys", "http://[::1]:1/", "http://localhost"] {
            assert!(oauth(only(&format!("{base} validator.jwks={local}"))).is_ok(), "{local}");
        }
    }
}
