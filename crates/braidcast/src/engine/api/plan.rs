//! What a request asks for: one process, or all and how their answers become one.

use super::ids::{self, Named};
use super::sums::{RUSAGES, SELF_PROC_STATS, SUMMARIES, Sums};
use super::{ApiAnswer, ApiRequest, Method};
use braidcast_protocols::http::{parameter, parameters};

/// The longest target, and the longest field of a request.
const MAX_TEXT_BYTES: usize = 8 << 10;
/// The most of a list that a process is asked for.
const MAX_COUNT: usize = 1_000_000;
/// A list is never shorter than this, if there is so much: SRS reads a smaller `count` as this.
const MIN_COUNT: usize = 10;
/// What is asked for along with streams and clients, which name their vhost by an id.
pub(super) const VHOSTS: &str = "/api/v1/vhosts/";
/// SRS's code for a client that is not there.
const NO_CLIENT: i64 = 2049;

/// A list of SRS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Streams,
    Clients,
}

impl Kind {
    pub fn one(self) -> &'static str {
        if self == Self::Streams { "stream" } else { "client" }
    }

    pub fn all(self) -> &'static str {
        if self == Self::Streams { "streams" } else { "clients" }
    }
}

/// How the answers of all become one.
#[derive(Clone, Debug)]
pub(super) enum Question {
    /// What is the same everywhere.
    First,
    /// What adds up.
    Sum(&'static Sums),
    List {
        kind: Kind,
        start: usize,
        count: usize,
    },
    Single(Kind, Named),
    /// To end a client's connection, wherever it is.
    Kick(Named),
    Vhosts,
    Vhost(Named),
}

/// Whom to ask, and for what.
#[derive(Debug)]
pub(super) enum Plan {
    /// One process, whose answer passes as it is.
    One { process: u16, target: String },
    /// Each of these of every process.
    All { question: Question, targets: Vec<String> },
}

/// SRS's way of calling its API from scripts of other pages.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Jsonp {
    callback: String,
    method: Option<Method>,
}

impl Jsonp {
    fn parse(query: &str) -> Result<Self, ApiAnswer> {
        let callback = parameter(query, "callback").unwrap_or_default();
        if !callback.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            return Err(ApiAnswer::error(400, "a callback's name has letters, digits, '.', '_' and '-' alone"));
        }
        let method = parameter(query, "method").filter(|_| !callback.is_empty()).and_then(|method| Method::parse(&method));
        Ok(Self { callback, method })
    }

    /// Puts an answer into the call.
    pub fn wrap(&self, mut answer: ApiAnswer) -> ApiAnswer {
        if !self.callback.is_empty() && answer.content_type == "application/json" {
            answer.body = [self.callback.as_bytes(), b"(", &answer.body, b")"].concat();
            answer.content_type = "text/javascript".to_owned();
        }
        answer
    }
}

/// Refuses what must not be written into a request.
pub(super) fn check(request: &ApiRequest) -> Result<(), ApiAnswer> {
    let texts = [&request.host, &request.authorization];
    let clean = |text: &str| text.len() <= MAX_TEXT_BYTES && text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if !request.target.starts_with('/') || !clean(&request.target) || request.target.contains([' ', '#']) {
        return Err(ApiAnswer::error(400, "the target is no path with a query"));
    }
    if !texts.into_iter().flatten().all(|text| clean(text)) {
        return Err(ApiAnswer::error(400, "a field is too long, or holds characters that do not belong there"));
    }
    Ok(())
}

/// Plans a request that is clean. An answer in place of a plan is already in the call that was asked for.
pub(super) fn plan(request: &ApiRequest, processes: &[u16]) -> Result<(Plan, Jsonp), ApiAnswer> {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let jsonp = Jsonp::parse(query)?;
    let method = jsonp.method.unwrap_or(request.method);
    match choose(method, path, query, processes) {
        Ok(plan) => Ok((plan, jsonp)),
        Err(answer) => Err(jsonp.wrap(answer)),
    }
}

fn choose(method: Method, path: &str, query: &str, processes: &[u16]) -> Result<Plan, ApiAnswer> {
    let found = endpoint(path, processes)?;
    if let Some(number) = parameter(query, "process") {
        let process = ids::known(&number, processes)?;
        return Ok(Plan::One { process, target: target_of_one(found, path, query, process)? });
    }
    let Some(endpoint) = found else {
        let text = format!("each process answers this on its own: add process=N to the query; there are: {}", ids::list(processes));
        return Err(ApiAnswer::error(404, text));
    };
    let (question, target) = match endpoint {
        Endpoint::First(path) => (Question::First, path.to_owned()),
        Endpoint::Sum(path, sums) => (Question::Sum(sums), path.to_owned()),
        Endpoint::Client(None) if method == Method::Delete => {
            return Err(ApiAnswer::json(200, &serde_json::json!({ "code": NO_CLIENT })));
        }
        Endpoint::Client(Some(named)) if method == Method::Delete => {
            let target = format!("/api/v1/clients/{}", named.id);
            return Ok(Plan::All { question: Question::Kick(named), targets: vec![target] });
        }
        _ if method != Method::Get => return Err(ApiAnswer::error(405, "this can be read, and clients deleted")),
        Endpoint::Vhost(None) => (Question::Vhosts, VHOSTS.to_owned()),
        Endpoint::Vhost(Some(named)) => (Question::Vhost(named), VHOSTS.to_owned()),
        Endpoint::Stream(named) => of_list(Kind::Streams, named, query),
        Endpoint::Client(named) => of_list(Kind::Clients, named, query),
    };
    let names_vhosts = processes.len() > 1 && matches!(question, Question::List { .. } | Question::Single(..));
    let targets = std::iter::once(target).chain(names_vhosts.then(|| VHOSTS.to_owned())).collect();
    Ok(Plan::All { question, targets })
}

fn of_list(kind: Kind, named: Option<Named>, query: &str) -> (Question, String) {
    match named {
        Some(named) => {
            let target = format!("/api/v1/{}/{}", kind.all(), named.id);
            (Question::Single(kind, named), target)
        }
        None => {
            let number = |name| parameter(query, name).map_or(0, |text| leading_number(&text)).min(MAX_COUNT);
            let (start, count) = (number("start"), number("count").max(MIN_COUNT));
            let target = format!("/api/v1/{}/?start=0&count={}", kind.all(), start + count);
            (Question::List { kind, start, count }, target)
        }
    }
}

/// As SRS reads a number: its digits at the beginning, and 0 for everything else.
pub fn leading_number(text: &str) -> usize {
    let text = text.trim_start();
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    if end == 0 { 0 } else { text[..end].parse().unwrap_or(usize::MAX) }
}

enum Endpoint {
    First(&'static str),
    Sum(&'static str, &'static Sums),
    Stream(Option<Named>),
    Client(Option<Named>),
    Vhost(Option<Named>),
}

/// What is known of a path. SRS redirects lists without a slash at their end; here both forms are the list.
fn endpoint(path: &str, processes: &[u16]) -> Result<Option<Endpoint>, ApiAnswer> {
    let Some(rest) = path.strip_prefix("/api") else { return Ok(None) };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let of = |list: &str| rest.strip_prefix("/v1/")?.strip_prefix(list)?.strip_prefix('/');
    let named = |segment: &str| Named::parse(segment, processes).map(Some);
    Ok(Some(match rest {
        "" => Endpoint::First("/api/"),
        "/v1" => Endpoint::First("/api/v1/"),
        "/v1/versions" => Endpoint::First("/api/v1/versions"),
        "/v1/features" => Endpoint::First("/api/v1/features"),
        "/v1/authors" => Endpoint::First("/api/v1/authors"),
        "/v1/meminfos" => Endpoint::First("/api/v1/meminfos"),
        "/v1/system_proc_stats" => Endpoint::First("/api/v1/system_proc_stats"),
        "/v1/tests/requests" => Endpoint::First("/api/v1/tests/requests"),
        "/v1/summaries" => Endpoint::Sum("/api/v1/summaries", &SUMMARIES),
        "/v1/rusages" => Endpoint::Sum("/api/v1/rusages", &RUSAGES),
        "/v1/self_proc_stats" => Endpoint::Sum("/api/v1/self_proc_stats", &SELF_PROC_STATS),
        "/v1/streams" => Endpoint::Stream(None),
        "/v1/clients" => Endpoint::Client(None),
        "/v1/vhosts" => Endpoint::Vhost(None),
        _ => match (of("streams"), of("clients"), of("vhosts")) {
            (Some(segment), _, _) => Endpoint::Stream(named(segment)?),
            (_, Some(segment), _) => Endpoint::Client(named(segment)?),
            (_, _, Some(segment)) => Endpoint::Vhost(named(segment)?),
            _ => return Ok(None),
        },
    }))
}

/// What one process is asked: the target as it was sent, without `process`, and in the form that the process itself knows.
fn target_of_one(endpoint: Option<Endpoint>, path: &str, query: &str, process: u16) -> Result<String, ApiAnswer> {
    let path = match endpoint {
        None => path.to_owned(),
        Some(Endpoint::First(path) | Endpoint::Sum(path, _)) => path.to_owned(),
        Some(Endpoint::Stream(named)) => path_of_one("streams", named, process)?,
        Some(Endpoint::Client(named)) => path_of_one("clients", named, process)?,
        Some(Endpoint::Vhost(named)) => path_of_one("vhosts", named, process)?,
    };
    let kept: Vec<_> = parameters(query).filter(|(name, ..)| *name != "process").map(|(.., whole)| whole).collect();
    Ok(if kept.is_empty() { path } else { format!("{path}?{}", kept.join("&")) })
}

fn path_of_one(list: &str, named: Option<Named>, process: u16) -> Result<String, ApiAnswer> {
    match named {
        Some(named) if !named.may_be_of(process) => Err(ApiAnswer::error(400, "the id and process=N name two processes")),
        named => Ok(format!("/api/v1/{list}/{}", named.map_or_else(String::new, |named| named.id))),
    }
}
