use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, StatusCode};
use pingora_core::modules::http::HttpModules;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use proto_core::routing::{Backend, Conflict, RouteMiss, Target};

use super::GatewayConfig;
use super::balance::{Routes, Routing};
use super::under_way::Guard;

/// How often a request is tried, over all instances.
pub(super) const MAX_ATTEMPTS: usize = 8;
/// How long an idle connection to an instance is kept. Instances that close earlier are noticed when they do.
const IDLE: Duration = Duration::from_secs(30);

/// Sends each request where the table says.
#[derive(Debug)]
pub(super) struct Proxy {
    routes: Arc<Routes>,
    connect_timeout: Duration,
    read_timeout: Duration,
}

/// One request.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// Where it goes by the table that was in force when it was last looked up.
    target: Option<(Arc<Routing>, Arc<Target>)>,
    /// Instances that failed it.
    tried: Vec<SocketAddr>,
    /// No pooled connection: one has failed it already, or it must not be sent twice.
    fresh: bool,
    upgrade: bool,
    /// Counts it at the instance that it goes to.
    under_way: Option<Guard>,
}

/// An answer of the gateway's own.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Proxy {
    pub(super) fn new(routes: Arc<Routes>, config: &GatewayConfig) -> Self {
        Self {
            routes,
            connect_timeout: config.connect_timeout.duration(),
            read_timeout: config.read_timeout.duration(),
        }
    }

    /// Where a request goes by the table that is in force now.
    fn route(&self, request: &RequestHeader) -> Result<(Arc<Routing>, Arc<Target>), Refusal> {
        if request.method == Method::CONNECT {
            return Err(Refusal {
                status: StatusCode::METHOD_NOT_ALLOWED,
                code: "METHOD_NOT_ALLOWED",
                message: "the gateway makes no tunnels: it takes no CONNECT".to_owned(),
            });
        }
        if host(request).is_none() {
            return Err(Refusal {
                status: StatusCode::BAD_REQUEST,
                code: "BAD_REQUEST",
                message: "the request names no host".to_owned(),
            });
        }
        let Some(routing) = self.routes.current() else {
            return Err(Refusal {
                status: StatusCode::SERVICE_UNAVAILABLE,
                code: "NOT_READY",
                message: "the gateway has not read the store yet".to_owned(),
            });
        };
        match find(&routing, request) {
            Ok(target) => Ok((routing, target)),
            Err(miss) => Err(Refusal::from(&miss)),
        }
    }
}

/// Where a request goes by this table.
fn find(routing: &Routing, request: &RequestHeader) -> std::result::Result<Arc<Target>, RouteMiss> {
    routing.table.resolve(host(request).unwrap_or_default(), request.uri.path()).cloned()
}

/// Whom the request is for. `None`: it does not say, or not in letters that a name can have.
fn host(request: &RequestHeader) -> Option<&str> {
    let host = request.uri.authority().map(http::uri::Authority::as_str);
    host.or_else(|| request.headers.get(HOST)?.to_str().ok()).filter(|host| !host.is_empty())
}

impl Proxy {
    /// The instance whose turn it is, counted as under way.
    fn choose(&self, request: &RequestHeader, ctx: &mut Context) -> Option<Backend> {
        let (routing, mut target) = ctx.target.clone()?;
        let (mut seen, mut backend) = (Arc::clone(&routing), None);
        let counts = &self.routes.under_way.counts;
        let guard = handover::enter(&self.routes.in_force, counts, routing, |routing| {
            if !Arc::ptr_eq(routing, &seen) {
                // A route that went away while the request came in leads where it led.
                if let Ok(found) = find(routing, request) {
                    (seen, target) = (Arc::clone(routing), found);
                } else if let Some(Backend { address, .. }) = &backend {
                    return Some(*address);
                }
            }
            let next = self.routes.choose(&seen, &target, &ctx.tried)?.clone();
            let address = next.address;
            backend = Some(next);
            Some(address)
        })?;
        ctx.under_way = Some(guard);
        ctx.target = Some((seen, target));
        backend
    }
}

impl From<&RouteMiss> for Refusal {
    fn from(miss: &RouteMiss) -> Self {
        let (status, code) = match miss {
            RouteMiss::NoSuchHost { .. } | RouteMiss::NoSuchPath { .. } => {
                (StatusCode::NOT_FOUND, "ROUTE_NOT_FOUND")
            }
            RouteMiss::NoInstances { .. } => (StatusCode::SERVICE_UNAVAILABLE, "NO_INSTANCES"),
        };
        Self { status, code, message: miss.to_string() }
    }
}

impl Refusal {
    async fn write(&self, session: &mut Session) -> Result<()> {
        let body = serde_json::json!({ "code": self.code, "message": self.message });
        let body = Bytes::from(format!("{body}\n"));
        let mut header = ResponseHeader::build(self.status, Some(3))?;
        header.insert_header(CONTENT_TYPE, "application/json")?;
        header.insert_header(CONTENT_LENGTH, body.len())?;
        header.insert_header("cache-control", "no-store")?;
        let head = session.req_header().method == Method::HEAD;
        session.write_response_header(Box::new(header), head).await?;
        if !head {
            session.write_response_body(Some(body), true).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    /// None: answers go through as they are.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        let request = session.req_header();
        match self.route(request) {
            Ok(found) => {
                ctx.fresh = !request.method.is_idempotent();
                ctx.upgrade = session.is_upgrade_req();
                ctx.target = Some(found);
                Ok(false)
            }
            Err(refusal) => {
                refusal.write(session).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Result<Box<HttpPeer>> {
        if !ctx.tried.is_empty() {
            // The table may have changed since: an instance that is gone has a successor.
            if let Ok(found) = self.route(session.req_header()) {
                ctx.target = Some(found);
            }
        }
        let Some(backend) = self.choose(session.req_header(), ctx) else {
            return Error::e_explain(ErrorType::ConnectError, "every instance was tried");
        };
        let mut peer = HttpPeer::new(backend.address, false, String::new());
        peer.group_key = pool_key(backend.instance.as_str(), ctx.fresh);
        peer.options.connection_timeout = Some(self.connect_timeout);
        peer.options.total_connection_timeout = Some(self.connect_timeout);
        peer.options.read_timeout = (!ctx.upgrade).then_some(self.read_timeout);
        peer.options.idle_timeout = Some(IDLE);
        Ok(Box::new(peer))
    }

    /// Pingora has removed the hop-by-hop headers already.
    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        for name in ["Forwarded", "X-Forwarded-Port", "X-Forwarded-Server", "X-Forwarded-Prefix"] {
            request.remove_header(name);
        }
        let client = session.client_addr().and_then(|address| address.as_inet());
        match client.map(|address| address.ip().to_canonical()) {
            Some(ip) => {
                request.insert_header("X-Forwarded-For", ip.to_string())?;
                request.insert_header("X-Real-IP", ip.to_string())?;
            }
            None => {
                request.remove_header("X-Forwarded-For");
                request.remove_header("X-Real-IP");
            }
        }
        request.insert_header("X-Forwarded-Proto", "http")?;
        match request.headers.get(HOST).cloned() {
            Some(host) => request.insert_header("X-Forwarded-Host", host)?,
            None => {
                request.remove_header("X-Forwarded-Host");
            }
        }
        if ctx.fresh && !ctx.upgrade {
            request.insert_header(CONNECTION, HeaderValue::from_static("close"))?;
        }
        Ok(())
    }

    /// Nothing was sent, so any method may go to another instance.
    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(address) = peer.address().as_inet() {
            self.routes.refused(*address);
            ctx.tried.push(*address);
        }
        error.set_retry(true);
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Context,
        client_reused: bool,
    ) -> Box<Error> {
        let repeatable = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated();
        let unanswered = session.response_written().is_none();
        let broken = *error.esource() == ErrorSource::Upstream
            && matches!(
                error.etype(),
                ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError
            );
        let retry = repeatable && unanswered && broken;
        if retry {
            ctx.fresh = true;
            // A pooled connection that broke says nothing about the instance.
            if !client_reused && let Some(address) = peer.address().as_inet() {
                ctx.tried.push(*address);
            }
        }
        error.set_retry(retry);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        let refusal = refusal(error, ctx);
        let code = refusal.as_ref().map_or(0, |refusal| refusal.status.as_u16());
        if let Some(refusal) = refusal
            && session.response_written().is_none()
            && let Err(error) = refusal.write(session).await
        {
            tracing::debug!(%error, "the client did not wait for the answer");
        }
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, session: &Session, _ctx: &Context, error: &Error) -> bool {
        tracing::warn!(
            method = %session.req_header().method,
            path = session.req_header().uri.path(),
            %error,
            "a request failed"
        );
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Context,
        error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        tracing::debug!(%error, "a request is tried again");
        true
    }
}

/// What the client is told; `None`: the client is gone.
fn refusal(error: &Error, ctx: &Context) -> Option<Refusal> {
    let service = match &ctx.target {
        Some((_, target)) => format!("{}/{}", target.namespace, target.service),
        None => "the service".to_owned(),
    };
    let (status, code, message) = match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ErrorType::WriteError | ErrorType::ReadError)
        | (ErrorSource::Downstream, ErrorType::ConnectionClosed) => return None,
        (ErrorSource::Downstream, _) => {
            (StatusCode::BAD_REQUEST, "BAD_REQUEST", "the request is not well formed".to_owned())
        }
        (_, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => (
            StatusCode::GATEWAY_TIMEOUT,
            "BACKEND_TIMEOUT",
            format!("an instance of {service} did not answer in time"),
        ),
        (
            _,
            ErrorType::ConnectError
            | ErrorType::ConnectRefused
            | ErrorType::ConnectTimedout
            | ErrorType::ConnectNoRoute
            | ErrorType::SocketError
            | ErrorType::BindError,
        ) => (
            StatusCode::BAD_GATEWAY,
            "BACKEND_UNREACHABLE",
            format!("no instance of {service} takes connections; tried: {}", list(&ctx.tried)),
        ),
        _ => (
            StatusCode::BAD_GATEWAY,
            "BACKEND_FAILED",
            format!("an instance of {service} broke off before its answer was complete"),
        ),
    };
    Some(Refusal { status, code, message })
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Connections are pooled by instance, not by address alone: a later instance at the same address gets connections of its
/// own. Connections that are not to be used again have a key that is never looked up for one that is.
fn pool_key(instance: &str, fresh: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    (instance, fresh).hash(&mut hasher);
    hasher.finish()
}

pub(super) fn conflict_text(conflict: &Conflict) -> String {
    let Conflict { host, path_prefix, served, ignored } = conflict;
    format!(
        "{host}{path_prefix} is claimed by {}/{} and {}/{}: the first is served",
        served.0, served.1, ignored.0, ignored.1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_at_one_address_share_no_connections() {
        assert_ne!(pool_key("web-0-aaaa", false), pool_key("web-0-bbbb", false));
        assert_ne!(pool_key("web-0-aaaa", false), pool_key("web-0-aaaa", true));
    }
}
