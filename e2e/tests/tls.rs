//! TLS: RTMPS and HTTPS by programs that are not ours, what dies, moves and changes behind them, protocols and ciphers, limits.

use anyhow::{Context, Result, ensure};
use braidcast_e2e::media;
use braidcast_e2e::server::{alive, binary, signal};
use braidcast_e2e::tls::{self, Files, Watching};
use braidcast_e2e::tools::{eventually, run, run_ok};
use braidcast_e2e::{Record, Server, ServerOptions, Viewer};
use std::collections::BTreeSet;
use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Without what a server may repeat or leave out.
fn without_headers(records: Vec<Record>) -> Vec<Record> {
    records.into_iter().filter(|record| !record.is_header()).collect()
}

/// What one viewer got is what another got, from where it came in.
fn is_part_of(part: Vec<Record>, whole: &[Record], who: &str) -> Result<()> {
    let part = without_headers(part);
    let first = part.first().with_context(|| format!("{who} got nothing"))?;
    let at = whole.iter().position(|record| record == first).with_context(|| format!("{who}'s first record came to nobody else"))?;
    let both = part.len().min(whole.len() - at);
    ensure!(both > 50, "{who} has only {both} records in common");
    let differs = (0..both).find(|index| part[*index] != whole[at + index]);
    ensure!(differs.is_none(), "{who} has another record {differs:?} of {both}");
    Ok(())
}

#[test]
fn nobody_by_tls_notices_that_workers_die() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(tls::options(2, &[&Files::make(directory.path(), "one", "DNS:localhost")?]))?;
    let mut publisher = tls::publish(&server, "x")?;
    server.wait_live("x")?;
    let plain = Viewer::flv_recorder(server.address("http"), "live/x.flv")?;
    plain.wait_more(5)?;
    let flv = tls::https(&server, "live/x.flv");
    let mut viewers = vec![
        ("HTTP/2", Watching::curl("--http2", &flv)?),
        ("HTTP/1.1", Watching::curl("--http1.1", &flv)?),
        ("ffmpeg by HTTPS", Watching::by("ffmpeg", &["-v", "error", "-i", &flv, "-c", "copy", "-f", "flv", "-"])?),
        ("ffmpeg by RTMPS", Watching::by("ffmpeg", &["-v", "error", "-i", &tls::rtmps(&server, "x"), "-c", "copy", "-f", "flv", "-"])?),
    ];
    for (_, Watching { viewer, .. }) in &viewers {
        viewer.wait_more(10)?;
    }
    let accepted = tls::counter(&server, "accepted");
    for kill in 0..4 {
        server.kill_worker(1 + kill % 2)?;
        for (who, Watching { viewer, .. }) in &viewers {
            viewer.wait_more(10).with_context(|| format!("{who} after death {kill}"))?;
        }
    }
    ensure!(publisher.is_running() && tls::counter(&server, "accepted") == accepted, "somebody has connected again");
    ensure!(server.front_counter("takeovers") >= 4, "{}", server.status()?);
    let got: Vec<_> = viewers.iter().take(2).map(|(who, watching)| (*who, watching.viewer.records())).collect();
    plain.wait_more(10)?;
    let whole = without_headers(plain.records());
    for (who, records) in got {
        is_part_of(records, &whole, who)?;
    }
    ensure!(viewers.iter_mut().all(|(_, watching)| watching.tool.is_running()), "a viewer has ended");
    // The log knows who the clients are.
    let publisher_address = server.stream("x")?.context("no stream")?["publisher"].clone();
    ensure!(publisher_address.as_str().is_some_and(|address| address.starts_with("127.0.0.1")), "{publisher_address}");

    // HLS: the same files by all ways, and ffmpeg plays them.
    let index = String::from_utf8(tls::get(&["--http2"], &tls::https(&server, "live/x.m3u8"))?)?;
    let segments: Vec<&str> = index.lines().filter(|line| line.ends_with(".ts")).collect();
    ensure!(!segments.is_empty(), "{index}");
    for segment in segments {
        let path = format!("live/{segment}");
        let [two, one] = [["--http2"], ["--http1.1"]].map(|version| tls::get(&version, &tls::https(&server, &path)));
        let (two, one, plain) = (two?, one?, tls::get(&[], &server.http(&path))?);
        ensure!(two == plain && one == plain, "{segment}: {} {} {} bytes", two.len(), one.len(), plain.len());
    }
    run_ok("ffmpeg", &["-v", "error", "-i", &tls::https(&server, "live/x.m3u8"), "-t", "2", "-f", "null", "-"], PATIENCE)?;
    let api = format!("https://{}/api/v1/versions", server.address("https_api"));
    ensure!(String::from_utf8(tls::get(&["--http2"], &api)?)?.contains("\"code\":0"), "the API by HTTPS");
    Ok(())
}

#[test]
fn a_certificate_is_changed_and_nobody_is_disconnected() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let make = |name: &str, names: &str| Files::make(directory.path(), name, names);
    let (used, second, next) = (make("used", "DNS:a.test")?, make("second", "DNS:b.test,DNS:*.c.test")?, make("next", "DNS:a.test")?);
    let server = Server::start(tls::options(1, &[&used, &second]))?;
    let address = server.address("https");
    tls::wait_counter(&server, "certificates", 2)?;
    for (name, expected) in [("a.test", "CN=used"), ("b.test", "CN=second"), ("x.c.test", "CN=second"), ("other.test", "CN=used")] {
        ensure!(tls::subject(address, name)? == expected, "{name}: {}", tls::subject(address, name)?);
    }
    let _publisher = tls::publish(&server, "x")?;
    server.wait_live("x")?;
    let flv = tls::https(&server, "live/x.flv");
    let viewers = [Watching::curl("--http2", &flv)?, Watching::curl("--http1.1", &flv)?];
    let go_on = || viewers.iter().try_for_each(|watching| watching.viewer.wait_more(10));
    go_on()?;

    next.replace(&used)?;
    eventually(PATIENCE, || (tls::subject(address, "a.test").ok()? == "CN=next").then_some(())).context("the new one is not used")?;
    go_on()?;
    // What makes no sense changes nothing, and is said.
    std::fs::write(&used.cert, "rubbish")?;
    tls::wait_counter(&server, "certificate_failures", 1)?;
    server.wait_log(&["the certificate cannot be used", "no certificate in it", "the one before goes on"])?;
    ensure!(tls::subject(address, "a.test")? == "CN=next", "the one before is gone");
    let reload = || run(&binary().to_string_lossy(), &["reload", "--shared-dir", &server.shared_dir.to_string_lossy()], PATIENCE);
    let refused = reload()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("[[certificate]] cert"), "{said}");
    go_on()?;
    // Another configuration: one certificate less, and no HTTP/2.
    make("used", "DNS:a.test")?;
    let text = tls::options(1, &[&used]).file.replace("[tls]\n", "[tls]\nhttp2 = false\nmin_version = \"1.3\"\n");
    std::fs::write(server.state_dir.join("test.toml"), text)?;
    let done = reload()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    eventually(PATIENCE, || (tls::subject(address, "b.test").ok()? == "CN=used").then_some(())).context("the second one is still there")?;
    ensure!(tls::version(&server, "--http2")? == "1.1", "HTTP/2 is still spoken");
    ensure!(tls::shake_hands(address, &["-tls1_2"])?.is_none(), "TLS 1.2 is still spoken");
    go_on()
}

#[test]
fn old_protocols_and_weak_ciphers_are_not_spoken() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Server::start(tls::options(1, &[&Files::make(directory.path(), "one", "DNS:localhost")?]))?;
    tls::wait_counter(&server, "certificates", 1)?;
    let https = server.address("https");
    for address in [https, server.address("rtmps"), server.address("https_api")] {
        for old in ["-tls1", "-tls1_1"] {
            ensure!(tls::shake_hands(address, &[old, "-cipher", "ALL:@SECLEVEL=0"])?.is_none(), "{old} at {address}");
        }
        for new in ["-tls1_2", "-tls1_3"] {
            ensure!(tls::shake_hands(address, &[new])?.is_some(), "{new} at {address}");
        }
    }
    let all = run_ok("openssl", &["ciphers", "-s", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"], PATIENCE)?;
    let of_1_2 = |cipher: &&str| !cipher.starts_with("TLS_");
    let mut taken = BTreeSet::new();
    for cipher in all.trim().split(':').filter(of_1_2) {
        if tls::shake_hands(https, &["-tls1_2", "-cipher", &format!("{cipher}:@SECLEVEL=0")])?.is_some() {
            taken.insert(cipher);
        }
    }
    // The key of the certificate is of a curve; those for RSA keys are the same.
    let expected = ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"];
    ensure!(taken == BTreeSet::from(expected), "{taken:?}");
    for (cipher, good) in [
        ("TLS_AES_128_GCM_SHA256", true),
        ("TLS_AES_256_GCM_SHA384", true),
        ("TLS_CHACHA20_POLY1305_SHA256", true),
        ("TLS_AES_128_CCM_SHA256", false),
    ] {
        let there = tls::shake_hands(https, &["-tls1_3", "-ciphersuites", cipher])?.is_some();
        ensure!(there == good, "{cipher}: {there}");
    }
    for (offer, answer) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let version = tls::version(&server, offer)?;
        ensure!(version == answer, "{offer}: {version}");
    }
    Ok(())
}

#[test]
fn tls_outlives_the_front_and_is_replaced_by_an_upgrade() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let program = directory.path().join("braidcast");
    std::fs::copy(binary(), &program)?;
    let files = Files::make(directory.path(), "one", "DNS:localhost")?;
    let mut server = Server::start(ServerOptions { program: Some(program.clone()), ..tls::options(2, &[&files]) })?;
    let mut publisher = tls::publish(&server, "x")?;
    server.wait_live("x")?;
    let flv = tls::https(&server, "live/x.flv");
    let mut old = [Watching::curl("--http2", &flv)?, Watching::curl("--http1.1", &flv)?];
    let go_on = |viewers: &[Watching]| viewers.iter().try_for_each(|watching| watching.viewer.wait_more(10));
    go_on(&old)?;
    let first = tls::attendant_pid(&server)?;

    server.replace_front()?;
    go_on(&old)?;
    ensure!(tls::wait_attendant(&server)? == first, "the front that came has started another one");
    let new = Watching::curl("--http2", &flv)?;
    go_on(&[new])?;

    // The same binary, but another file: to the server it is another one.
    let part = directory.path().join("part");
    std::fs::copy(binary(), &part)?;
    std::fs::rename(&part, &program)?;
    run_ok(&program.to_string_lossy(), &["upgrade", "--shared-dir", &server.shared_dir.to_string_lossy()], PATIENCE)?;
    let second = eventually(PATIENCE, || tls::attendant_pid(&server).ok().filter(|pid| *pid != first)).context("no other one")?;
    let new = Watching::curl("--http2", &flv)?;
    go_on(&[new])?;
    // Who was there is served by the first one; it ends with the last of them.
    go_on(&old)?;
    ensure!(publisher.is_running() && alive(first), "the first one has ended before its clients");
    for watching in &mut old {
        signal(watching.tool.pid(), "KILL")?;
    }
    drop(old);
    signal(publisher.pid(), "KILL")?;
    publisher.wait(PATIENCE)?;
    eventually(PATIENCE, || (!alive(first)).then_some(())).context("the first one does not end")?;

    // A death of its own is noticed, and made good.
    let _publisher = tls::publish(&server, "x")?;
    server.wait_live("x")?;
    let mut lost = Watching::curl("--http1.1", &flv)?;
    lost.viewer.wait_more(5)?;
    signal(second, "KILL")?;
    lost.tool.wait(PATIENCE)?;
    ensure!(tls::wait_attendant(&server)? != second, "nobody has its place");
    let _publisher = tls::publish(&server, "x")?;
    let new = Watching::curl("--http2", &flv)?;
    go_on(&[new])?;
    ensure!(tls::attendant(&server)?["restarts"] == 1, "{}", tls::attendant(&server)?);
    let last = tls::attendant_pid(&server)?;
    signal(server.front_pid().context("no front")?, "TERM")?;
    eventually(PATIENCE, || (!alive(last)).then_some(())).context("it outlives the server")?;
    Ok(())
}

/// Resident memory of a process, in KiB.
fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn a_viewer_that_takes_nothing_is_slow_to_its_worker_too() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let options = tls::options(1, &[&Files::make(directory.path(), "one", "DNS:localhost")?]);
    let server = Server::start(options.set("play.max_lag=1s"))?;
    let _publisher = media::publish_loop(&media::Clip::Heavy.file(10)?, &server.rtmp("heavy"))?;
    server.wait_live("heavy")?;
    let flv = tls::https(&server, "live/heavy.flv");
    let healthy = Watching::curl("--http2", &flv)?;
    let stopped = [Watching::curl("--http2", &flv)?, Watching::curl("--http1.1", &flv)?];
    healthy.viewer.wait_more(10)?;
    stopped.iter().try_for_each(|watching| watching.viewer.wait_more(10))?;
    let attendant = tls::attendant_pid(&server)?;
    let before = resident_kib(attendant)?;
    for watching in &stopped {
        signal(watching.tool.pid(), "STOP")?;
    }
    // Their worker sees both, and jumps them as soon as they take something.
    let lags = || server.workers_counter("viewer_jumps") >= 2;
    eventually(PATIENCE, || lags().then_some(())).with_context(|| format!("nobody was jumped:\n{}", server.log_text()))?;
    let grown = resident_kib(attendant)?.saturating_sub(before);
    ensure!(grown < 8 << 10, "the attendant has taken {grown} KiB for what nobody reads");
    healthy.viewer.wait_more(50)?;
    for watching in &stopped {
        signal(watching.tool.pid(), "CONT")?;
    }
    stopped.iter().try_for_each(|watching| watching.viewer.wait_more(50))
}

#[test]
fn limits_hold_before_and_after_the_handshake() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let options = tls::options(1, &[&Files::make(directory.path(), "one", "DNS:localhost")?]);
    let server = Server::start(options.set("limits.connections_per_address=6").set("limits.handshake=1s").set("limits.idle=2s"))?;
    tls::wait_counter(&server, "certificates", 1)?;
    let address = server.address("https");
    // Who says nothing, and who speaks something else.
    let mut silent = TcpStream::connect(address)?;
    silent.set_read_timeout(Some(PATIENCE))?;
    ensure!(silent.read(&mut [0])? == 0, "a silent client was answered");
    tls::wait_counter(&server, "handshake_timeouts", 1)?;
    ensure!(
        run("curl", &["-s", "--max-time", "20", &format!("http://{address}/")], PATIENCE)?.status.code() != Some(0),
        "HTTP was answered"
    );
    tls::wait_counter(&server, "handshake_failures", 1)?;
    // So many handshakes of one address, and no more connections than these.
    let _publisher = braidcast_e2e::rtmp::Pump::start(&server.rtmp("x"), "x")?;
    server.wait_live("x")?;
    let flv = tls::https(&server, "live/x.flv");
    let viewers: Vec<Watching> = (0..5).map(|_| Watching::curl("--http1.1", &flv)).collect::<Result<_>>()?;
    viewers.iter().try_for_each(|watching| watching.viewer.wait_more(3))?;
    let refused = run("curl", &["-skf", "--max-time", "20", "--http1.1", &tls::https(&server, "streams.json")], PATIENCE)?;
    ensure!(!refused.status.success(), "a connection too many was answered");
    ensure!(server.front_counter("refused_per_address") + tls::counter(&server, "refused_per_address") >= 1, "{}", server.status()?);
    drop(viewers);
    // Each request of HTTP/2 is a connection too: refused ones are said so.
    let mut many = vec!["-skZ", "--parallel-immediate", "--http2", "--max-time", "3", "-o", "/dev/null", "-w", "%{http_code} "];
    many.extend(std::iter::repeat_n(flv.as_str(), 8));
    let said = eventually(PATIENCE, || {
        let output = run("curl", &many, PATIENCE).ok()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (said.contains("200") && said.contains("503")).then_some(said)
    });
    ensure!(said.is_some(), "nobody was refused:\n{}", server.log_text());
    tls::wait_counter(&server, "http2_failures", 1)?;
    eventually(PATIENCE, || (tls::counter(&server, "connections") == 0).then_some(())).context("connections are left over")?;
    Ok(())
}
