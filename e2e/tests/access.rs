//! Rules of access over everything that clients speak: let in, refused, forged, expired, used for something else; and no secret anywhere.

use anyhow::{Context, Result, bail, ensure};
use braidcast_e2e::media;
use braidcast_e2e::proxies::documented_in;
use braidcast_e2e::rtmp::RtmpClient;
use braidcast_e2e::server::processes_of;
use braidcast_e2e::tools::{eventually, http_get, run_ok};
use braidcast_e2e::{Server, ServerOptions, Tool};
use braidcast_protocols::rtmp::{ClientOutput, ClientRole};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
/// All of the configured secrets, and what clients bring, hold this.
const CANARY: &str = "canary";
const SIGN_SECRET: &str = "canary-sign-secret-0001";
const TOKEN: &str = "canary-token-00000001";

/// Files that rules need, and how they are made.
struct Site {
    directory: TempDir,
}

impl Site {
    fn new() -> Result<Self> {
        let site = Self { directory: tempfile::tempdir()? };
        std::fs::write(site.path("sign"), format!("{SIGN_SECRET}\n"))?;
        std::fs::write(site.path("tokens"), format!("canary-token-00000000\n{TOKEN}\n"))?;
        for key in ["first", "second"] {
            site.shell(&format!(
                "openssl genrsa -out {key}.pem 2048 2>/dev/null && openssl rsa -in {key}.pem -pubout -out {key}.pub 2>/dev/null"
            ))?;
        }
        std::fs::copy(site.path("first.pub"), site.path("keys"))?;
        Ok(site)
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_string_lossy().into_owned()
    }

    /// What a shell prints that runs in its directory.
    fn shell(&self, script: &str) -> Result<String> {
        let script = format!("cd {}; {script}", self.directory.path().display());
        Ok(run_ok("sh", &["-c", &script], PATIENCE)?.trim().to_owned())
    }

    /// The query that the documentation's shell line prints.
    fn signed(&self, intent: &str, stream: &str, lasts_s: i64) -> Result<String> {
        let script = documented_in("access.md", "sh", "openssl dgst")?;
        let mut changed = script.clone();
        for (from, to) in [
            ("intent=play", format!("intent={intent}")),
            ("__defaultVhost__/live/x", format!("__defaultVhost__/live/{stream}")),
            ("sign.secret", "sign".to_owned()),
            ("+ 3600", format!("+ {lasts_s}")),
        ] {
            ensure!(changed.contains(from), "the documentation does not say {from}");
            changed = changed.replace(from, &to);
        }
        self.shell(&changed)
    }

    /// A token signed with RS256.
    fn jwt(&self, key: &str, claims: &str) -> Result<String> {
        let encode = "openssl base64 -A | tr '+/' '-_' | tr -d =";
        self.shell(&format!(
            "h=$(printf '%s' '{{\"alg\":\"RS256\",\"typ\":\"JWT\"}}' | {encode}); c=$(printf '%s' '{claims}' | {encode}); \
             s=$(printf '%s' \"$h.$c\" | openssl dgst -sha256 -sign {key}.pem | {encode}); printf '%s' \"$h.$c.$s\""
        ))
    }

    fn config(&self) -> String {
        format!(
            "[[access]]\nstreams = 'live/signed*'\nsign_secret_file = {:?}\n\
             [[access]]\nstreams = 'live/token*'\ntokens_file = {:?}\n\
             [[access]]\nstreams = 'live/jwt*'\njwt_public_key = {:?}\nleeway = 0\n\
             [[access]]\nstreams = 'live/elsewhere'\nallow = ['192.0.2.0/24']\n\
             [[access]]\nstreams = 'live/unwelcome'\nintent = 'play'\ndeny = ['127.0.0.0/8']\n\
             [[access]]\nstreams = 'live/page'\nintent = 'play'\nreferers = ['example.com']\n",
            self.path("sign"),
            self.path("tokens"),
            self.path("keys"),
        )
    }

    fn server(&self) -> Result<Server> {
        let options = ServerOptions { file: self.config(), ..ServerOptions::workers(2) };
        Server::start(options.set("hls.fragment=1s").set("play.play_wait=20s"))
    }
}

/// How an answer begins; the rest, which may never end, is not waited for.
fn status(url: &str, fields: &str) -> Result<u16> {
    let (authority, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).context("not an http URL")?;
    let mut stream = TcpStream::connect(authority)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n")?;
    let mut line = [0; 12];
    stream.read_exact(&mut line)?;
    std::str::from_utf8(&line[9..])?.parse().context("no status")
}

/// How a publish or play over RTMP is answered: `None` if it is let in, else the code.
fn refused(url: &str, role: ClientRole) -> Result<Option<(String, String)>> {
    let mut client = RtmpClient::connect(url, role)?;
    match client.wait(|output| matches!(output, ClientOutput::Started | ClientOutput::Refused { .. }))? {
        ClientOutput::Refused { code, description } => Ok(Some((code, description))),
        _ => Ok(None),
    }
}

fn is_refused(url: &str, role: ClientRole) -> Result<()> {
    let expected = if role == ClientRole::Publish { "NetStream.Publish.Denied" } else { "NetStream.Play.Failed" };
    match refused(url, role)? {
        Some((code, description)) if code == expected && !description.is_empty() && !description.contains(CANARY) => Ok(()),
        other => bail!("{url}: {other:?}, not {expected}"),
    }
}

/// Publishes, waits for the first segment; gives the number of it.
fn live(server: &Server, name: &str, query: &str) -> Result<(Tool, u64)> {
    let publisher = media::publish_live(&format!("{}?{query}", server.rtmp(name)))?;
    server.wait_live(name)?;
    let segment = eventually(PATIENCE, || server.stream(name).ok().flatten()?["segment"].as_u64()).context("no segment")?;
    Ok((publisher, segment))
}

/// Everything by which a stream is played, with this query, is answered so.
fn everything_is(server: &Server, name: &str, segment: u64, query: &str, expected: u16) -> Result<()> {
    let mut fields = vec![""; 6];
    fields[5] = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let paths = [
        format!("{name}.flv?{query}"),
        format!("{name}.ts?{query}"),
        format!("{name}.m3u8?{query}"),
        format!("{name}.m3u8?start=-60s&{query}"),
        format!("{name}/{segment}.ts?{query}"),
        format!("{name}.flv?{query}"),
    ];
    for (path, fields) in paths.iter().zip(fields) {
        let got = status(&server.http(&format!("live/{path}")), fields)?;
        let expected = if expected == 200 && !fields.is_empty() { 101 } else { expected };
        ensure!(got == expected, "{path} {fields:?}: {got}, not {expected}");
    }
    let named = status(&server.http(&format!("live/{name}/index.m3u8?{query}")), "")?;
    ensure!(named == expected, "{name}/index.m3u8: {named}, not {expected}");
    match expected {
        200 => ensure!(refused(&format!("{}?{query}", server.rtmp(name)), ClientRole::Play)?.is_none(), "RTMP"),
        _ => is_refused(&format!("{}?{query}", server.rtmp(name)), ClientRole::Play)?,
    }
    Ok(())
}

#[test]
fn signatures_tokens_addresses_and_pages() -> Result<()> {
    let site = Site::new()?;
    let server = site.server()?;

    // Signed: for one stream, one intent, until then.
    for (query, why) in [
        (String::new(), "nothing"),
        (site.signed("play", "signed", 60)?, "for the other intent"),
        (site.signed("publish", "signed2", 60)?, "for another stream"),
        (site.signed("publish", "signed", -5)?, "expired"),
        (site.signed("publish", "signed", 60)?.replace("expires=1", "expires=2"), "forged"),
    ] {
        is_refused(&format!("{}?{query}", server.rtmp("signed")), ClientRole::Publish).context(why)?;
    }
    let (_signed, segment) = live(&server, "signed", &site.signed("publish", "signed", 3600)?)?;
    let play = site.signed("play", "signed", 3600)?;
    everything_is(&server, "signed", segment, &play, 200)?;
    everything_is(&server, "signed", segment, "", 401)?;
    for wrong in [site.signed("publish", "signed", 60)?, site.signed("play", "signed2", 60)?, site.signed("play", "signed", -5)?] {
        everything_is(&server, "signed", segment, &wrong, 403)?;
    }
    // A player that was given one URL gets all the others from the index.
    let index = http_get(&server.http(&format!("live/signed.m3u8?{play}")))?.text();
    let uri = index.lines().find(|line| !line.starts_with('#')).context("no segment")?;
    ensure!(status(&server.http(&format!("live/{uri}")), "")? == 200, "{uri}");
    let file = http_get(&server.http(&format!("live/{uri}")))?;
    ensure!(file.head.contains("Cache-Control: private, "), "{}", file.head);

    // Static tokens, by query and field.
    is_refused(&format!("{}?token=canary-wrong", server.rtmp("token")), ClientRole::Publish)?;
    let (_token, segment) = live(&server, "token", &format!("token={TOKEN}"))?;
    everything_is(&server, "token", segment, &format!("token={TOKEN}"), 200)?;
    everything_is(&server, "token", segment, "token=canary-wrong", 403)?;
    let bearer = |token: &str| status(&server.http("live/token.flv"), &format!("Authorization: Bearer {token}\r\n"));
    ensure!(bearer(TOKEN)? == 200 && bearer("canary-wrong")? == 403, "the field");
    let head = http_get(&server.http("live/token.m3u8"))?.head;
    ensure!(head.starts_with("HTTP/1.1 401") && head.contains("WWW-Authenticate: Bearer"), "{head}");

    // Addresses and pages.
    is_refused(&server.rtmp("elsewhere"), ClientRole::Publish)?;
    let (_unwelcome, segment) = live(&server, "unwelcome", "")?;
    everything_is(&server, "unwelcome", segment, "", 403)?;
    let (_page, _) = live(&server, "page", "")?;
    let from = |page: &str| status(&server.http("live/page.flv"), &format!("Referer: {page}\r\n"));
    ensure!(from("https://www.example.com/watch")? == 200 && from("https://example.com.evil.test/")? == 403, "pages");
    ensure!(status(&server.http("live/page.flv"), "")? == 403, "no page");
    let (_open, segment) = live(&server, "open", "")?;
    everything_is(&server, "open", segment, "token=whatever", 200)?;

    let listed: serde_json::Value = serde_json::from_slice(&http_get(&server.http("streams.json"))?.body)?;
    let listed: Vec<&str> =
        listed["streams"].as_array().context("no list")?.iter().filter_map(|stream| stream["stream"].as_str()).collect();
    ensure!(listed == ["open"], "listed: {listed:?}");
    for reason in ["address", "referer", "missing", "token", "signature", "expired"] {
        let counter = format!("access_refused_{reason}");
        ensure!(server.workers_counter(&counter) > 0, "{counter}");
    }
    server.wait_log(&["publish not let in by [[access]]", "stream=live/token ", "rule=2", "peer=127.0.0.1"])?;
    no_secret_is_anywhere(&server)
}

#[test]
fn tokens_of_a_key_that_changes() -> Result<()> {
    let site = Site::new()?;
    let mut server = site.server()?;
    let exp = |lasts_s: i64| site.shell(&format!("echo $(($(date +%s) + {lasts_s}))"));
    let soon = exp(3600)?;
    let publish = site.jwt("first", &format!("{{\"exp\":{soon},\"stream\":\"live/jwt\",\"action\":\"publish\"}}"))?;
    let play = site.jwt("first", &format!("{{\"exp\":{soon},\"stream\":\"live/jwt\",\"action\":\"play\"}}"))?;
    let stranger = site.jwt("second", &format!("{{\"exp\":{soon}}}"))?;
    let expired = site.jwt("first", &format!("{{\"exp\":{}}}", exp(-1)?))?;
    for token in [&play, &stranger, &expired, &format!("{}x", &publish[..publish.len() - 9])] {
        is_refused(&format!("{}?jwt={token}", server.rtmp("jwt")), ClientRole::Publish)?;
    }
    is_refused(&format!("{}?jwt={publish}", server.rtmp("jwt2")), ClientRole::Publish)?;
    let (_publisher, segment) = live(&server, "jwt", &format!("jwt={publish}"))?;
    everything_is(&server, "jwt", segment, &format!("jwt={play}"), 200)?;
    everything_is(&server, "jwt", segment, &format!("token={play}"), 200)?;
    everything_is(&server, "jwt", segment, &format!("jwt={publish}"), 403)?;
    everything_is(&server, "jwt", segment, &format!("jwt={expired}"), 403)?;

    // A new worker has the keys, and so has one that another front finds.
    for worker in 1..=2 {
        server.kill_worker(worker)?;
    }
    server.replace_front()?;
    everything_is(&server, "jwt", segment, &format!("jwt={play}"), 200)?;
    everything_is(&server, "jwt", segment, &format!("jwt={stranger}"), 403)?;
    // What is no key changes nothing; another key holds, and the one before does no more.
    let replace = |content: &str| -> Result<()> {
        std::fs::write(site.path("next"), content)?;
        Ok(std::fs::rename(site.path("next"), site.path("keys"))?)
    };
    replace("no key")?;
    server.wait_log(&["cannot be used", "mend the file"])?;
    everything_is(&server, "jwt", segment, &format!("jwt={play}"), 200)?;
    replace(&std::fs::read_to_string(site.path("second.pub"))?)?;
    let flv = |token: &str| status(&server.http(&format!("live/jwt/index.m3u8?jwt={token}")), "");
    eventually(PATIENCE, || (flv(&stranger).ok()? == 200).then_some(())).context("the new key does not hold")?;
    // The workers were told one after the other.
    eventually(PATIENCE, || everything_is(&server, "jwt", segment, &format!("jwt={play}"), 403).ok()).context("the old key still holds")?;
    everything_is(&server, "jwt", segment, &format!("jwt={stranger}"), 200)?;
    server.wait_log(&["the keys in this file have changed"])?;
    no_secret_is_anywhere(&server)?;
    server.stop()?;
    Ok(())
}

#[test]
fn what_the_server_fetches_for_itself_is_let_in() -> Result<()> {
    let origin = Server::start(ServerOptions::workers(1).set("hls.fragment=1s"))?;
    let _publisher = media::publish_live(&origin.rtmp("x"))?;
    let index = origin.http("live/x.m3u8");
    eventually(PATIENCE, || (http_get(&index).ok()?.status == 200).then_some(())).context("no index")?;
    let file = format!(
        "[[access]]\nstreams = '**'\nintent = 'publish'\nallow = ['192.0.2.1']\n[[pull]]\nstream = 'live/y'\nfrom = '{index}'\nwhen = 'always'\n"
    );
    let options = ServerOptions { file, ..ServerOptions::workers(2) };
    let options = options.environment("BRAIDCAST_ACCESS_2_STREAMS", "live/y").environment("BRAIDCAST_ACCESS_2_TOKENS", TOKEN);
    let edge = Server::start(options)?;
    edge.wait_live("y")?;
    ensure!(status(&edge.http("live/y.flv"), "")? == 401, "the variables set nothing");
    // What the front was given by its environment, no other process has.
    for worker in 1..=2 {
        let environment = std::fs::read(format!("/proc/{}/environ", edge.worker_pid(worker)?))?;
        ensure!(!String::from_utf8_lossy(&environment).contains(CANARY), "worker {worker} has it in its environment");
    }
    is_refused(&edge.rtmp("z"), ClientRole::Publish)
}

/// Looks for the canary in everything that the server shows: its log, its status, what its ports answer, its directories, its processes.
fn no_secret_is_anywhere(server: &Server) -> Result<()> {
    let clean = |what: &str, text: &[u8]| {
        let found = text.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        ensure!(!found, "{what} holds a secret:\n{}", String::from_utf8_lossy(text));
        Ok(())
    };
    clean("the log", server.log_text().as_bytes())?;
    clean("the status", server.status()?.to_string().as_bytes())?;
    let text = run_ok(
        &braidcast_e2e::server::binary().to_string_lossy(),
        &["status", "--shared-dir", &server.shared_dir.to_string_lossy()],
        PATIENCE,
    )?;
    clean("the status for people", text.as_bytes())?;
    let api = |path: &str| http_get(&format!("http://{}/{path}", server.address("api")));
    for path in [
        "api/v1/summaries",
        "api/v1/vhosts/",
        "api/v1/streams/",
        "api/v1/clients/?count=100",
        "api/v2/status",
        "api/v2/streams",
        "api/v2/sessions",
        "api/v2/relays",
        "api/v2/limits",
        "api/v2/moves",
    ] {
        let answer = api(path)?;
        ensure!(answer.status == 200, "{path}: {}", answer.head);
        clean(path, &answer.body)?;
    }
    // It is all there, but for the secrets.
    for path in ["api/v1/clients/?count=100", "api/v2/sessions"] {
        let text = api(path)?.text();
        ensure!(text.contains("\"publish\":true") || text.contains("\"publishes\":true"), "{path} has no publisher: {text}");
    }
    clean("the events", &events(server)?)?;
    clean("no such path", &api(&format!("api/v2/nothing?token={TOKEN}"))?.body)?;
    clean("streams.json", &http_get(&server.http("streams.json"))?.body)?;
    for pid in processes_of(&server.shared_dir) {
        for file in ["cmdline", "environ", "comm"] {
            let path = format!("/proc/{pid}/{file}");
            clean(&path, &std::fs::read(&path).unwrap_or_default())?;
        }
    }
    let mut files = Vec::new();
    for directory in [&server.shared_dir, &server.state_dir] {
        gather(directory, &mut files)?;
    }
    for file in files {
        let Ok(bytes) = std::fs::read(&file) else { continue };
        let text = file.to_string_lossy();
        // What a client has sent, which another worker may have to go on with.
        if let Some(private) =
            ["sessions", "events"].map(|name| server.shared_dir.join(name)).iter().find(|directory| file.starts_with(directory))
        {
            let closed = |path: &Path| Ok::<_, std::io::Error>(std::fs::metadata(path)?.permissions().mode() & 0o7 == 0);
            ensure!(closed(private)? || closed(&file)?, "{text} is open to others");
            continue;
        }
        clean(&text, &bytes)?;
    }
    Ok(())
}

/// What the API tells of events, up to the first publish.
fn events(server: &Server) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server.address("api"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /api/v2/events?after=0 HTTP/1.1\r\nHost: {}\r\n\r\n", server.address("api"))?;
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&text).contains("\"kind\":\"publish\"") {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the events end: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..read]);
    }
    Ok(text)
}

fn gather(directory: &Path, files: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory)?.flatten() {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            gather(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}
