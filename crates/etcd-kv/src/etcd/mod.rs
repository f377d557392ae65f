//! etcd v3 over gRPC: endpoints, one connection at a time, deadlines, failover.

mod config;
mod convert;
mod grpc;
mod proto;
mod tls;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::error::KvError;
use crate::kv::{BoxFuture, Kv, Watch};
use crate::model::{
    Lease, LeaseInfo, Member, Range, RangeReply, ServerStatus, Txn, TxnReply, WatchRequest,
};
use grpc::{CallError, Channel};

pub use config::{Credentials, Endpoint, EtcdConfig};
pub use tls::{Tls, TlsError, TlsFiles};

/// Metadata by which etcd refuses a call, or ends a stream, on a member without a leader.
const REQUIRE_LEADER: &str = "hasleader";

/// A client of an etcd v3 cluster. Cloning is cheap and shares the connection.
#[derive(Debug, Clone)]
pub struct EtcdKv {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: EtcdConfig,
    connection: Mutex<State>,
}

/// The connection in use, if any.
#[derive(Debug, Default)]
struct State {
    current: Option<Connection>,
    /// Which endpoint to try next.
    next: usize,
    /// Counts connections, so that only the one that failed is thrown away.
    generation: u64,
}

#[derive(Debug, Clone)]
struct Connection {
    channel: Channel,
    generation: u64,
    /// Metadata of every call: the token, where credentials are set.
    metadata: Vec<(&'static str, String)>,
}

/// What a call needs and whether it may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Any server can answer; may be sent again.
    Local,
    /// Needs a leader; may be sent again.
    Read,
    /// Needs a leader; never sent again once it may have reached a server.
    Write,
}

impl EtcdKv {
    /// A client; connects when first used.
    #[must_use]
    pub fn new(config: EtcdConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                connection: Mutex::default(),
            }),
        }
    }

    /// Asks the server in use how it is. For the state of each member, make a client for each.
    pub async fn status(&self) -> Result<ServerStatus, KvError> {
        let a: proto::StatusResponse = self
            .call(
                "status",
                "Maintenance/Status",
                &proto::Empty {},
                Kind::Local,
            )
            .await?;
        Ok(ServerStatus {
            member: a.header.map_or(0, |h| h.member_id),
            leader: a.leader,
            version: a.version,
            db_size: a.db_size,
            raft_term: a.raft_term,
            raft_index: a.raft_index,
        })
    }

    /// Calls a method on the first endpoint that takes it.
    async fn call<Q: Message, A: Message + Default>(
        &self,
        what: &'static str,
        method: &str,
        request: &Q,
        kind: Kind,
    ) -> Result<A, KvError> {
        let timeout = self.inner.config.request_timeout;
        let deadline = Instant::now() + timeout;
        let path = format!("/etcdserverpb.{method}");
        let mut failure = Failure::new(what, timeout);
        for attempt in 0..self.inner.config.endpoints.len() * 2 {
            // Leaves time for the other endpoints, in case this one hangs.
            let now = Instant::now();
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                break;
            }
            let others = self
                .inner
                .config
                .endpoints
                .len()
                .saturating_sub(attempt)
                .max(1);
            let share = now + left / u32::try_from(others).unwrap_or(1);
            let connection = match timeout_at(share, self.connection()).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error @ KvError::Denied { .. })) => return Err(error),
                Ok(Err(KvError::Unavailable { reason, .. })) => {
                    failure.note(reason, false);
                    continue;
                }
                Ok(Err(error)) => {
                    failure.note(error.to_string(), false);
                    continue;
                }
                // The endpoint index has moved on already.
                Err(_) => continue,
            };
            let until = if kind == Kind::Write { deadline } else { share };
            let mut metadata = connection.metadata.clone();
            if kind != Kind::Local {
                // Fail at once, and elsewhere, rather than wait for an election.
                metadata.push((REQUIRE_LEADER, "true".to_owned()));
            }
            let call = connection.channel.unary(&path, request, &metadata);
            let sent = match timeout_at(until, call).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => self.judge(&connection, error, &mut failure).await?,
                Err(_) => {
                    // The server hangs, or is out of reach: then watches move on too.
                    self.drop_connection(connection.generation).await;
                    tokio::spawn(connection.channel.clone().hang_up_if_dead());
                    failure.sent = true;
                    true
                }
            };
            if sent && kind == Kind::Write {
                break;
            }
        }
        Err(failure.into_error(&self.inner.config))
    }

    /// Decides about a failed call: an error is final, `Ok(sent)` allows another endpoint.
    async fn judge(
        &self,
        connection: &Connection,
        error: CallError,
        failure: &mut Failure,
    ) -> Result<bool, KvError> {
        match error {
            CallError::Transport { reason, sent } => {
                self.drop_connection(connection.generation).await;
                failure.note(reason, sent);
                Ok(sent)
            }
            CallError::Status { code: 14, message } => {
                self.drop_connection(connection.generation).await;
                // Without a leader the proposal was refused; everything else leaves it open.
                let sent = !message.contains("no leader");
                failure.note(message, sent);
                Ok(sent)
            }
            CallError::Status { code, message }
                if self.inner.config.credentials.is_some() && outdated_token(code, &message) =>
            {
                // Such a request was not carried out; a new connection gets a new token.
                self.drop_connection(connection.generation).await;
                failure.note(message, false);
                Ok(false)
            }
            CallError::Status { code, message } => {
                Err(convert::status_error(failure.what, code, message))
            }
            CallError::Malformed(reason) => {
                self.drop_connection(connection.generation).await;
                Err(KvError::Malformed {
                    what: failure.what,
                    reason,
                })
            }
        }
    }

    /// The connection in use, or a new one to the next endpoint.
    async fn connection(&self) -> Result<Connection, KvError> {
        let mut state = self.inner.connection.lock().await;
        if let Some(connection) = &state.current {
            return Ok(connection.clone());
        }
        let config = &self.inner.config;
        let endpoint = &config.endpoints[state.next % config.endpoints.len()];
        // Moves on before the first await, so that a caller whose time is up has moved on too.
        state.next = (state.next + 1) % config.endpoints.len();
        let unavailable = |reason: String| KvError::Unavailable {
            what: "connect",
            endpoints: endpoint.to_string(),
            reason,
            sent: false,
        };
        let channel = open(endpoint, config.tls.as_ref())
            .await
            .map_err(unavailable)?;
        // The first failing endpoint of a member list should be tried again in its turn.
        state.generation += 1;
        let mut connection = Connection {
            channel,
            generation: state.generation,
            metadata: Vec::new(),
        };
        if let Some(credentials) = &config.credentials {
            let token = authenticate(&connection.channel, credentials).await?;
            connection
                .metadata
                .extend(token.map(|token| ("token", token)));
        }
        tracing::debug!(%endpoint, "connected to etcd");
        state.current = Some(connection.clone());
        Ok(connection)
    }

    /// Forgets the connection, unless it has been replaced already.
    async fn drop_connection(&self, generation: u64) {
        let mut state = self.inner.connection.lock().await;
        if state
            .current
            .as_ref()
            .is_some_and(|c| c.generation == generation)
        {
            state.current = None;
        }
    }

    /// Which connection is in use, or was last.
    async fn generation(&self) -> u64 {
        self.inner.connection.lock().await.generation
    }

    fn endpoint_list(&self) -> String {
        list(&self.inner.config.endpoints)
    }
}

fn list(endpoints: &[Endpoint]) -> String {
    endpoints
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Whether a status means that the token we sent is not, or no longer, good: it has expired, the
/// server has restarted, users have changed, or authentication was turned on after we connected.
fn outdated_token(code: u32, message: &str) -> bool {
    match code {
        16 => message.contains("invalid auth token"),
        3 => {
            message.contains("revision of auth store is old")
                || message.contains("user name is empty")
        }
        _ => false,
    }
}

/// Connects and lets the kernel find out about dead peers: it alone sees an idle connection.
async fn open(endpoint: &Endpoint, tls: Option<&Tls>) -> Result<Channel, String> {
    use rustix::net::sockopt;

    let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(|e| e.to_string())?;
    let options = || -> rustix::io::Result<()> {
        sockopt::set_tcp_nodelay(&tcp, true)?;
        sockopt::set_socket_keepalive(&tcp, true)?;
        sockopt::set_tcp_keepidle(&tcp, Duration::from_secs(10))?;
        sockopt::set_tcp_keepintvl(&tcp, Duration::from_secs(5))?;
        sockopt::set_tcp_keepcnt(&tcp, 3)?;
        sockopt::set_tcp_user_timeout(&tcp, 20_000)
    };
    options().map_err(|e| e.to_string())?;
    let (scheme, authority) = (endpoint.scheme(), endpoint.authority());
    if !endpoint.tls {
        let opened = Channel::open(tcp, scheme, authority).await;
        return opened.map_err(|e| e.to_string());
    }
    let tls = match tls {
        Some(tls) => tls.clone(),
        None => {
            Tls::load(&TlsFiles::default()).map_err(|e| match std::error::Error::source(&e) {
                Some(cause) => format!("{e}: {cause}"),
                None => e.to_string(),
            })?
        }
    };
    let stream = tls.connect(&endpoint.host, tcp).await?;
    let opened = Channel::open(stream, scheme, authority).await;
    opened.map_err(|e| tls.explain_hang_up(&e.to_string()))
}

/// The token of this user, or none where the cluster does not ask who we are.
async fn authenticate(
    channel: &Channel,
    credentials: &Credentials,
) -> Result<Option<String>, KvError> {
    let request = proto::AuthenticateRequest {
        name: credentials.user.clone(),
        password: credentials.password.clone(),
    };
    let answer: Result<proto::AuthenticateResponse, _> = channel
        .unary("/etcdserverpb.Auth/Authenticate", &request, &[])
        .await;
    match answer {
        Ok(answer) => Ok(Some(answer.token)),
        Err(CallError::Status { code: 9, message }) if message.contains("not enabled") => Ok(None),
        Err(CallError::Status {
            code: 3 | 7 | 9 | 16,
            message,
        }) => Err(KvError::Denied {
            what: "authenticate",
            message,
        }),
        Err(error) => Err(KvError::Unavailable {
            what: "authenticate",
            endpoints: channel.authority().to_owned(),
            reason: error.to_string(),
            sent: false,
        }),
    }
}

/// What is known about a call that did not succeed yet.
#[derive(Debug)]
struct Failure {
    what: &'static str,
    timeout: Duration,
    reason: Option<String>,
    sent: bool,
}

impl Failure {
    fn new(what: &'static str, timeout: Duration) -> Self {
        Self {
            what,
            timeout,
            reason: None,
            sent: false,
        }
    }

    fn note(&mut self, reason: String, sent: bool) {
        self.reason = Some(reason);
        self.sent |= sent;
    }

    fn into_error(self, config: &EtcdConfig) -> KvError {
        match self.reason {
            Some(reason) => KvError::Unavailable {
                what: self.what,
                endpoints: list(&config.endpoints),
                reason,
                sent: self.sent,
            },
            None => KvError::Timeout {
                what: self.what,
                after: self.timeout,
                sent: self.sent,
            },
        }
    }
}

impl Kv for EtcdKv {
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply, KvError>> {
        Box::pin(async move {
            let request = convert::range_request(&range);
            let kind = if range.serializable {
                Kind::Local
            } else {
                Kind::Read
            };
            let answer: proto::RangeResponse =
                self.call("read", "KV/Range", &request, kind).await?;
            Ok(convert::range_reply(answer))
        })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnReply, KvError>> {
        Box::pin(async move {
            let request = convert::txn_request(&txn);
            let answer: proto::TxnResponse =
                self.call("write", "KV/Txn", &request, Kind::Write).await?;
            convert::txn_reply(answer)
        })
    }

    fn compact(&self, revision: i64) -> BoxFuture<'_, Result<(), KvError>> {
        Box::pin(async move {
            let request = proto::CompactionRequest { revision };
            let _: proto::Empty = self
                .call("compact", "KV/Compact", &request, Kind::Write)
                .await?;
            Ok(())
        })
    }

    fn lease_grant(
        &self,
        ttl: Duration,
        id: Option<Lease>,
    ) -> BoxFuture<'_, Result<(Lease, Duration), KvError>> {
        Box::pin(async move {
            let request = proto::LeaseGrantRequest {
                ttl: crate::mem::whole_seconds(ttl),
                id: id.map_or(0, |l| l.0),
            };
            let result: Result<proto::LeaseGrantResponse, _> = self
                .call("grant a lease", "Lease/LeaseGrant", &request, Kind::Write)
                .await;
            match result {
                Ok(a) if a.error.is_empty() => Ok((
                    Lease(a.id),
                    Duration::from_secs(u64::try_from(a.ttl).unwrap_or(0)),
                )),
                Ok(a) => Err(KvError::Rejected {
                    what: "grant a lease",
                    code: 2,
                    message: a.error,
                }),
                Err(e) => Err(convert::lease_error(e, id.unwrap_or(Lease(0)))),
            }
        })
    }

    fn lease_keep_alive(&self, lease: Lease) -> BoxFuture<'_, Result<Duration, KvError>> {
        Box::pin(async move {
            // The method streams in both directions; one question and one answer are a valid use,
            // and unlike a long stream each renewal can fail over and has its own deadline.
            let request = proto::LeaseRequest { id: lease.0 };
            let answer: proto::LeaseKeepAliveResponse = self
                .call(
                    "renew a lease",
                    "Lease/LeaseKeepAlive",
                    &request,
                    Kind::Read,
                )
                .await
                .map_err(|e| convert::lease_error(e, lease))?;
            match u64::try_from(answer.ttl) {
                Ok(ttl) if ttl > 0 => Ok(Duration::from_secs(ttl)),
                _ => Err(KvError::LeaseNotFound { lease }),
            }
        })
    }

    fn lease_revoke(&self, lease: Lease) -> BoxFuture<'_, Result<(), KvError>> {
        Box::pin(async move {
            let request = proto::LeaseRequest { id: lease.0 };
            let _: proto::Empty = self
                .call("revoke a lease", "Lease/LeaseRevoke", &request, Kind::Write)
                .await
                .map_err(|e| convert::lease_error(e, lease))?;
            Ok(())
        })
    }

    fn lease_info(&self, lease: Lease, keys: bool) -> BoxFuture<'_, Result<LeaseInfo, KvError>> {
        Box::pin(async move {
            let request = proto::LeaseTimeToLiveRequest { id: lease.0, keys };
            let a: proto::LeaseTimeToLiveResponse = self
                .call(
                    "look at a lease",
                    "Lease/LeaseTimeToLive",
                    &request,
                    Kind::Read,
                )
                .await
                .map_err(|e| convert::lease_error(e, lease))?;
            if a.ttl < 0 {
                return Err(KvError::LeaseNotFound { lease });
            }
            Ok(LeaseInfo {
                lease,
                ttl: a.ttl,
                granted: a.granted_ttl,
                keys: a.keys,
            })
        })
    }

    fn watch(&self, request: WatchRequest) -> BoxFuture<'_, Result<Watch, KvError>> {
        Box::pin(watch::start(self.clone(), request))
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>, KvError>> {
        Box::pin(async move {
            let answer: proto::MemberListResponse = self
                .call(
                    "list members",
                    "Cluster/MemberList",
                    &proto::Empty {},
                    Kind::Local,
                )
                .await?;
            Ok(answer.members.into_iter().map(convert::member).collect())
        })
    }
}
