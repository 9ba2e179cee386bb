//! The life of a client's connection: its first packets, its login, its session, its end.

use crate::alarm::timeout;
use crate::client::authentication::{Applicant, authenticate};
use crate::client::cell::{Activity, ClientCell, Origin};
use crate::client::census::Counted as Enrolled;
use crate::client::connection::Connection;
use crate::client::context::Context;
use crate::client::door::{Place, Ticket};
use crate::client::encryption::first_packets;
use crate::client::greeting::{notice, startup_settings};
use crate::client::outgoing::Outgoing;
use crate::client::reading::Certainty;
use crate::client::relay::{Body, End, Relay};
use crate::client::sql_names::SqlNames;
use crate::config::{AuthType, Config};
use crate::error::{Error, Kind};
use crate::moment::Moment;
use crate::net::stream::Address;
use crate::net::{Buffer, Stream};
use crate::pool::{CheckoutError, Lease, Seat, Shard};
use crate::protocol::startup::{NEWEST_MINOR, Replication, Startup};
use crate::protocol::{TxStatus, backend};
use crate::routing::{self, ADMIN_DATABASES};
use crate::server::ServerError;
use crate::session::footprint::ResetPlan;
use crate::session::{Footprint, Reported, Settings, Statements};
use bytes::BytesMut;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Why a connection ended before it became a session.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Nothing is left to say.
    Done,
    /// The connection failed, or the client closed it.
    Io(io::Error),
    /// TLS failed, in which case nothing more can be said.
    Tls(io::Error),
    /// The client is told this.
    Error(Error),
}

impl Refusal {
    /// Whether the client's address has to answer for it: not for what is wrong here or with a server.
    fn is_the_clients_fault(&self) -> bool {
        match self {
            Refusal::Done => false,
            Refusal::Io(_) | Refusal::Tls(_) => true,
            Refusal::Error(error) => matches!(
                error.kind,
                Kind::ProtocolViolation
                    | Kind::Unsupported
                    | Kind::InvalidValue
                    | Kind::InvalidPassword
                    | Kind::InvalidAuthorization
                    | Kind::LoginTimeout
            ),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Io(error)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Error(error)
    }
}

/// Serves one connection from its first byte to its last.
pub async fn serve(context: Rc<Context>, stream: Stream, peer: Address, ticket: Box<Ticket>) {
    let mut counted = Counted { context: context.clone(), place: None };
    // Boxed: the login needs much room for a short time, an idle client should not.
    let opened = Box::pin(open(&context, stream, &peer, ticket, &mut counted.place)).await;
    if let Some((slot, relay)) = opened {
        live(&context, slot, relay, &peer).await;
    }
}

/// A session from here to its end.
pub(super) async fn live(context: &Rc<Context>, slot: usize, mut relay: Box<Relay>, peer: &Address) {
    let _registered = Registered { context: context.clone(), slot };
    // A task has one waker all its life.
    poll_fn(|cx| {
        relay.cell.listen(cx);
        Poll::Ready(())
    })
    .await;
    // The relay bounds its turns itself.
    let end = tokio::task::unconstrained(poll_fn(|cx| relay.poll(cx))).await;
    if matches!(end, End::Moved) {
        match relay.emigrate() {
            Ok(migrant) => context.send_off(migrant),
            Err(error) => log_end(context, &relay.cell, peer, &End::Io(error)),
        }
        return;
    }
    relay.finish(&end);
    log_end(context, &relay.cell, peer, &end);
}

/// Counts the client out when it has gone; the acceptor counted it in.
pub(super) struct Counted {
    pub(super) context: Rc<Context>,
    /// Among those who have logged in.
    pub(super) place: Option<Place>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.context.release_client();
    }
}

/// A client in its worker's list.
pub(super) struct Registered {
    pub(super) context: Rc<Context>,
    pub(super) slot: usize,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.context.deregister(self.slot);
    }
}

fn log_end(context: &Context, cell: &ClientCell, peer: &Address, end: &End) {
    if !context.config.borrow().general.log.disconnections {
        return;
    }
    let (database, user) = (&*cell.database, &*cell.user);
    match end {
        End::Terminated => {
            tracing::info!(%peer, database, user, reason = "client said goodbye", "client left")
        }
        End::Closed => {
            tracing::info!(%peer, database, user, reason = "client closed the connection", "client left")
        }
        End::Io(error) => tracing::info!(%peer, database, user, reason = %error, "client left"),
        End::Moved => {}
        End::Fatal(error) => tracing::warn!(%peer, database, user, reason = %error, "client ended"),
    }
}

/// From the first byte to a session; `None` when there is to be none.
async fn open(
    context: &Rc<Context>,
    stream: Stream,
    peer: &Address,
    mut ticket: Box<Ticket>,
    place: &mut Option<Place>,
) -> Option<(usize, Box<Relay>)> {
    let limit = context.config.borrow().general.client_login_timeout.unwrap_or(Duration::MAX);
    let mut connection = Connection::new(context.clone(), stream);
    let evicted = ticket.evicted();
    let outcome = {
        // In place: it is large, and every move of it is a copy.
        let login = pin!(log_in(context, &mut connection, peer, &mut ticket, place));
        tokio::select! {
            biased;
            outcome = timeout(limit, context.turns.take(login)) => outcome.unwrap_or_else(|_| {
                Err(Error::new(Kind::LoginTimeout, "client_login_timeout: the login took too long").into())
            }),
            () = evicted => Err(sent_away(context).into()),
        }
    };
    let refusal = match outcome {
        Ok(Login::Session(session)) => return Some(session.into_relay(context, connection, peer)),
        // Outside the time limit: whoever is there has proved who it is.
        Ok(Login::Console(startup)) => {
            let _console = context.process.census.enter_console(startup.user().unwrap_or_default());
            match super::console::serve(context, &mut connection, &startup, peer).await {
                Ok(()) => Refusal::Done,
                Err(refusal) => refusal,
            }
        }
        Err(refusal) => refusal,
    };
    connection.forget();
    if refusal.is_the_clients_fault() {
        ticket.fail();
    }
    match refusal {
        Refusal::Done => None,
        Refusal::Io(error) => {
            tracing::debug!(%peer, %error, "a connection ended before it logged in");
            None
        }
        Refusal::Tls(error) => {
            if context.config.borrow().general.log.pooler_errors {
                tracing::warn!(%peer, reason = %error.to_string().escape_debug(), "TLS failed");
            }
            None
        }
        Refusal::Error(error) => {
            if context.config.borrow().general.log.pooler_errors {
                let (database, user) =
                    connection.asked_for.as_ref().map(|(database, user)| (&**database, &**user)).unzip();
                // Escaped: it may quote what somebody sent who has not proved anything.
                let reason = error.to_string();
                tracing::warn!(%peer, database, user, reason = %reason.escape_debug(), "login refused");
            }
            connection.last_words(&error).await;
            None
        }
    }
}

/// What a login is told that has to make room.
fn sent_away(context: &Context) -> Error {
    if context.process.door.is_closed() {
        return Error::new(Kind::Shutdown, "the pooler is shutting down");
    }
    Error::new(Kind::LoginTimeout, "the login took too long while others wait (max_client_logins)")
        .hint("If there are that many honest logins, raise max_client_logins.")
}

/// What a client is told that has no place.
pub(super) fn too_many_clients() -> Error {
    Error::new(Kind::TooManyClients, "no more connections allowed (max_client_conn)")
        .hint("Raise max_client_conn, or close connections that are not in use.")
}

/// What a login came to.
enum Login {
    Session(Box<Session>),
    /// A user of the admin console.
    Console(Box<Startup>),
}

/// A client that may work.
struct Session {
    startup: Startup,
    shard: Rc<Shard>,
    /// The server of a replication connection.
    lease: Option<Lease>,
    settings: Arc<Settings>,
    reported: Arc<Reported>,
    database: String,
    user: String,
    enrolled: Enrolled,
}

async fn log_in(
    context: &Rc<Context>,
    connection: &mut Connection,
    peer: &Address,
    ticket: &mut Ticket,
    place: &mut Option<Place>,
) -> Result<Login, Refusal> {
    let startup = first_packets(context, connection, peer).await?;
    let config = context.config();
    let user_name =
        startup.user().map_err(|error| Error::new(Kind::InvalidAuthorization, error.to_string()))?.to_owned();
    let database_name = connection.database(&config, &startup);
    connection.asked_for = Some((database_name.clone(), user_name.clone()));
    let is_console = ADMIN_DATABASES.contains(&database_name.as_str());
    // The console is not for clients, and for when there are too many of them.
    if !is_console && context.process.door.is_full() {
        return Err(too_many_clients().into());
    }
    if context.draining.get() {
        return Err(Error::new(Kind::Shutdown, "the pooler is shutting down").into());
    }
    negotiate(connection, &startup);
    let replication = startup.replication().map_err(|error| {
        Error::new(Kind::InvalidValue, error.to_string())
            .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
    })?;
    if is_console && replication.is_some() {
        // It would be judged by the rules for replication, which are not about the console.
        return Err(Error::new(Kind::Unsupported, "the admin console has nothing to replicate").into());
    }
    if super::console::is_owner(connection, &database_name, &user_name) {
        ticket.pass();
        return Ok(Login::Console(Box::new(startup)));
    }
    let applicant = Applicant {
        user: &user_name,
        database: &database_name,
        replication,
        transport: connection.transport(peer),
    };
    authenticate(context, connection, &applicant).await?;
    ticket.pass();
    if is_console {
        return Ok(Login::Console(Box::new(startup)));
    }
    *place = context.process.door.seat();
    if place.is_none() {
        return Err(too_many_clients().into());
    }
    let plan = |config: &Config| match replication {
        Some(Replication::Physical) => routing::route_physical(config, &database_name, &user_name),
        Some(Replication::Logical) | None => routing::route(config, &database_name, &user_name),
    };
    // Physical replication may have come by another name than that of its database.
    let of_pool = match replication {
        Some(Replication::Physical) => plan(&config).map(|blueprint| blueprint.key.database),
        Some(Replication::Logical) | None => None,
    };
    let pool_name = of_pool.as_deref().unwrap_or(&database_name);
    if context.shards.registry.is_disabled(pool_name) {
        let text = format!("database \"{pool_name}\" is disabled");
        return Err(Error::new(Kind::WrongState, text).hint("An administrator can ENABLE it.").into());
    }
    if config.general.auth_type == AuthType::Any
        && config.database(&database_name).is_some_and(|database| database.user.is_none())
    {
        let text = format!("bouncer config error: database \"{database_name}\" has no user");
        return Err(Error::new(Kind::Configuration, text)
            .hint("With auth_type = any nobody proves a name: write the user of the server into [databases].")
            .into());
    }
    let enrolled = context.process.census.enter(&config, &database_name, &user_name)?;
    let unknown = |hint| {
        let text = format!("database \"{database_name}\" does not exist");
        // What PostgreSQL says, for drivers; what pgbouncer says, for whoever looks for that.
        let detail = format!("no such database: {database_name}");
        Refusal::Error(Error::new(Kind::UnknownDatabase, text).detail(detail).hint(hint))
    };
    if replication.is_some() {
        // Boxed: it is large and rare.
        let opened = Box::pin(super::replication::open(context, &startup, plan)).await?;
        let (shard, lease) = opened.ok_or_else(|| {
            unknown("Add a database of this name to pgvalet's configuration: it says which server is meant.")
        })?;
        shard.counters().logins.add(1);
        if config.general.log.connections {
            tracing::info!(%peer, database = database_name, user = user_name, "replication client logged in");
        }
        let (settings, reported) = (lease.in_force.clone(), lease.reported.clone());
        let (database, user, lease) = (database_name, user_name, Some(lease));
        let session = Session { startup, shard, lease, settings, reported, database, user, enrolled };
        return Ok(Login::Session(Box::new(session)));
    }
    let route = || {
        let shard = context.shards.shard_for(&database_name, &user_name, plan);
        shard.ok_or_else(|| unknown("Add it to the [databases] of pgvalet's configuration."))
    };
    let mut shard = route()?;
    let settings = Arc::new(startup_settings(&startup, &config.general, peer)?);
    let (settings, reported) = match shard.accepted(&settings) {
        Some(known) => known,
        None => {
            let limit = routing::limits(&config, &database_name, &user_name).query_wait_timeout;
            // Boxed, as above.
            Box::pin(welcome(&mut shard, route, settings, limit)).await?
        }
    };
    shard.counters().logins.add(1);
    if config.general.log.connections {
        tracing::info!(%peer, database = database_name, user = user_name, "client logged in");
    }
    let (database, user, lease) = (database_name, user_name, None);
    let session = Session { startup, shard, lease, settings, reported, database, user, enrolled };
    Ok(Login::Session(Box::new(session)))
}

/// Says which version is spoken, if it is not just what the client asked for.
fn negotiate(connection: &mut Connection, startup: &Startup) {
    if startup.minor > NEWEST_MINOR || startup.protocol_options().next().is_some() {
        let mut out = BytesMut::new();
        backend::negotiate_protocol_version(
            &mut out,
            startup.minor.min(NEWEST_MINOR),
            startup.protocol_options(),
        );
        connection.hold(&out);
    }
}

/// What servers report under settings that no client had before: a server tries them; if the pool is replaced meanwhile, a
/// server of the new one.
async fn welcome(
    shard: &mut Rc<Shard>,
    route: impl Fn() -> Result<Rc<Shard>, Refusal>,
    settings: Arc<Settings>,
    limit: Option<Duration>,
) -> Result<(Arc<Settings>, Arc<Reported>), Refusal> {
    loop {
        let mut lease = match borrow(shard, limit).await {
            Ok(lease) => lease,
            Err(CheckoutError::Moved) => {
                *shard = route()?;
                continue;
            }
            Err(error) => return Err(Refusal::Error(error.into())),
        };
        if *lease.in_force != *settings {
            let is_new = lease.in_force.is_empty();
            let sql = lease.in_force.difference(&settings);
            match lease.run(&sql).await {
                Ok(_) => lease.in_force = settings.clone(),
                Err(error @ ServerError::Refused(_)) if is_new => {
                    lease.checkin(ResetPlan::Nothing, Moment::now());
                    return Err(Refusal::Error(error.into()));
                }
                // It may be the settings of another client that cannot be undone: the lease, and so the server, ends
                // here, and the next one has fewer of them.
                Err(ServerError::Refused(_)) => continue,
                Err(error) => return Err(Refusal::Error(error.into())),
            }
        }
        let reported = lease.reported.clone();
        shard.accept(&settings, &reported);
        lease.checkin(ResetPlan::Nothing, Moment::now());
        return Ok((settings, reported));
    }
}

/// Gets a server for a moment, in order of arrival like everybody.
async fn borrow(shard: &Rc<Shard>, limit: Option<Duration>) -> Result<Lease, CheckoutError> {
    /// Leaves the line if the login is given up.
    struct Place(Rc<Shard>, Rc<Seat>);
    impl Drop for Place {
        fn drop(&mut self) {
            self.0.give_up(&self.1, Moment::now());
        }
    }
    let place = Place(shard.clone(), Rc::default());
    poll_fn(|cx| shard.checkout(cx, &place.1, Moment::now(), limit)).await
}

impl Session {
    /// Registers the client and puts the welcome on its way.
    fn into_relay(
        self,
        context: &Rc<Context>,
        connection: Connection,
        peer: &Address,
    ) -> (usize, Box<Relay>) {
        let origin = Origin::of(&connection.stream, &self.startup, peer);
        let Connection { stream, buffer: from_client, held, .. } = connection;
        let limits = context.limits(&self.database, &self.user);
        let (slot, cell) = context.register(self.startup.minor, |key| {
            ClientCell::new(&self.database, &self.user, key, limits, origin)
        });
        self.enrolled.hand_over();
        cell.set_activity(Activity::Idle, Moment::now());
        let mut relay =
            session(context, cell, stream, self.shard, self.lease, from_client, self.settings, self.reported);
        relay.greet(&held);
        (slot, relay)
    }
}

/// A session in which nothing has happened yet.
#[expect(clippy::too_many_arguments, reason = "each is a part of the session, and no two belong together")]
pub(super) fn session(
    context: &Rc<Context>,
    cell: Rc<ClientCell>,
    stream: Stream,
    shard: Rc<Shard>,
    lease: Option<Lease>,
    from_client: Buffer,
    settings: Arc<Settings>,
    reported: Arc<Reported>,
) -> Box<Relay> {
    let mut relay = Box::new(Relay {
        context: context.clone(),
        stream,
        shard: shard.into(),
        is_dedicated: lease.is_some(),
        lease,
        from_client,
        to_server: Outgoing::default(),
        request: Body::None,
        from_server: Buffer::default(),
        to_client: Outgoing::default(),
        reply: Body::None,
        statements: Statements::default(),
        startup: settings.clone(),
        settings,
        startup_reported: reported.clone(),
        resetting: None,
        bound_resets: None,
        reading: None,
        told: reported,
        footprint: Footprint::NOTHING,
        left: Footprint::NOTHING,
        survey: None,
        is_surveyed: false,
        is_unused: false,
        custom: Vec::new(),
        pinned: None,
        listening: None,
        is_holding: false,
        asks_currval: false,
        confirming: None,
        unnamed_here: false,
        certainty: Certainty::None,
        undone_names: Vec::new(),
        sql_names: SqlNames::default(),
        in_force: None,
        spoiled: false,
        discarding: false,
        asked_for_replies: false,
        skip_to_sync: false,
        leaving: context.leaving(),
        lost: None,
        client_dry: false,
        server_dry: false,
        full_reads: (0, 0),
        cell,
    });
    relay.note_reading(TxStatus::Idle);
    relay
}

/// Tells a client that was taken over that its database is no more.
pub(super) async fn say_gone(mut stream: Stream, database: &str) {
    let text = format!("database \"{database}\" was removed from the configuration");
    let mut out = BytesMut::new();
    Error::new(Kind::UnknownDatabase, text).write(&mut out, "FATAL");
    let _ = timeout(Duration::from_secs(1), stream.write_all(&out)).await;
}

impl Relay {
    /// AuthenticationOk and all that follows it up to the first ReadyForQuery, behind what was held back.
    fn greet(&mut self, held: &[u8]) {
        let told = self.told.clone();
        let out = self.to_client.insert(&mut self.from_server);
        out.extend_from_slice(held);
        backend::authentication(out, 0, &[]);
        for (name, value) in told.iter() {
            backend::parameter_status_of(out, name, value);
        }
        backend::backend_key_data(out, self.cell.key.pid, &self.cell.key.secret);
        if let Some(text) = &self.context.config.borrow().general.login_notify_message {
            notice(out, text);
        }
        backend::ready_for_query(out, TxStatus::Idle);
    }
}
