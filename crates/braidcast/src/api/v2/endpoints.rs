//! The one table of the native API's endpoints: requests are led by it, and the OpenAPI document is written from it.

use super::types::{Following, KickRequest, Kicked, LevelRequest, Limits, Ordered, Page, Problem, Session, Stream};
use crate::engine::report::Process;
use crate::relays::report::Relay;
use crate::status::{Directory, Moves, Status, Worker};
use braidcast_protocols::http::{parameters, percent_decode};
use std::borrow::Cow;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// What all paths begin with.
pub const PREFIX: &str = "/api/v2";
/// The entries of a page, unless a request says how many.
pub const PAGE: usize = 100;
/// The most entries of a page.
pub const MOST: usize = 1_000;
/// The longest text of a parameter, in bytes.
const TEXT_BYTES: usize = 512;

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Operation {
    Status,
    Workers,
    Worker,
    DrainWorker,
    Processes,
    DrainProcess,
    Streams,
    Stream,
    Sessions,
    Session,
    KickSession,
    KickSessions,
    Moves,
    Relays,
    Directory,
    Limits,
    Events,
    Rebalance,
    Upgrade,
    Reload,
    LogLevels,
    Document,
    Page,
}

/// The methods that there are; HEAD goes with GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Verb {
    Get,
    Post,
    Delete,
}

impl Verb {
    /// The method of this name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "GET" | "HEAD" => Some(Self::Get),
            "POST" => Some(Self::Post),
            "DELETE" => Some(Self::Delete),
            _ => None,
        }
    }

    fn allows(self) -> &'static str {
        match self {
            Self::Get => "GET, HEAD",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// What a parameter may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A worker's or a process's number, from 1.
    Number,
    /// How many entries.
    Count,
    /// A connection's name.
    Conn,
    /// An event's number.
    EventId,
    /// A name or what else is text.
    Text,
    /// Kinds of events, with commas between.
    Kinds,
}

/// A parameter of the path or the query.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub form: Form,
    /// What it is for.
    pub about: &'static str,
}

/// A type of answers or requests, as the document describes it.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Its name.
    pub name: fn() -> Cow<'static, str>,
    /// What it is.
    pub schema: fn() -> RefOr<Schema>,
    /// What it consists of.
    pub parts: fn(&mut Vec<(String, RefOr<Schema>)>),
}

const fn shape<T: ToSchema>() -> Shape {
    Shape { name: T::name, schema: T::schema, parts: T::schemas }
}

/// Lists of different things are different types.
const fn list<T: ToSchema>() -> Shape {
    Shape { name: || Cow::Owned(format!("PageOf{}", T::name())), schema: Page::<T>::schema, parts: Page::<T>::schemas }
}

/// The shape of errors.
pub const PROBLEM: Shape = shape::<Problem>();
/// The shape of an event.
pub const EVENT: Shape = shape::<Following>();

/// What an answer holds.
#[derive(Clone, Copy)]
pub enum Content {
    /// JSON of this shape.
    Json(Shape),
    /// Server-sent events.
    Events,
    /// A web page.
    Html,
    /// JSON that another document describes.
    AnyJson,
}

/// An endpoint.
#[derive(Clone, Copy)]
pub struct Endpoint {
    /// What it does.
    pub operation: Operation,
    /// Its method.
    pub verb: Verb,
    /// Its path behind [`PREFIX`], with parameters in braces. `{app}` may have several levels.
    pub path: &'static str,
    /// Its name in the document.
    pub id: &'static str,
    /// What it is about, in a few words.
    pub group: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// What more there is to say.
    pub about: &'static str,
    /// Parameters of the query.
    pub query: &'static [Parameter],
    /// JSON that a request has to hold.
    pub body: Option<Shape>,
    /// The status of success, and what it comes with.
    pub success: (u16, &'static str, Content),
    /// Errors of its own, beside those that any request may meet.
    pub errors: &'static [(u16, &'static str)],
}

/// Parameters of paths.
pub const PATH_PARAMETERS: &[Parameter] = &[
    Parameter { name: "worker", form: Form::Number, about: "The worker's number, from 1." },
    Parameter { name: "process", form: Form::Number, about: "The process's number, from 1." },
    Parameter { name: "conn", form: Form::Conn, about: "The connection's name, as in the log." },
    Parameter { name: "vhost", form: Form::Text, about: "The stream's vhost; the default one is `__defaultVhost__`." },
    Parameter { name: "app", form: Form::Text, about: "The stream's app; slashes between its levels may be written as such, or as `%2F`." },
    Parameter { name: "stream", form: Form::Text, about: "The stream's own name." },
];

const LIMIT: Parameter = Parameter { name: "limit", form: Form::Count, about: "How many entries at most." };
const AFTER: Parameter = Parameter { name: "after", form: Form::Text, about: "Only what comes after this: `next` of the page before." };
const PAGED: &[Parameter] = &[LIMIT, AFTER];

const NONE: &[(u16, &str)] = &[];
const NO_SUCH: &[(u16, &str)] = &[(404, "There is none.")];
const ORDERED: (u16, &str, Content) =
    (202, "The order is being carried out; the events tell how it goes on.", Content::Json(shape::<Ordered>()));
const REFUSED: (u16, &str) = (409, "The order cannot be carried out now; `detail` says why.");

const WITH_CONTENT: &[(u16, &str)] =
    &[(409, "It cannot be done now; with another engine, requests have no content."), (415, "The content is not `application/json`.")];

const fn get(
    operation: Operation,
    path: &'static str,
    id: &'static str,
    group: &'static str,
    summary: &'static str,
    shape: Shape,
) -> Endpoint {
    Endpoint {
        operation,
        verb: Verb::Get,
        path,
        id,
        group,
        summary,
        about: "",
        query: &[],
        body: None,
        success: (200, "What there is.", Content::Json(shape)),
        errors: NONE,
    }
}

const fn order(operation: Operation, path: &'static str, id: &'static str, group: &'static str, summary: &'static str) -> Endpoint {
    Endpoint {
        operation,
        verb: Verb::Post,
        path,
        id,
        group,
        summary,
        about: "As the command of this name: what is said about the order is the first that the command would print.",
        query: &[],
        body: None,
        success: ORDERED,
        errors: &[REFUSED],
    }
}

/// The table.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        about: "The same as `braidcast status --json`, at most a second old.",
        ..get(Operation::Status, "/status", "status", "instance", "Everything about the instance", shape::<Status>())
    },
    Endpoint { query: PAGED, ..get(Operation::Workers, "/workers", "workers", "workers", "The workers, by number", list::<Worker>()) },
    Endpoint { errors: NO_SUCH, ..get(Operation::Worker, "/workers/{worker}", "worker", "workers", "A worker", shape::<Worker>()) },
    Endpoint {
        errors: &[REFUSED],
        ..order(
            Operation::DrainWorker,
            "/workers/{worker}/drain",
            "drainWorker",
            "workers",
            "Have a worker's sessions go to others, then start it anew",
        )
    },
    Endpoint {
        query: PAGED,
        ..get(Operation::Processes, "/processes", "processes", "processes", "The processes of another server, by number", list::<Process>())
    },
    order(
        Operation::DrainProcess,
        "/processes/{process}/drain",
        "drainProcess",
        "processes",
        "Give a process of another server no publishers any more, and start it anew when its streams have ended",
    ),
    Endpoint {
        query: &[
            LIMIT,
            AFTER,
            Parameter { name: "vhost", form: Form::Text, about: "Only streams of this vhost." },
            Parameter { name: "app", form: Form::Text, about: "Only streams of this app." },
        ],
        ..get(Operation::Streams, "/streams", "streams", "streams", "The streams, by name", list::<Stream>())
    },
    Endpoint {
        errors: NO_SUCH,
        ..get(Operation::Stream, "/streams/{vhost}/{app}/{stream}", "stream", "streams", "A stream", shape::<Stream>())
    },
    Endpoint {
        query: &[
            LIMIT,
            AFTER,
            Parameter {
                name: "stream",
                form: Form::Text,
                about: "Only those of this stream: `vhost/app/stream`, or `app/stream` in the default vhost.",
            },
            Parameter { name: "client", form: Form::Text, about: "Only those from this address." },
            Parameter { name: "kind", form: Form::Text, about: "Only those of this kind." },
        ],
        about: "Who is connected and what for. What may be a secret is left out: queries, and the URL that a client has connected to.",
        ..get(Operation::Sessions, "/sessions", "sessions", "sessions", "The sessions, by connection", list::<Session>())
    },
    Endpoint { errors: NO_SUCH, ..get(Operation::Session, "/sessions/{conn}", "session", "sessions", "A session", shape::<Session>()) },
    Endpoint {
        verb: Verb::Delete,
        errors: NO_SUCH,
        success: (202, "It is being ended.", Content::Json(shape::<Kicked>())),
        ..get(
            Operation::KickSession,
            "/sessions/{conn}",
            "kickSession",
            "sessions",
            "End a session: its connection is closed",
            shape::<Kicked>(),
        )
    },
    Endpoint {
        verb: Verb::Post,
        about: "Ends those that fit all that is said, a thousand at once; `left` says how many are left.",
        body: Some(shape::<KickRequest>()),
        success: (202, "They are being ended.", Content::Json(shape::<Kicked>())),
        errors: WITH_CONTENT,
        ..get(
            Operation::KickSessions,
            "/sessions/kick",
            "kickSessions",
            "sessions",
            "End sessions of a stream or an address",
            shape::<Kicked>(),
        )
    },
    get(Operation::Moves, "/moves", "moves", "instance", "Sessions that move between workers, and the last that have", shape::<Moves>()),
    Endpoint {
        query: PAGED,
        ..get(Operation::Relays, "/relays", "relays", "streams", "Streams that go to other servers, or come from them", list::<Relay>())
    },
    get(Operation::Directory, "/directory", "directory", "instance", "The shared directory and its budget", shape::<Directory>()),
    get(Operation::Limits, "/limits", "limits", "instance", "The limits, and how often each was met", shape::<Limits>()),
    Endpoint {
        about: "Server-sent events, one for each event; a comment every 15 seconds says that the connection lives. An event `lost` says how many were \
                deleted before they could be sent. Whoever comes again with `Last-Event-ID`, as browsers do, or with `after`, gets what has happened since.",
        query: &[
            Parameter { name: "kinds", form: Form::Kinds, about: "Only these kinds, with commas between." },
            Parameter { name: "after", form: Form::EventId, about: "What has happened since this event; 0: all that is known." },
        ],
        success: (200, "Events, until one of us closes the connection.", Content::Events),
        ..get(Operation::Events, "/events", "events", "events", "What happens, as it happens", shape::<Following>())
    },
    order(Operation::Rebalance, "/rebalance", "rebalance", "instance", "Have sessions move until every worker has its share"),
    order(Operation::Upgrade, "/upgrade", "upgrade", "instance", "Have the program that lies on disk now take over"),
    order(Operation::Reload, "/reload", "reload", "instance", "Have the configuration read anew"),
    Endpoint {
        body: Some(shape::<LevelRequest>()),
        errors: WITH_CONTENT,
        ..order(Operation::LogLevels, "/log-levels", "logLevels", "instance", "Have rooms log more, or less")
    },
    Endpoint {
        success: (200, "The document.", Content::AnyJson),
        ..get(Operation::Document, "/openapi.json", "document", "about", "This document", PROBLEM)
    },
    Endpoint {
        success: (200, "A page that shows this document and tries it out.", Content::Html),
        ..get(Operation::Page, "/docs", "page", "about", "A page for people", PROBLEM)
    },
];

/// What is wrong with a request, before anything is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 404: no such path.
    NoPath,
    /// 405: not this method; those that there are.
    NoMethod(String),
    /// 400: a parameter is none, or cannot be what it is; which and why.
    Parameter(String),
}

/// A request that fits an endpoint.
#[derive(Clone)]
pub struct Found {
    /// The endpoint.
    pub endpoint: &'static Endpoint,
    values: Vec<(&'static str, String)>,
}

impl Found {
    /// A parameter, if it was given; as the form says that it is.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// A number, likewise. Forms have checked it.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.value(name)?.parse().ok()
    }
}

/// Whether a path, from `/api/` on, is one that says nothing of this instance: the document and its page.
pub fn is_shape_only(path: &str) -> bool {
    let shapes = ENDPOINTS.iter().filter(|endpoint| matches!(endpoint.operation, Operation::Document | Operation::Page));
    path.strip_prefix(PREFIX).is_some_and(|rest| shapes.into_iter().any(|endpoint| endpoint.path == rest))
}

/// The methods that a path has, as a field says them; `None`: there is no such path.
pub fn allowed(path: &str) -> Option<String> {
    let rest = path.strip_prefix(PREFIX)?;
    let at_path: Vec<(&Endpoint, usize)> =
        ENDPOINTS.iter().filter_map(|endpoint| Some((endpoint, fit(endpoint.path, rest)?.len()))).collect();
    let fewest = at_path.iter().map(|(_, values)| *values).min()?;
    let verbs = at_path.iter().filter(|(_, values)| *values == fewest).map(|(endpoint, _)| endpoint.verb.allows());
    Some(verbs.collect::<Vec<_>>().join(", ") + ", OPTIONS")
}

/// Finds what a request asks for. `path` is decoded and begins with [`PREFIX`]; `query` is as it was sent.
///
/// # Errors
/// There is nothing, or a parameter is wrong.
pub fn find(verb: Option<Verb>, path: &str, query: &str) -> Result<Found, Fault> {
    let rest = path.strip_prefix(PREFIX).ok_or(Fault::NoPath)?;
    let at_path: Vec<(&Endpoint, Vec<(&'static str, String)>)> =
        ENDPOINTS.iter().filter_map(|endpoint| Some((endpoint, fit(endpoint.path, rest)?))).collect();
    // What is written out goes before what stands for anything.
    let fewest = at_path.iter().map(|(_, values)| values.len()).min().ok_or(Fault::NoPath)?;
    let mut at_path = at_path.into_iter().filter(|(_, values)| values.len() == fewest);
    let no_method = || Fault::NoMethod(allowed(path).unwrap_or_default());
    let (endpoint, mut values) = at_path.find(|(endpoint, _)| verb == Some(endpoint.verb)).ok_or_else(no_method)?;
    for (name, value) in &values {
        let parameter = PATH_PARAMETERS.iter().find(|parameter| parameter.name == *name).expect("the table names no others");
        check(parameter, value).map_err(Fault::Parameter)?;
    }
    for (name, value, _) in parameters(query) {
        let unknown = || Fault::Parameter(format!("there is no parameter {name:?} here"));
        let parameter = endpoint.query.iter().find(|parameter| parameter.name == name).ok_or_else(unknown)?;
        let value = percent_decode(value).ok_or_else(|| Fault::Parameter(format!("{name} cannot be decoded")))?;
        check(parameter, &value).map_err(Fault::Parameter)?;
        if values.iter().any(|(known, _)| *known == parameter.name) {
            return Err(Fault::Parameter(format!("{name} is there twice")));
        }
        values.push((parameter.name, value));
    }
    Ok(Found { endpoint, values })
}

/// The values of a path's parameters, if it fits.
fn fit(template: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
    let (wanted, given): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
    let more = given.len().checked_sub(wanted.len())?;
    let (mut values, mut at) = (Vec::new(), 0);
    for part in wanted {
        let name = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
        let levels = if name == Some("app") { 1 + more } else { 1 };
        let text = given.get(at..at + levels)?.join("/");
        at += levels;
        match name {
            Some(_) if text.is_empty() => return None,
            Some(name) => values.push((name, text)),
            None if text != part => return None,
            None => {}
        }
    }
    (at == given.len()).then_some(values)
}

fn check(parameter: &Parameter, value: &str) -> Result<(), String> {
    let Parameter { name, form, .. } = parameter;
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    match form {
        Form::Number if digits && value.parse::<u16>().is_ok_and(|number| number > 0) => Ok(()),
        Form::Number => Err(format!("{name} is no number from 1 to 65535")),
        Form::Count if digits && value.parse::<usize>().is_ok_and(|count| (1..=MOST).contains(&count)) => Ok(()),
        Form::Count => Err(format!("{name} is no number from 1 to {MOST}")),
        Form::EventId if digits && value.parse::<u64>().is_ok_and(|id| id <= i64::MAX as u64) => Ok(()),
        Form::EventId => Err(format!("{name} is no event's number")),
        Form::Conn if super::conn(value).is_some() => Ok(()),
        Form::Conn => Err(format!("{name} is no connection's name; they are written c17")),
        Form::Text if value.len() <= TEXT_BYTES && !value.chars().any(char::is_control) => Ok(()),
        Form::Text => Err(format!("{name} is longer than {TEXT_BYTES} bytes or holds control characters")),
        Form::Kinds => super::kinds(value).map(drop),
    }
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;
