//! ACME against Debian's pebble, an authority for tests, and its DNS server.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::server::{binary, free_ports, signal};
use braidcast_e2e::tls::{self, Files};
use braidcast_e2e::tools::{eventually, has, run_ok};
use braidcast_e2e::{Server, ServerOptions, Tool};
use serde_json::json;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const DOMAINS: [&str; 2] = ["live.braidcast.test", "cdn.braidcast.test"];

/// pebble, which looks at `http_port` of the names, and its DNS server, to which all names are this machine.
struct Authority {
    _pebble: Tool,
    _dns: Tool,
}

impl Authority {
    fn start(directory: &Path, ports: u16, http_port: u16, own: &Files) -> Result<Self> {
        let (dns, management, acme) = (ports, ports + 1, ports + 2);
        let config = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{acme}"),
            "managementListenAddress": format!("127.0.0.1:{}", ports + 3),
            "certificate": own.cert,
            "privateKey": own.key,
            "httpPort": http_port,
            "tlsPort": ports + 4,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        let file = directory.join("pebble.json");
        std::fs::write(&file, config.to_string())?;
        let dns_address = format!("127.0.0.1:{dns}");
        let management = format!("127.0.0.1:{management}");
        let words = ["-dns01", &dns_address, "-management", &management, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""];
        let off = ["-http01", "", "-https01", "", "-tlsalpn01", ""];
        let dns = Tool::start("pebble-challtestsrv", &[&words[..], &off].concat())?;
        let mut pebble = Command::new("pebble");
        pebble.args(["-config", &file.to_string_lossy(), "-dnsserver", &dns_address]);
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "0");
        let pebble = Tool::of(pebble.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("starting pebble")?);
        eventually(PATIENCE, || TcpStream::connect(("127.0.0.1", acme)).ok()).context("pebble does not listen")?;
        Ok(Self { _pebble: pebble, _dns: dns })
    }
}

fn is_from_pebble(server: &Server, name: &str) -> Option<()> {
    let said = tls::shake_hands(server.address("https"), &["-servername", name, "-showcerts"]).ok()??;
    (said.contains("Pebble Intermediate CA") || tls::counter(server, "certificates") == 1).then_some(())
}

#[test]
fn a_certificate_is_fetched_and_kept() -> Result<()> {
    if !has("pebble") || !has("pebble-challtestsrv") {
        eprintln!("skipped: there is no pebble");
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let own = Files::make(directory.path(), "pebble", "DNS:localhost,IP:127.0.0.1")?;
    let (ports, http_port) = (free_ports(5)?, free_ports(1)?);
    let config = format!(
        "[tls]\nhttps = \"127.0.0.1:0\"\n[acme]\ndomains = {DOMAINS:?}\nagree = true\ncontact = [\"mailto:ops@braidcast.test\"]\n\
         directory = \"https://127.0.0.1:{}/dir\"\nca_file = {:?}\n",
        ports + 2,
        own.cert.display()
    );
    // At first the authority's questions reach nobody.
    let authority = Authority::start(directory.path(), ports, ports + 4, &own)?;
    let http = format!("127.0.0.1:{http_port}");
    let options = ServerOptions { file: config, ..ServerOptions::workers(2) }.argument("--http").argument(&http);
    let server = Server::start(options)?;
    tls::wait_counter(&server, "acme_failures", 1)?;
    let said = server.wait_log(&["no certificate could be fetched", "braidcast.test"])?;
    ensure!(said.contains("at port 80 has to reach [http] listen") && said.contains("the next attempt is in 300s"), "{said}");
    let noted = eventually(PATIENCE, || {
        let notes = tls::attendant(&server).ok()?["notes"].to_string();
        (notes.contains("no certificate: no client can connect") && notes.contains("[acme] 1 attempts")).then_some(())
    });
    noted.with_context(|| format!("{:?}", tls::attendant(&server)))?;
    ensure!(tls::shake_hands(server.address("https"), &[])?.is_none(), "there is a certificate");
    // Nobody is asked again at once, whatever dies.
    signal(tls::attendant_pid(&server)?, "KILL")?;
    tls::wait_attendant(&server)?;
    ensure!(tls::counter(&server, "acme_failures") == 1, "it was asked again at once");

    // The operator mends it, and does not want to wait.
    drop(authority);
    let _authority = Authority::start(directory.path(), ports, http_port, &own)?;
    let state = server.state_dir.join("acme");
    std::fs::remove_file(state.join("attempt.json"))?;
    std::fs::remove_file(state.join("account.json"))?;
    run_ok(&binary().to_string_lossy(), &["reload", "--shared-dir", &server.shared_dir.to_string_lossy()], PATIENCE)?;
    let fetched = eventually(PATIENCE, || (tls::counter(&server, "acme_fetched") == 1).then_some(()));
    fetched.with_context(|| format!("no certificate:\n{}", server.log_text()))?;
    for name in DOMAINS {
        eventually(PATIENCE, || is_from_pebble(&server, name)).context("it is not used")?;
    }
    server.wait_log(&["certificate for", DOMAINS[0], DOMAINS[1], "fetched by ACME"])?;
    for name in ["account.json", "certificate.pem", "attempt.json"] {
        let mode = std::fs::metadata(state.join(name))?.permissions().mode();
        ensure!(mode & 0o077 == 0, "{name} can be read by others: {mode:o}");
    }
    ensure!(std::fs::read_dir(server.shared_dir.join("acme"))?.count() == 0, "answers are left over");
    // It is kept.
    signal(tls::attendant_pid(&server)?, "KILL")?;
    tls::wait_attendant(&server)?;
    eventually(PATIENCE, || is_from_pebble(&server, DOMAINS[0])).context("it is gone")?;
    ensure!(tls::counter(&server, "acme_fetched") == 1, "another one was fetched");
    Ok(())
}
