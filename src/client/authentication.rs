//! A client proves who it is.
//!
//! Owns the choice of a method, from `auth_type` or from the rules of `auth_hba_file`, and the methods that need no
//! exchange. The exchanges themselves are in `exchanges`. An unknown user goes through the same exchange as a known one with a
//! wrong password, and gets the same answer.

use crate::auth::hba::{self, Facts, Groups, Interfaces, Outcome, Request, Wanted};
use crate::auth::learnt::Place;
use crate::auth::transport::{Certificate, Transport};
use crate::client::bearer;
use crate::client::connection::Connection;
use crate::client::context::Context;
use crate::client::exchanges::{self, wrong_password};
use crate::client::login::Refusal;
use crate::client::surroundings;
use crate::config::hba::{CertificateName, ClientCertificate, Hba, Method};
use crate::config::secret::Password;
use crate::config::{AuthType, Config, Secret};
use crate::directory::{Found, LookupError, Source};
use crate::error::{Error, Kind};
use crate::protocol::startup::Replication;
use crate::routing;
use std::rc::Rc;
use std::sync::Arc;

/// Who wants to log in, and where to.
#[derive(Debug)]
pub(super) struct Applicant<'a> {
    /// The name that the client gave itself.
    pub(super) user: &'a str,
    /// The database that it wants.
    pub(super) database: &'a str,
    /// Whether it asks for replication.
    pub(super) replication: Option<Replication>,
    /// How it came here.
    pub(super) transport: Transport,
}

/// What a client has to go through.
struct Demand {
    method: Method,
    client_certificate: ClientCertificate,
    facts: Facts,
}

/// Checks the client.
pub(super) async fn authenticate(
    context: &Rc<Context>,
    connection: &mut Connection,
    applicant: &Applicant<'_>,
) -> Result<(), Refusal> {
    let config = context.config();
    let fixed =
        |method| Demand { method, client_certificate: ClientCertificate::NotAsked, facts: Facts::default() };
    let demand = match config.general.auth_type {
        AuthType::ScramSha256 => fixed(Method::ScramSha256),
        AuthType::Md5 => fixed(Method::Md5),
        AuthType::Password if !applicant.transport.is_private() => return Err(in_the_clear().into()),
        AuthType::Password => fixed(Method::Password),
        AuthType::Pam if !applicant.transport.is_private() => return Err(in_the_clear().into()),
        // pgbouncer's name for itself, so that its file in /etc/pam.d goes on to count.
        AuthType::Pam => fixed(Method::Pam { service: "pgbouncer".into() }),
        AuthType::Ldap if !applicant.transport.is_private() => return Err(in_the_clear().into()),
        AuthType::Ldap => match &config.ldap {
            Some(ldap) => fixed(Method::Ldap(ldap.clone())),
            // The configuration does not let it come to this.
            None => fixed(Method::Reject),
        },
        AuthType::Peer if applicant.transport != Transport::Unix => return Err(not_local().into()),
        AuthType::Peer => fixed(Method::Peer { map: None }),
        AuthType::Certificate => fixed(Method::Certificate { map: None, name: CertificateName::Cn }),
        AuthType::Trust => fixed(Method::Trust),
        AuthType::Any => return Ok(()),
        AuthType::Reject => {
            let text = format!("connection rejected for user \"{}\"", applicant.user);
            return Err(Error::new(Kind::InvalidAuthorization, text).hint("auth_type is \"reject\".").into());
        }
        AuthType::Hba => by_rules(context, &config, applicant).await?,
    };
    meet(context, connection, &config, applicant, demand).await
}

/// What the first rule that matches demands.
async fn by_rules(
    context: &Rc<Context>,
    config: &Config,
    applicant: &Applicant<'_>,
) -> Result<Demand, Refusal> {
    // Without rules nothing matches.
    let none = Hba::default();
    let rules = config.hba.as_deref().unwrap_or(&none);
    let request = Request {
        transport: &applicant.transport,
        database: match applicant.replication {
            Some(Replication::Physical) => Wanted::PhysicalReplication,
            Some(Replication::Logical) | None => Wanted::Database(applicant.database),
        },
        user: applicant.user,
    };
    let mut facts = Facts::default();
    loop {
        match hba::decide(rules, &request, &facts) {
            Outcome::Rule(rule) => {
                tracing::debug!(
                    user = applicant.user,
                    database = applicant.database,
                    rule = rule.place,
                    "rule found"
                );
                let (method, client_certificate) = (rule.method.clone(), rule.client_certificate);
                return Ok(Demand { method, client_certificate, facts });
            }
            Outcome::NoRule => return Err(turned_away(NO_ENTRY, applicant).into()),
            Outcome::WantsAddresses(name) => {
                let addresses = context.process.host_names.addresses(name).await;
                facts.addresses.insert(name.to_owned(), addresses);
            }
            Outcome::WantsGroups => facts.groups = groups(context, applicant).await?,
            Outcome::WantsInterfaces => {
                facts.interfaces = match surroundings::interfaces() {
                    Ok(interfaces) => Interfaces::Known(interfaces),
                    Err(error) => {
                        tracing::warn!(%error, "this machine's addresses are unknown: samehost and samenet let nobody in");
                        Interfaces::Unknown
                    }
                };
            }
        }
    }
}

/// PostgreSQL's words for a client without a rule: those for a database, those for physical replication.
const NO_ENTRY: [&str; 2] =
    ["no pg_hba.conf entry for", "no pg_hba.conf entry for replication connection from"];
/// The same for one whose rule rejects it.
const REJECTED: [&str; 2] =
    ["pg_hba.conf rejects connection for", "pg_hba.conf rejects replication connection for"];

fn turned_away([database, replication]: [&str; 2], applicant: &Applicant<'_>) -> Error {
    let (host, user) = (&applicant.transport, applicant.user);
    let encryption = host.encryption();
    let text = if applicant.replication == Some(Replication::Physical) {
        format!("{replication} host \"{host}\", user \"{user}\", {encryption}")
    } else {
        let name = applicant.database;
        format!("{database} host \"{host}\", user \"{user}\", database \"{name}\", {encryption}")
    };
    Error::new(Kind::InvalidAuthorization, text)
}

/// Goes through what is demanded.
async fn meet(
    context: &Rc<Context>,
    connection: &mut Connection,
    config: &Config,
    applicant: &Applicant<'_>,
    mut demand: Demand,
) -> Result<(), Refusal> {
    check_certificate(demand.client_certificate, applicant)?;
    let name = applicant.user;
    match &demand.method {
        Method::Trust => match known(context, applicant).await?.is_somebody {
            true => Ok(()),
            false => Err(wrong_password(name).into()),
        },
        Method::Reject => Err(turned_away(REJECTED, applicant).into()),
        Method::ScramSha256 | Method::Md5 | Method::Password => {
            let known = known(context, applicant).await?;
            let secret = known.secret.as_ref();
            let outcome = match &demand.method {
                Method::Password => exchanges::password(context, connection, name, secret).await,
                Method::Md5 => exchanges::md5_or_scram(context, connection, name, secret).await,
                _ => exchanges::scram(context, connection, name, secret).await,
            };
            match (&outcome, &known.source) {
                (Err(Refusal::Error(_)), Some(source)) => context.process.directory.doubt(source, name),
                (Ok(()), Some(_)) => learn(context, config, applicant, secret),
                _ => {}
            }
            outcome
        }
        Method::Peer { map } => {
            let failed = || format!("Peer authentication failed for user \"{name}\"");
            let uid = connection.peer_uid();
            let system = match uid {
                Some(uid) => surroundings::os_user(uid).await,
                None => None,
            };
            let Some(system) = system else {
                tracing::warn!(uid, "this operating system's user has no name, so peer authentication fails");
                return Err(Error::new(Kind::InvalidAuthorization, failed()).into());
            };
            let map = map.clone();
            vouched(context, config, applicant, &mut demand.facts, map.as_deref(), &system, failed).await
        }
        Method::Certificate { map, name: which } => {
            let failed = || format!("certificate authentication failed for user \"{name}\"");
            let certificate = certificate(applicant)?;
            let Some(system) = named(certificate, *which) else {
                tracing::warn!("a client's certificate has no common name, so it is nobody's");
                return Err(Error::new(Kind::InvalidAuthorization, failed()).into());
            };
            let map = map.clone();
            vouched(context, config, applicant, &mut demand.facts, map.as_deref(), system, failed).await
        }
        Method::Ldap(ldap) => {
            let (ldap, identities) = (ldap.clone(), &context.process.identities);
            let check = async |password: &Password| identities.ldap(&ldap, name, password).await;
            let password = exchanges::password_of_others(connection, name, "LDAP", check).await?;
            learn(context, config, applicant, Some(&Secret::Plain(password)));
            Ok(())
        }
        Method::Pam { service } => {
            let (host, identities) = (applicant.transport.to_string(), &context.process.identities);
            let check = async |password: &Password| identities.pam(service, name, password, host).await;
            let password = exchanges::password_of_others(connection, name, "PAM", check).await?;
            learn(context, config, applicant, Some(&Secret::Plain(password)));
            Ok(())
        }
        Method::OAuth(oauth) => {
            let oauth = oauth.clone();
            bearer::prove(context, connection, config, applicant, &oauth, &mut demand.facts).await
        }
    }
}

/// Keeps the secret of a user that is in no file: it logs in to servers in the user's name.
fn learn(context: &Context, config: &Config, applicant: &Applicant<'_>, secret: Option<&Secret>) {
    let (Some(database), Some(secret @ (Secret::Plain(_) | Secret::Md5(_)))) =
        (config.database(applicant.database), secret)
    else {
        return;
    };
    let user = applicant.user.to_owned();
    let witness = routing::witness(config, applicant.database, applicant.user);
    let place = Place { witness, hosts: database.hosts.clone(), port: database.port, user };
    if context.process.keys.learnt.keep_secret(place, secret) {
        context.shards.registry.retry_connects(applicant.user);
    }
}

/// Whether the name `system`, which is proven, may be the user.
pub(super) async fn vouched(
    context: &Rc<Context>,
    config: &Config,
    applicant: &Applicant<'_>,
    facts: &mut Facts,
    map: Option<&str>,
    system: &str,
    failed: impl Fn() -> String,
) -> Result<(), Refusal> {
    let none = Hba::default();
    let rules = config.hba.as_deref().unwrap_or(&none);
    loop {
        match hba::is_mapped(rules, map, system, applicant.user, &facts.groups) {
            Ok(true) => return Ok(()),
            Err(Outcome::WantsGroups) if facts.groups == Groups::NotAsked => {
                facts.groups = groups(context, applicant).await?;
            }
            Ok(false) | Err(_) => {
                tracing::warn!(map, system, user = applicant.user, "this name may not be this user");
                return Err(Error::new(Kind::InvalidAuthorization, failed()).into());
            }
        }
    }
}

/// What a rule asks of the certificate besides its method.
fn check_certificate(demanded: ClientCertificate, applicant: &Applicant<'_>) -> Result<(), Error> {
    let which = match demanded {
        ClientCertificate::NotAsked => return Ok(()),
        ClientCertificate::VerifyCa => return certificate(applicant).map(drop),
        ClientCertificate::VerifyFull(which) => which,
    };
    if named(certificate(applicant)?, which) == Some(applicant.user) {
        return Ok(());
    }
    let text = format!("certificate authentication failed for user \"{}\"", applicant.user);
    Err(Error::new(Kind::InvalidAuthorization, text))
}

fn certificate<'a>(applicant: &'a Applicant<'_>) -> Result<&'a Certificate, Error> {
    let shown = applicant.transport.tls().and_then(|tls| tls.certificate.as_ref());
    shown.ok_or_else(|| {
        Error::new(Kind::InvalidAuthorization, "connection requires a valid client certificate")
    })
}

fn named(certificate: &Certificate, which: CertificateName) -> Option<&str> {
    match which {
        CertificateName::Cn => certificate.common_name.as_deref(),
        CertificateName::Dn => Some(&certificate.distinguished_name),
    }
}

/// What is known of a user.
struct Known {
    secret: Option<Secret>,
    /// Where it was looked up, if it was.
    source: Option<Arc<Source>>,
    is_somebody: bool,
}

/// What the configuration knows of the user, else what `auth_query` finds.
async fn known(context: &Rc<Context>, applicant: &Applicant<'_>) -> Result<Known, Refusal> {
    let config = context.config();
    let user = config.user(applicant.user);
    let secret = user.as_ref().and_then(|user| user.secret.clone());
    let known = Known { secret, source: None, is_somebody: user.is_some() };
    if known.secret.is_some() {
        return Ok(known);
    }
    let Some(source) = routing::user_source(&config, applicant.database) else { return Ok(known) };
    match look_up(context, &source, applicant).await? {
        Some(found) => Ok(Known { secret: found.secret.clone(), source: Some(source), is_somebody: true }),
        None => Ok(Known { source: Some(source), ..known }),
    }
}

/// The roles that the user is a member of.
async fn groups(context: &Rc<Context>, applicant: &Applicant<'_>) -> Result<Groups, Refusal> {
    let config = context.config();
    let Some(source) = routing::user_source(&config, applicant.database) else { return Ok(Groups::Unknown) };
    let found = look_up(context, &source, applicant).await?;
    let groups = found.and_then(|found| found.groups.clone());
    Ok(groups.map_or(Groups::Unknown, Groups::Known))
}

async fn look_up(
    context: &Rc<Context>,
    source: &Arc<Source>,
    applicant: &Applicant<'_>,
) -> Result<Option<Arc<Found>>, Refusal> {
    match context.process.directory.look_up(source, applicant.user).await {
        Ok(found) => Ok(found),
        // Who asks for it has not proved who it is: to them, it is as good as any.
        Err(LookupError::NoDatabase) => Ok(None),
        Err(LookupError::Failed(_)) => {
            let text = "cannot look up users: auth_query failed";
            Err(Error::new(Kind::CannotConnect, text).hint("The log of pgvalet says why.").into())
        }
    }
}

fn in_the_clear() -> Error {
    Error::new(Kind::InvalidAuthorization, "passwords are not taken over an unencrypted connection").hint(
        "Connect over TLS or the Unix socket. (A line such as \"host ... password\" in auth_hba_file takes them.)",
    )
}

fn not_local() -> Error {
    Error::new(Kind::InvalidAuthorization, "peer authentication works over the Unix socket only")
        .hint("Connect through the directory in unix_socket_dir.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::transport::Tls;

    fn applicant(certificate: Option<Certificate>) -> Applicant<'static> {
        let tls = Some(Tls { certificate });
        let transport = Transport::Tcp { address: [127, 0, 0, 1].into(), tls };
        Applicant { user: "alice", database: "app", replication: None, transport }
    }

    fn of(common_name: &str) -> Option<Certificate> {
        let distinguished_name = format!("CN={common_name},O=x");
        Some(Certificate { common_name: Some(common_name.into()), distinguished_name })
    }

    #[test]
    fn a_rule_can_ask_for_a_certificate_and_for_its_name() {
        let checked = |demanded, certificate| check_certificate(demanded, &applicant(certificate)).is_ok();
        let full = ClientCertificate::VerifyFull(CertificateName::Cn);
        for (demanded, without, others, own) in [
            (ClientCertificate::NotAsked, true, true, true),
            (ClientCertificate::VerifyCa, false, true, true),
            (full, false, false, true),
            (ClientCertificate::VerifyFull(CertificateName::Dn), false, false, false),
        ] {
            let found =
                (checked(demanded, None), checked(demanded, of("bob")), checked(demanded, of("alice")));
            assert_eq!(found, (without, others, own), "{demanded:?}");
        }
        let unnamed = Some(Certificate { common_name: None, distinguished_name: "O=x".into() });
        assert!(!checked(full, unnamed));
    }

    #[test]
    fn who_is_turned_away_is_told_so_in_postgresqls_words() {
        let told = |verdict, applicant: &Applicant<'_>| turned_away(verdict, applicant).message;
        let mut applicant = applicant(None);
        assert_eq!(
            told(NO_ENTRY, &applicant),
            "no pg_hba.conf entry for host \"127.0.0.1\", user \"alice\", database \"app\", SSL encryption"
        );
        applicant.transport = Transport::Unix;
        assert_eq!(
            told(REJECTED, &applicant),
            "pg_hba.conf rejects connection for host \"[local]\", user \"alice\", database \"app\", no encryption"
        );
        applicant.replication = Some(Replication::Physical);
        assert_eq!(
            told(REJECTED, &applicant),
            "pg_hba.conf rejects replication connection for host \"[local]\", user \"alice\", no encryption"
        );
    }
}
