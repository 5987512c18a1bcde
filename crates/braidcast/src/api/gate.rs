//! Who may use the API: the one place that all its requests go through, before anything of them is looked at.
//!
//! On loopback nothing is asked for unless a token or a user is configured. Then a request must come from this machine, and mean it: a web page
//! that somebody has open here is of another origin, and a name that its owner has pointed at us (DNS rebinding) is no name of ours.

use super::answer::Answer;
use super::failures::Failures;
use crate::config::{ApiUser, Config, Role, Secret};
use crate::control::counters::WorkerCounter;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use braidcast_protocols::http::response::Origins;
use braidcast_protocols::http::{Method, Request, ResponseHead, Status, parameter};
use std::fmt;
use std::net::IpAddr;

/// What a preflight says may be sent.
const METHODS: &str = "GET, HEAD, POST, DELETE, OPTIONS";
const FIELDS: &str = "Authorization, Content-Type, Last-Event-ID, Cache-Control";
/// How long a browser may remember a preflight's answer, seconds.
const PREFLIGHT_S: u32 = 600;
/// What a browser is told to ask its user for.
const REALM: &str = "braidcast";

/// The rules.
#[derive(Debug)]
pub struct Gate {
    token: Secret,
    read_token: Secret,
    users: Vec<ApiUser>,
    open: bool,
    cors: Vec<String>,
    failures: u32,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may go on.
    Admitted,
    /// A browser asks whether it may ask: [`preflight`].
    Preflight,
    /// It is not admitted.
    Refused(Refusal),
}

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It comes from another site's page.
    Origin,
    /// It names a host that is not this machine.
    Host,
    /// It comes from elsewhere, and there is nothing to tell who it is.
    Elsewhere,
    /// It has no credentials.
    Nobody {
        /// Whether there are users with passwords.
        users: bool,
    },
    /// Its credentials are wrong.
    Wrong {
        /// As above.
        users: bool,
    },
    /// Its role may only read.
    ReadOnly,
    /// Its address has failed too often.
    TooMany {
        /// When it is listened to again.
        after_s: u32,
    },
}

impl Gate {
    /// The rules of a configuration.
    pub fn new(config: &Config) -> Self {
        let api = &config.api;
        Self {
            token: api.token.clone(),
            read_token: api.read_token.clone(),
            users: config.api_user.clone(),
            open: api.open,
            cors: api.cors.clone(),
            failures: api.failures,
        }
    }

    /// Whether a request must say who sends it.
    fn demands(&self) -> bool {
        self.token.is_set() || self.read_token.is_set() || !self.users.is_empty()
    }

    /// Decides. `from` is the client's true address; `shape_only`: what is asked for says nothing of this instance. `now_s` is of the monotonic
    /// clock. Failures are counted here.
    pub fn judge(&self, request: &Request, from: IpAddr, shape_only: bool, failures: &Failures, now_s: u64) -> Verdict {
        let from = from.to_canonical();
        if !self.allows_origin(request) {
            return Verdict::Refused(Refusal::Origin);
        }
        if request.method == Method::Options {
            return Verdict::Preflight;
        }
        let judged = match (self.demands(), shape_only) {
            (true, false) => self.credentials(request, from, failures, now_s),
            (true, true) => Ok(Role::Read),
            (false, _) if self.open => Ok(Role::Admin),
            (false, _) if !from.is_loopback() => Err(Refusal::Elsewhere),
            (false, _) if !is_local(request.host.as_deref()) => Err(Refusal::Host),
            (false, _) => Ok(Role::Admin),
        };
        match judged {
            Ok(Role::Admin) => Verdict::Admitted,
            Ok(Role::Read) if !changes(request) => Verdict::Admitted,
            Ok(Role::Read) => Verdict::Refused(Refusal::ReadOnly),
            Err(refusal) => Verdict::Refused(refusal),
        }
    }

    /// Decides about the metrics: who connects on loopback is asked for nothing, all others if there is anything to ask for.
    pub fn judge_metrics(&self, request: &Request, from: IpAddr, on_loopback: bool, failures: &Failures, now_s: u64) -> Verdict {
        if !on_loopback && self.demands() {
            return self.judge(request, from, false, failures, now_s);
        }
        if on_loopback && !is_local(request.host.as_deref()) { Verdict::Refused(Refusal::Host) } else { Verdict::Admitted }
    }

    fn credentials(&self, request: &Request, from: IpAddr, failures: &Failures, now_s: u64) -> Result<Role, Refusal> {
        if let Some(after_s) = failures.held_s(from, self.failures, now_s) {
            return Err(Refusal::TooMany { after_s });
        }
        let users = !self.users.is_empty();
        let Some(given) = &request.authorization else { return Err(Refusal::Nobody { users }) };
        let role = given.split_once(' ').and_then(|(scheme, rest)| match scheme.to_ascii_lowercase().as_str() {
            "bearer" => self.role_of_token(rest.trim()),
            "basic" => self.role_of_user(rest.trim()),
            _ => None,
        });
        role.ok_or_else(|| {
            failures.add(from, now_s);
            Refusal::Wrong { users }
        })
    }

    fn role_of_token(&self, given: &str) -> Option<Role> {
        let (all, read) = (self.token.matches(given), self.read_token.matches(given));
        if all { Some(Role::Admin) } else { read.then_some(Role::Read) }
    }

    fn role_of_user(&self, given: &str) -> Option<Role> {
        let decoded = String::from_utf8(STANDARD.decode(given).ok()?).ok()?;
        let (name, password) = decoded.split_once(':')?;
        // All are compared, so that the time tells nobody which names there are.
        let fits = |user: &ApiUser| user.password.matches(password) & (user.name == name);
        self.users.iter().map(|user| fits(user).then_some(user.role)).fold(None, Option::or)
    }

    fn allows_origin(&self, request: &Request) -> bool {
        match request.field("origin") {
            None => true,
            Some(origin) => self.listed(&origin).is_some() || is_own(&origin, request.host.as_deref()),
        }
    }

    /// The origin, if it is one of those that are configured.
    fn listed(&self, origin: &str) -> Option<String> {
        let all = self.cors.iter().any(|listed| listed == "*");
        let listed = self.cors.iter().find(|listed| listed.eq_ignore_ascii_case(origin)).cloned();
        // Only what was written as an origin is sent back.
        listed.or_else(|| (all && is_origin(origin)).then(|| origin.to_owned()))
    }

    /// Which web pages may read the answer to a request.
    pub fn origins(&self, request: &Request) -> Origins {
        request.field("origin").and_then(|origin| self.listed(&origin)).map_or(Origins::Own, Origins::This)
    }
}

/// Whether a request may change something. SRS's JSONP sends its method in the query.
fn changes(request: &Request) -> bool {
    let in_query = parameter(&request.query, "method").is_some_and(|method| !method.eq_ignore_ascii_case("get"));
    in_query || !matches!(request.method, Method::Get | Method::Head)
}

/// The head that answers a preflight, but for whose pages it is. `allow` are the methods of what is asked about, if that is known.
pub fn preflight(allow: Option<&str>) -> ResponseHead {
    ResponseHead::new(Status::NO_CONTENT)
        .field("Allow", allow.unwrap_or(METHODS))
        .field("Access-Control-Allow-Methods", METHODS)
        .field("Access-Control-Allow-Headers", FIELDS)
        .field("Access-Control-Max-Age", PREFLIGHT_S)
}

/// Whether a text is an origin as browsers write it (RFC 6454 section 6.2).
pub fn is_origin(text: &str) -> bool {
    let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    authority.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b)))
}

/// Whether a page is ours: what terminates TLS before us does not change the host.
fn is_own(origin: &str, host: Option<&str>) -> bool {
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority.zip(host).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host))
}

/// Whether a host is an address, or this machine's name for itself.
fn is_local(host: Option<&str>) -> bool {
    let Some(host) = host else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && !name.is_empty() => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

impl Refusal {
    /// What counts it.
    pub fn counter(self) -> WorkerCounter {
        match self {
            Self::Origin | Self::Host | Self::Elsewhere => WorkerCounter::RefusedApiOrigins,
            Self::Nobody { .. } | Self::Wrong { .. } => WorkerCounter::RefusedApiCredentials,
            Self::ReadOnly => WorkerCounter::RefusedApiRoles,
            Self::TooMany { .. } => WorkerCounter::RefusedApiFailures,
        }
    }

    /// The status.
    pub fn status(self) -> Status {
        match self {
            Self::Origin | Self::Host | Self::Elsewhere | Self::ReadOnly => Status::FORBIDDEN,
            Self::Nobody { .. } | Self::Wrong { .. } => Status::UNAUTHORIZED,
            Self::TooMany { .. } => Status::TOO_MANY_REQUESTS,
        }
    }

    /// The answer, as problem details.
    pub fn answer(self) -> Answer {
        let answer = Answer::problem(self.status(), &self.to_string());
        match self {
            Self::Nobody { users: true } | Self::Wrong { users: true } => {
                answer.field("WWW-Authenticate", format_args!("Basic realm=\"{REALM}\", charset=\"UTF-8\", Bearer realm=\"{REALM}\""))
            }
            Self::Nobody { users: false } | Self::Wrong { users: false } => {
                answer.field("WWW-Authenticate", format_args!("Bearer realm=\"{REALM}\""))
            }
            Self::TooMany { after_s } => answer.field("Retry-After", after_s),
            Self::Origin | Self::Host | Self::Elsewhere | Self::ReadOnly => answer,
        }
    }
}

/// For the client and the log.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Origin => f.write_str("the request comes from a web page of another origin, which is not in [api] cors"),
            Self::Host => {
                f.write_str("the API asks for nothing and is for this machine alone: ask for localhost or an address, or configure a token")
            }
            Self::Elsewhere => f.write_str("the API asks for nothing and is for this machine alone: configure a token or a user"),
            Self::Nobody { .. } => f.write_str("the API asks who you are: send Authorization: Bearer TOKEN, or name and password"),
            Self::Wrong { .. } => f.write_str("the token, or the name and password, are wrong"),
            Self::ReadOnly => f.write_str("this token or user may only read"),
            Self::TooMany { after_s } => write!(f, "too many wrong tokens or passwords from this address: wait {after_s} s"),
        }
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
