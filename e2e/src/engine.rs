//! Processes of another server behind a Braidcast: what is the same for all of them, whatever server it is.
//!
//! The checks take a server that is ready; each leaves it running.

use crate::media;
use crate::rtmp::RtmpClient;
use crate::server::{alive, binary, signal};
use crate::tools::{Tool, eventually, http_get, run, run_ok};
use crate::{Server, ServerOptions, Viewer};
use anyhow::{Context, Result, ensure};
use braidcast_media::RecordKind;
use braidcast_protocols::rtmp::{ClientOutput, ClientRole};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long something may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a start is tried when a port was taken in between.
const STARTS: u32 = 5;
/// How many players of one stream there are.
pub const PLAYERS: usize = 30;
/// What a player has to see to have got the stream, in video frames.
const FRAMES: u64 = 25;
/// A frame of 25 in a second, and what the clock of MPEG-TS and of segments may round, in seconds.
const FRAME_AND_SLACK: f64 = 0.045;

/// The module of nginx that speaks RTMP, where Debian puts it.
const RTMP_MODULE: &str = "/usr/lib/nginx/modules/ngx_rtmp_module.so";
/// The module of nginx that passes on TCP.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// The line of the example that a site with an `on_publish` puts its own in place of.
const ON_PUBLISH: &str = "# on_publish http://127.0.0.1:8000/on_publish;";

/// Whether nginx can be had here with both modules.
pub fn has_nginx() -> bool {
    [RTMP_MODULE, STREAM_MODULE].iter().all(|module| Path::new(module).is_file())
}

/// The example of the documentation: a template for processes of nginx-rtmp.
fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/nginx-rtmp.conf")
}

/// The command that the example says it is started with.
fn example_command() -> Result<String> {
    let text = std::fs::read_to_string(example())?;
    let line = text.lines().find_map(|line| line.strip_prefix("#   command = "));
    Ok(line.context("the example does not say how it is started")?.trim_matches('"').to_owned())
}

/// A server in front of processes of nginx-rtmp, each as the example says; with the file of a template of one's own, of that.
pub fn nginx_options(processes: u16, template: Option<&Path>) -> Result<ServerOptions> {
    let template = template.map_or_else(example, Path::to_owned);
    let file = format!(
        "[engine]\nkind = \"external\"\ncommand = \"{}\"\ntemplate = \"{}\"\nprocesses = {processes}\n",
        example_command()?,
        template.canonicalize()?.display()
    );
    Ok(ServerOptions { file, ..ServerOptions::workers(2) })
}

/// The example with an `on_publish` of the test's, in a directory.
pub fn nginx_that_asks(directory: &Path, hook: SocketAddr) -> Result<PathBuf> {
    let text = std::fs::read_to_string(example())?;
    ensure!(text.contains(ON_PUBLISH), "the example does not say {ON_PUBLISH}");
    let file = directory.join("nginx-rtmp.conf");
    std::fs::write(&file, text.replace(ON_PUBLISH, &format!("on_publish http://{hook}/on_publish;")))?;
    Ok(file)
}

/// A process of nginx as the example says, started by hand.
pub struct LoneNginx {
    /// Where it speaks RTMP.
    pub rtmp: SocketAddr,
    _process: Tool,
    _directory: tempfile::TempDir,
}

impl LoneNginx {
    /// Starts one.
    pub fn start() -> Result<Self> {
        on_free_ports(Self::start_once)
    }

    fn start_once() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("braidcast-nginx-").tempdir()?;
        let port = crate::server::free_ports(3)?;
        let root = directory.path().display().to_string();
        // nginx-rtmp makes the last level of its directory alone.
        std::fs::create_dir(directory.path().join("__defaultVhost__"))?;
        let config = directory.path().join("server.conf");
        let values = [
            ("{id}", "1".to_owned()),
            ("{rtmp_port}", port.to_string()),
            ("{http_port}", (port + 1).to_string()),
            ("{api_port}", (port + 2).to_string()),
            ("{hls_dir}", root.clone()),
            ("{dir}", root),
            ("{config}", config.display().to_string()),
        ];
        let filled = |text: String| values.iter().fold(text, |text, (name, value)| text.replace(name, value));
        std::fs::write(&config, filled(std::fs::read_to_string(example())?))?;
        // The example's command has one quoted word.
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("exec {}", filled(example_command()?)));
        let rtmp = SocketAddr::from(([127, 0, 0, 1], port));
        let process = listening(command, rtmp)?;
        Ok(Self { rtmp, _process: process, _directory: directory })
    }
}

/// nginx passing on TCP to servers in turn: it knows nothing of streams.
pub struct BlindProxy {
    /// Where it takes connections.
    pub rtmp: SocketAddr,
    _process: Tool,
    _directory: tempfile::TempDir,
}

impl BlindProxy {
    /// Starts one in front of these.
    pub fn start(servers: &[SocketAddr]) -> Result<Self> {
        on_free_ports(|| Self::start_once(servers))
    }

    fn start_once(servers: &[SocketAddr]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("braidcast-nginx-").tempdir()?;
        let rtmp = SocketAddr::from(([127, 0, 0, 1], crate::server::free_ports(1)?));
        let root = directory.path().display();
        let servers: String = servers.iter().map(|server| format!("server {server};")).collect();
        let text = format!(
            "load_module {STREAM_MODULE};\nmaster_process off;\ndaemon off;\npid {root}/pid;\nerror_log stderr warn;\nevents {{}}\n\
             stream {{ upstream servers {{ {servers} }} server {{ listen {rtmp}; proxy_pass servers; }} }}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, text)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(directory.path()).arg("-c").arg(&file).args(["-e", "stderr"]);
        let process = listening(command, rtmp)?;
        Ok(Self { rtmp, _process: process, _directory: directory })
    }
}

/// Starts something that opens its ports itself; if one was taken in between, others are tried.
fn on_free_ports<T>(start: impl Fn() -> Result<T>) -> Result<T> {
    (1..STARTS).find_map(|_| start().ok()).map_or_else(&start, Ok)
}

/// Starts a program and waits until it listens there.
fn listening(mut command: Command, address: SocketAddr) -> Result<Tool> {
    let mut process = Tool::of(command.stdin(std::process::Stdio::null()).spawn()?);
    let there = || std::net::TcpStream::connect(address).is_ok();
    let up = eventually(PATIENCE, || (there() || !process.is_running()).then_some(()));
    ensure!(up.is_some() && process.is_running(), "nobody listens at {address}");
    Ok(process)
}

impl Server {
    /// The rows of the processes in the status.
    pub fn processes(&self) -> Result<Vec<Value>> {
        let status = self.status()?;
        status["processes"].as_array().cloned().with_context(|| format!("no processes in {status}"))
    }

    /// A process's row.
    pub fn process(&self, id: u16) -> Result<Value> {
        self.processes()?.into_iter().find(|process| process["id"] == id).with_context(|| format!("no process {id}"))
    }

    /// A process's own process id.
    pub fn process_pid(&self, id: u16) -> Result<u32> {
        let row = self.process(id)?;
        row["pid"].as_u64().filter(|pid| *pid > 0).map(|pid| pid as u32).with_context(|| format!("no process: {row}"))
    }

    /// The process that a live stream is published at.
    pub fn process_of(&self, name: &str) -> Result<u16> {
        let stream = self.wait_live(name)?;
        stream["process"].as_u64().map(|id| id as u16).with_context(|| format!("at no process: {stream}"))
    }

    /// Waits until another process than this one has the place and takes connections.
    pub fn wait_replaced(&self, id: u16, old: u32) -> Result<Value> {
        let replaced = || self.process(id).ok().filter(|row| row["pid"] != old && row["pid"] != 0 && row["state"] == "ready");
        eventually(PATIENCE, replaced).with_context(|| format!("process {id} did not come back:\n{}", self.log_text()))
    }

    /// An order of the command line to this server: `drain --process 1`.
    pub fn order(&self, words: &[&str]) -> Result<String> {
        let output = Command::new(binary()).args(words).arg("--shared-dir").arg(&self.shared_dir).output()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(output.status.success(), "braidcast {words:?}: {said}\n{}", self.log_text());
        Ok(said)
    }
}

/// A publisher that comes back whenever it is thrown out, as encoders do.
pub struct Stubborn {
    thread: Option<JoinHandle<Result<()>>>,
    stop: Arc<AtomicBool>,
}

impl Stubborn {
    /// Publishes a test picture and a tone.
    pub fn publish(url: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, url) = (stop.clone(), url.to_owned());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut publisher = media::publish_live(&url)?;
                while publisher.is_running() && !stopped.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Ok(())
        });
        Self { thread: Some(thread), stop }
    }
}

impl Drop for Stubborn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Publishes under so many names, `s0` and on; each is live when the next one comes.
pub fn publish_many(server: &Server, count: usize) -> Result<Vec<Tool>> {
    (0..count)
        .map(|number| {
            let tool = media::publish_live(&server.rtmp(&format!("s{number}")))?;
            server.wait_live(&format!("s{number}"))?;
            Ok(tool)
        })
        .collect()
}

/// Whoever asks for a stream at the one address gets it, whichever process has it.
pub fn every_player_gets_the_stream(server: &Server) -> Result<()> {
    let _others = publish_many(server, 2)?;
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let players = (0..PLAYERS).map(|_| Viewer::rtmp(&server.rtmp("x"))).collect::<Result<Vec<_>>>()?;
    let fed = || players.iter().filter(|player| player.frames() >= FRAMES).count();
    eventually(PATIENCE, || (fed() == PLAYERS).then_some(()))
        .with_context(|| format!("{} of {PLAYERS} are fed:\n{}", fed(), server.log_text()))?;
    players.into_iter().try_for_each(Viewer::end)?;
    let names = ["s0", "s1", "x"];
    let places = names.iter().map(|name| server.process_of(name)).collect::<Result<BTreeSet<_>>>()?;
    ensure!(places.len() == names.len(), "three streams are at the processes {places:?}");
    Ok(())
}

/// Counts the players, of thirty, that get a stream which is published to `url` and asked for there.
pub fn fed_of_thirty(url: &str) -> Result<usize> {
    let _publisher = media::publish_live(url)?;
    let players = (0..PLAYERS).map(|_| Viewer::rtmp(url)).collect::<Result<Vec<_>>>()?;
    let fed = || players.iter().find(|player| player.frames() >= FRAMES);
    // By the time one that is fed has so many frames more, all that are fed have begun.
    eventually(PATIENCE, fed).context("nobody gets the stream")?.wait_more(4 * FRAMES)?;
    Ok(players.iter().filter(|player| player.frames() > 0).count())
}

/// How publishers are shared out: waits for these numbers of them at the processes.
pub fn publishers_are_shared_out(server: &Server, count: usize, want: &[u64]) -> Result<()> {
    let _tools = publish_many(server, count)?;
    let got =
        || -> Result<Vec<u64>> { Ok(server.processes()?.iter().map(|process| process["current"].as_u64().unwrap_or(u64::MAX)).collect()) };
    let reached = eventually(PATIENCE, || got().ok().filter(|got| got == want));
    ensure!(reached.is_some(), "wanted {want:?}, got {:?}", got());
    let mut places = vec![0; want.len()];
    for number in 0..count {
        places[usize::from(server.process_of(&format!("s{number}"))?) - 1] += 1;
    }
    ensure!(places == want, "the streams' rows say {places:?}");
    Ok(())
}

/// Past `max_publishers` a publisher is refused; `server` has room for two.
pub fn one_publisher_too_many_is_refused(server: &Server) -> Result<()> {
    let mut tools = publish_many(server, 2)?;
    for row in server.processes()? {
        ensure!(row["allowed"] == 1 && row["current"] == 1 && row["free"] == 0, "{row}");
    }
    let file = media::Clip::Plain.file(10)?;
    let publish = ["-v", "error", "-i", &file.to_string_lossy(), "-c", "copy", "-f", "flv", &server.rtmp("one-too-many")];
    let refused = run("ffmpeg", &publish, PATIENCE)?;
    ensure!(!refused.status.success(), "the third publisher was taken");
    server.wait_log(&["max_publishers"])?;
    // Room again when one of them is gone.
    tools.pop();
    eventually(PATIENCE, || RtmpClient::publish(&server.rtmp("another")).ok()).context("no room again")?;
    Ok(())
}

/// Who plays a stream that comes later waits for it; who plays one that never comes is told so after `play_wait`, which is to be 5 s.
pub fn play_waits_for_the_stream(server: &Server) -> Result<()> {
    let began = Instant::now();
    let early = Viewer::rtmp(&server.rtmp("later"))?;
    let mut in_vain = RtmpClient::connect(&server.rtmp("never"), ClientRole::Play)?;
    eventually(PATIENCE, || (server.front_counter("connections") >= 2).then_some(())).context("they are not connected")?;
    let _publisher = media::publish_live(&server.rtmp("later"))?;
    early.wait_more(FRAMES).with_context(|| server.log_text())?;
    let said = in_vain.wait(|output| matches!(output, ClientOutput::Started | ClientOutput::Refused { .. }))?;
    ensure!(matches!(&said, ClientOutput::Refused { code, .. } if code == "NetStream.Play.StreamNotFound"), "{said:?}");
    ensure!(began.elapsed() >= Duration::from_millis(4_900), "told after {:?}", began.elapsed());
    early.end()
}

/// The segment numbers that an index lists.
pub fn numbers(index: &str) -> Vec<u64> {
    index.lines().filter_map(|line| line.split('?').next()?.strip_suffix(".ts")?.rsplit('/').next()?.parse().ok()).collect()
}

/// A stream's live index, if there is one.
pub fn live_index(server: &Server, name: &str) -> Option<String> {
    http_get(&server.http(&format!("live/{name}.m3u8"))).ok().filter(|answer| answer.status == 200).map(|answer| answer.text())
}

/// Waits until the live index lists a segment with at least this number, and then looks whether its numbers rise by one.
pub fn index_with(server: &Server, name: &str, number: u64) -> Result<String> {
    let reached = eventually(PATIENCE, || live_index(server, name).filter(|index| numbers(index).last() >= Some(&number)));
    let index = reached.with_context(|| format!("no segment {number} in {:?}:\n{}", live_index(server, name), server.log_text()))?;
    ensure!(numbers(&index).windows(2).all(|pair| pair[1] == pair[0] + 1), "numbers are left out: {index}");
    Ok(index)
}

/// HLS is numbered from 1, lies in the shared directory, and is played from the one address without a gap.
pub fn hls_is_collected_and_has_no_gap(server: &Server) -> Result<()> {
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    let index = index_with(server, "x", 5)?;
    ensure!(numbers(&index).first() == Some(&1) && index.contains("#EXT-X-MEDIA-SEQUENCE:1\n"), "{index}");
    for number in 1..=5 {
        let file = std::fs::read(server.stream_dir("x").join(format!("hls/{number}.ts")))?;
        let served = http_get(&server.http(&format!("live/x/{number}.ts")))?;
        ensure!(served.status == 200 && served.body == file && file.len() % 188 == 0, "segment {number}: {}", served.head);
    }
    // Eight seconds from the first segment on, over ends of segments.
    let url = server.http("live/x.m3u8");
    let read = ["-v", "error", "-live_start_index", "0", "-read_intervals", "%+8", "-show_entries", "packet=dts_time"];
    let times = run_ok("ffprobe", &[&read[..], &["-select_streams", "v:0", "-of", "csv=p=0", &url]].concat(), PATIENCE)?;
    let times: Vec<f64> = times.lines().filter_map(|line| line.trim_end_matches(',').parse().ok()).collect();
    ensure!(times.len() >= 190, "{} frames in eight seconds", times.len());
    let gap = times.windows(2).find(|pair| pair[1] <= pair[0] || pair[1] - pair[0] > FRAME_AND_SLACK);
    ensure!(gap.is_none(), "a gap: {gap:?}");
    Ok(())
}

/// A process is killed: it comes back, its publisher is placed elsewhere meanwhile, its HLS goes on with higher numbers.
pub fn a_killed_process_comes_back_and_its_streams_go_on(server: &Server) -> Result<()> {
    // The third stream is at the process that is the last choice once the others are gone.
    let others = publish_many(server, 2)?;
    let publisher = Stubborn::publish(&server.rtmp("x"));
    let (before, pids) = (server.process_of("x")?, [1, 2, 3].map(|id| server.process_pid(id).unwrap_or(0)));
    let last = *numbers(&index_with(server, "x", 2)?).last().context("an empty index")?;
    drop(others);
    eventually(PATIENCE, || server.processes().ok().filter(|rows| rows.iter().filter(|row| row["current"] == 0).count() == 2))
        .context("the others do not end")?;
    let old = server.process_pid(before)?;
    signal(old, "KILL")?;
    let row = server.wait_replaced(before, old)?;
    ensure!(row["restarts"] == 1, "{row}");
    let after = eventually(PATIENCE, || server.process_of("x").ok().filter(|process| *process != before))
        .with_context(|| format!("the stream stays at process {before}:\n{}", server.log_text()))?;
    let index = index_with(server, "x", last + 3)?;
    ensure!(index.contains("#EXT-X-DISCONTINUITY\n"), "no discontinuity: {index}");
    let viewer = Viewer::rtmp(&server.rtmp("x"))?;
    viewer.wait_more(FRAMES)?;
    for id in [1, 2, 3].into_iter().filter(|id| *id != before) {
        ensure!(server.process_pid(id)? == pids[usize::from(id) - 1], "process {id} was started anew too, {after} has the stream");
    }
    drop(publisher);
    viewer.end().or(Ok(()))
}

/// A publisher that leaves and comes back is led to where its viewers wait, though another process has more room.
pub fn viewers_get_the_publisher_that_comes_back(server: &Server) -> Result<()> {
    let others = publish_many(server, 1)?;
    let publisher = media::publish_live(&server.rtmp("x"))?;
    let before = server.process_of("x")?;
    let mut players = [RtmpClient::start(&server.rtmp("x"), ClientRole::Play)?, RtmpClient::start(&server.rtmp("x"), ClientRole::Play)?];
    players.iter_mut().try_for_each(gets_frames)?;
    drop((others, publisher));
    let nobody = || server.processes().ok()?.iter().all(|row| row["current"] == 0).then_some(());
    eventually(PATIENCE, nobody).context("the publishers do not leave")?;
    // What came on the way.
    for player in &mut players {
        while player.next(Duration::from_millis(200))?.is_some() {}
    }
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    for player in &mut players {
        gets_frames(player).with_context(|| format!("before at {before}, now {:?}\n{}", server.process_of("x"), server.log_text()))?;
    }
    Ok(())
}

/// Players of a process that has no room for their publisher when it comes back are closed, and led to the other one when they come back
/// too; each of the two processes takes one.
pub fn players_are_closed_where_their_publisher_does_not_come_back(server: &Server) -> Result<()> {
    let publisher = media::publish_live(&server.rtmp("x"))?;
    let before = server.process_of("x")?;
    let mut player = RtmpClient::start(&server.rtmp("x"), ClientRole::Play)?;
    gets_frames(&mut player)?;
    drop(publisher);
    let nobody = || server.processes().ok()?.iter().all(|row| row["current"] == 0).then_some(());
    eventually(PATIENCE, nobody).context("the publisher does not leave")?;
    let _another = media::publish_live(&server.rtmp("y"))?;
    ensure!(server.process_of("y")? == before, "the other stream is at process {}", server.process_of("y")?);
    let _publisher = media::publish_live(&server.rtmp("x"))?;
    eventually(PATIENCE, || player.next(Duration::from_millis(100)).is_err().then_some(()))
        .with_context(|| format!("the player stays where nothing comes:\n{}", server.log_text()))?;
    ensure!(server.process_of("x")? != before, "two publishers are at a process that takes one");
    gets_frames(&mut RtmpClient::start(&server.rtmp("x"), ClientRole::Play)?)
}

/// An encoder that comes back before its old connection is seen to be gone takes its stream over, players and all.
pub fn an_encoder_takes_its_own_stream_over(server: &Server) -> Result<()> {
    let mut old = media::publish_live(&server.rtmp("x"))?;
    server.wait_live("x")?;
    let mut player = RtmpClient::start(&server.rtmp("x"), ClientRole::Play)?;
    gets_frames(&mut player)?;
    let _new = Stubborn::publish(&server.rtmp("x"));
    eventually(PATIENCE, || (!old.is_running()).then_some(())).with_context(|| format!("two publish:\n{}", server.log_text()))?;
    // More than can have come of the old one on the way.
    (0..4).try_for_each(|_| gets_frames(&mut player)).with_context(|| server.log_text())
}

/// A player that gets frames, whatever their times: nginx-rtmp has those of each publisher begin anew.
fn gets_frames(player: &mut RtmpClient) -> Result<()> {
    (0..FRAMES).try_for_each(|_| player.wait(|output| matches!(output, ClientOutput::Media { kind: RecordKind::Video, .. })).map(drop))
}

/// The death of a worker ends what it relayed; who comes back goes on, and the processes have noticed nothing.
pub fn a_workers_death_costs_its_connections_alone(server: &Server) -> Result<()> {
    let _publishers = [Stubborn::publish(&server.rtmp("a")), Stubborn::publish(&server.rtmp("b"))];
    let pids = |server: &Server| -> Result<Vec<u32>> { (1..=3).map(|id| server.process_pid(id)).collect() };
    let before = pids(server)?;
    for name in ["a", "b"] {
        server.wait_live(name)?;
    }
    let last = *numbers(&index_with(server, "a", 1)?).last().context("an empty index")?;
    for worker in [1, 2] {
        server.kill_worker(worker)?;
        for name in ["a", "b"] {
            let viewer = eventually(PATIENCE, || {
                let viewer = Viewer::rtmp(&server.rtmp(name)).ok()?;
                viewer.wait_more(FRAMES).is_ok().then_some(viewer)
            });
            viewer.with_context(|| format!("{name} is not to be had:\n{}", server.log_text()))?.end()?;
        }
    }
    index_with(server, "a", last + 3)?;
    ensure!(pids(server)? == before, "processes {before:?} became {:?}", pids(server)?);
    ensure!(server.processes()?.iter().all(|row| row["restarts"] == 0), "{:?}", server.processes());
    Ok(())
}

/// A front that is killed and replaced costs neither the processes nor anybody's connection anything.
pub fn another_front_finds_the_processes(server: &mut Server) -> Result<()> {
    let mut publishers = publish_many(server, 3)?;
    let viewer = Viewer::rtmp(&server.rtmp("s1"))?;
    viewer.wait_more(FRAMES)?;
    let pids = |server: &Server| -> Result<Vec<u32>> { (1..=3).map(|id| server.process_pid(id)).collect() };
    let (before, places) = (pids(server)?, [0, 1, 2].map(|number| server.process_of(&format!("s{number}")).ok()));
    server.replace_front()?;
    eventually(PATIENCE, || server.processes().ok()?.iter().all(|row| row["state"] == "ready" && row["current"] == 1).then_some(()))
        .with_context(|| format!("{:?}\n{}", server.processes(), server.log_text()))?;
    ensure!(pids(server)? == before, "processes {before:?} became {:?}", pids(server)?);
    ensure!(places == [0, 1, 2].map(|number| server.process_of(&format!("s{number}")).ok()), "streams are elsewhere");
    viewer.wait_more(FRAMES)?;
    ensure!(publishers.iter_mut().all(Tool::is_running), "a publisher was closed");
    // It knows where they are: who comes now is led there.
    Viewer::rtmp(&server.rtmp("s2"))?.wait_more(FRAMES)?;
    viewer.end()
}

/// A front that is gone for good takes all with it after `front_grace`, which is to be 1 s.
pub fn nobody_outlives_a_front_that_is_gone_for_good(server: &Server) -> Result<()> {
    let _publishers = publish_many(server, 2)?;
    signal(server.pid(), "KILL")?;
    let gone = eventually(PATIENCE, || {
        // The front is this process's child, and stays a name in the table until it is waited for.
        crate::server::processes_of(&server.shared_dir).iter().all(|pid| *pid == server.pid()).then_some(())
    });
    gone.with_context(|| format!("{:?} are left:\n{}", crate::server::processes_of(&server.shared_dir), server.log_text()))
}

/// After the end of the server there is none of its processes, and nothing of theirs.
pub fn nothing_is_left_behind(server: &mut Server) -> Result<()> {
    let _publishers = publish_many(server, 2)?;
    let pids = server.processes()?.iter().filter_map(|row| row["pid"].as_u64()).map(|pid| pid as u32).collect::<Vec<_>>();
    ensure!(pids.len() == 3 && pids.iter().all(|pid| alive(*pid)), "{pids:?}");
    server.stop()?;
    let left: Vec<u32> = pids.into_iter().filter(|pid| alive(*pid)).collect();
    ensure!(left.is_empty(), "processes are left: {left:?}\n{}", server.log_text());
    let used = crate::server::processes_of(&server.shared_dir);
    ensure!(used.is_empty(), "processes use the directory: {used:?}");
    let told: Vec<_> =
        server.shared_dir.join("engine").read_dir().into_iter().flatten().flatten().filter(|entry| entry.path().is_file()).collect();
    ensure!(told.is_empty(), "of processes that are gone is still told: {told:?}");
    Ok(())
}
