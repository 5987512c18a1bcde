//! A site: what its srs.conf and its `SRS_…` variables together want.

use super::directive::{Directive, Origin, Problem, Problems};
use super::rules::{self, Note, NoteKind, Place};
use super::variables::{CONFIG_FILE, ENV_ONLY, apply, rtmp_listen};
use super::{import, known, read, spelling};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// What SRS does without a file. It refuses to start without one, so this is what its documentation promises.
const DEFAULTS: &str =
    "listen 1935;\nhttp_api { enabled on; listen 1985; }\nhttp_server { enabled on; listen 8080; }\nvhost __defaultVhost__ { }\n";
/// How that is called in messages.
const DEFAULTS_NAME: &str = "defaults of SRS";

/// Where the site listens. A port alone is all addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listens {
    /// RTMP.
    pub rtmp: Vec<SocketAddr>,
    /// HTTP for viewers; empty if the site has it turned off.
    pub http: Vec<SocketAddr>,
    /// The API; empty if the site has it turned off. The same as `http` if the site has both on one port.
    pub api: Vec<SocketAddr>,
}

/// What clients of the API have to say of themselves.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiAuth {
    /// Who.
    pub user: String,
    /// The secret.
    pub password: String,
}

impl ApiAuth {
    /// What a request says in its field `Authorization`.
    pub fn header(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }
}

impl fmt::Debug for ApiAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiAuth {{ user: {:?}, password: … }}", self.user)
    }
}

/// A site's configuration, in the present spelling, with the variables written into it.
#[derive(Clone)]
pub struct Site {
    root: Directive,
    listens: Listens,
    removed: Vec<String>,
    odd: Vec<Note>,
}

impl fmt::Debug for Site {
    // The tree holds passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("listens", &self.listens).finish_non_exhaustive()
    }
}

impl Site {
    /// Reads a file and all that it includes, relative to the working directory, as SRS does. Without one: the file that the environment
    /// names, or what SRS does by default.
    pub fn load(path: Option<&Path>, environment: &[(String, String)]) -> Result<Self, Problems> {
        let variable = |wanted| environment.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let named = variable(CONFIG_FILE).filter(|value| !value.is_empty() && variable(ENV_ONLY).is_none());
        let mut load = |name: &str| match std::fs::read(name) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        let Some(path) = path.or(named.map(Path::new)) else {
            return Self::from_text(DEFAULTS_NAME, DEFAULTS, environment, &mut load);
        };
        let name = path.display().to_string();
        let text = load(&path.to_string_lossy()).map_err(|message| {
            Problems(vec![Problem { origin: Origin::File { file: name.as_str().into(), line: 0 }, directive: String::new(), message }])
        })?;
        let mut site = Self::from_text(&name, &text, environment, &mut load)?;
        for ignored in [CONFIG_FILE, ENV_ONLY].into_iter().filter(|ignored| named != path.to_str() && variable(ignored).is_some()) {
            let text = format!("is ignored: {name} is what is read");
            site.odd.push(Note { origin: Origin::Variable(ignored.into()), directive: ignored.to_owned(), kind: NoteKind::Odd, text });
        }
        Ok(site)
    }

    /// As [`Site::load`], of a text; `load` gives the texts of files that are included.
    pub fn from_text(
        name: &str,
        text: &str,
        environment: &[(String, String)],
        load: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Result<Self, Problems> {
        let mut root = read::parse(name, text, load).map_err(|problem| Problems(vec![problem]))?;
        let odd = known::oddities(&root);
        spelling::modernise(&mut root);
        let removed = apply(&mut root, environment);
        let mut problems = Vec::new();
        let mut listens = Listens { rtmp: listen(&root, rtmp_listen(&root), 1935, &mut problems), ..Listens::default() };
        if root.on("http_server.enabled") {
            listens.http = listen(&root, "http_server.listen", 8080, &mut problems);
        }
        if root.on("http_api.enabled") {
            listens.api = listen(&root, "http_api.listen", 1985, &mut problems);
        }
        if problems.is_empty() { Ok(Self { root, listens, removed, odd }) } else { Err(Problems(problems)) }
    }

    /// The configuration of one process. The error is a path or a variable's value that a file of SRS has no way to say.
    pub fn generate(&self, place: &Place) -> Result<String, String> {
        rules::generate(&self.root, place)
    }

    /// What is changed, what does not work here, and what is odd.
    pub fn notes(&self) -> Vec<Note> {
        self.odd.iter().cloned().chain(rules::notes(&self.root)).collect()
    }

    /// The variables of the environment that the processes must not have: what they say is in what is generated.
    pub fn removed_variables(&self) -> &[String] {
        &self.removed
    }

    /// Where the site listens for the outside.
    pub fn listens(&self) -> &Listens {
        &self.listens
    }

    /// The virtual hosts that there are; names of others mean the default one.
    pub fn vhosts(&self) -> Vec<String> {
        self.root.vhosts().into_iter().map(|vhost| vhost.arg().to_owned()).collect()
    }

    /// The virtual hosts that fetch their streams from another server.
    pub fn edge_vhosts(&self) -> Vec<String> {
        let edges = self.root.vhosts().into_iter().filter(|vhost| vhost.value("cluster.mode") == Some("remote"));
        edges.map(|vhost| vhost.arg().to_owned()).collect()
    }

    /// Whom the API lets in, if it asks.
    pub fn api_auth(&self) -> Option<ApiAuth> {
        let auth = self.root.at("http_api.auth").filter(|auth| auth.on("enabled"))?;
        let text = |name| auth.value(name).unwrap_or_default().to_owned();
        Some(ApiAuth { user: text("username"), password: text("password") })
    }

    /// This server's own configuration for the same site, as TOML with comments for what it has no setting for.
    pub fn to_native(&self) -> String {
        import::native(&self.root, &self.listens, &self.notes())
    }
}

/// What a directive's `[ip:]port` arguments stand for.
fn listen(root: &Directive, path: &str, default: u16, problems: &mut Vec<Problem>) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    let Some(directive) = root.at(path).filter(|directive| !directive.args.is_empty()) else { return everywhere(default) };
    for arg in &directive.args {
        match endpoint(arg) {
            Some(found) => addresses.extend(found),
            None => {
                let message = format!("{arg:?} is no place to listen (1935, 127.0.0.1:1935, [::1]:1935)");
                problems.push(Problem { origin: directive.origin.clone(), directive: path.to_owned(), message });
            }
        }
    }
    addresses.dedup();
    addresses
}

pub(super) fn endpoint(text: &str) -> Option<Vec<SocketAddr>> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    let Some((ip, number)) = text.rsplit_once(':') else { return Some(everywhere(port(text)?)) };
    let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    Some(vec![SocketAddr::new(ip.parse().ok()?, port(number)?)])
}

pub(super) fn everywhere(port: u16) -> Vec<SocketAddr> {
    let all = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
    all.map(|ip| SocketAddr::new(ip, port)).to_vec()
}
