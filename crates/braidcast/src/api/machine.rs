//! What SRS's API says of the processes and the machine: sampled by the front, which alone may look at all of them, and left in the shared
//! directory for the workers.
//!
//! A figure that the kernel does not give away is 0, as with SRS.

use serde_json::{Map, Number, Value, json};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

/// The name of the file in the shared directory.
pub const NAME: &str = "machine.json";
/// Clock ticks of /proc: `USER_HZ`, the same on every architecture that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;
const SECTOR_BYTES: u64 = 512;
/// The files that are read are shorter than this, most of them much.
const FILE_BYTES: usize = 8 << 10;
/// No more is read of one.
const MOST_BYTES: u64 = 1 << 20;

/// The fields of /proc/PID/stat behind the command (proc_pid_stat(5)), by SRS's names.
const STAT_FIELDS: [&str; 42] = [
    "state",
    "ppid",
    "pgrp",
    "session",
    "tty_nr",
    "tpgid",
    "flags",
    "minflt",
    "cminflt",
    "majflt",
    "cmajflt",
    "utime",
    "stime",
    "cutime",
    "cstime",
    "priority",
    "nice",
    "num_threads",
    "itrealvalue",
    "starttime",
    "vsize",
    "rss",
    "rsslim",
    "startcode",
    "endcode",
    "startstack",
    "kstkesp",
    "kstkeip",
    "signal",
    "blocked",
    "sigignore",
    "sigcatch",
    "wchan",
    "nswap",
    "cnswap",
    "exit_signal",
    "processor",
    "rt_priority",
    "policy",
    "delayacct_blkio_ticks",
    "guest_time",
    "cguest_time",
];

/// Those that add up over processes; the others are the front's.
const ADDED: [&str; 16] = [
    "minflt",
    "cminflt",
    "majflt",
    "cmajflt",
    "utime",
    "stime",
    "cutime",
    "cstime",
    "num_threads",
    "vsize",
    "rss",
    "nswap",
    "cnswap",
    "delayacct_blkio_ticks",
    "guest_time",
    "cguest_time",
];

/// The columns of the first line of /proc/stat, by SRS's names.
const CPU_FIELDS: [&str; 9] = ["user", "nice", "sys", "idle", "iowait", "irq", "softirq", "steal", "guest"];

/// Figures of which rates are made, of the sample before.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    at_ms: u64,
    used_ticks: f64,
    cpu_total: f64,
    cpu_idle: f64,
    paged_in_kb: f64,
    paged_out_kb: f64,
}

/// Looks at processes and machine again and again.
#[derive(Debug, Default)]
pub struct Sampler {
    before: Before,
}

impl Sampler {
    /// How often it is worth to look: as SRS does.
    pub const PERIOD: Duration = Duration::from_secs(3);

    /// Looks once more, at the front and its workers, and writes what it sees.
    ///
    /// # Errors
    /// The shared directory takes no more.
    pub fn sample(&mut self, shared_dir: &Path, front: u32, workers: &[u32], now_ms: u64) -> io::Result<()> {
        let sample = self.look(front, workers, now_ms);
        let (path, new) = (shared_dir.join(NAME), shared_dir.join(format!("{NAME}.new")));
        fs::write(&new, sample.to_string())?;
        fs::rename(new, path)
    }

    fn look(&mut self, front: u32, workers: &[u32], now_ms: u64) -> Value {
        let before = std::mem::replace(&mut self.before, Before { at_ms: now_ms, ..Before::default() });
        let elapsed_ms = now_ms.saturating_sub(before.at_ms) as f64;
        let stats: Vec<Map<String, Value>> = std::iter::once(front)
            .chain(workers.iter().copied())
            .filter_map(|pid| process_stat(&read(&format!("/proc/{pid}/stat"))))
            .collect();
        let mut own = added(&stats);
        let sum = |field: &str| number(&own, field);
        self.before.used_ticks = sum("utime") + sum("stime");
        let used = self.before.used_ticks - before.used_ticks;
        let percent = if before.at_ms > 0 && elapsed_ms > 0.0 { used.max(0.0) * 1_000.0 / elapsed_ms / TICKS_PER_SECOND } else { 0.0 };
        let rusage = self.rusage(front, workers, &own, now_ms);
        own.insert("ok".into(), (!stats.is_empty()).into());
        own.insert("sample_time".into(), now_ms.into());
        own.insert("percent".into(), hundredths(percent));
        own.insert("pid".into(), front.into());
        let system_stat = self.system_stat(&before, now_ms);
        let memory = memory(&read("/proc/meminfo"), now_ms);
        let system = self.system(&before, &system_stat, &memory, now_ms);
        let resident_kb = number_of(&rusage["ru_maxrss"]);
        let memory_share = resident_kb / number_of(&memory["MemTotal"]).max(1.0);
        json!({
            "self": {
                "ppid": own["ppid"],
                "argv": command(front),
                "cwd": fs::read_link(format!("/proc/{front}/cwd")).unwrap_or_default(),
                "mem_kbyte": resident_kb as u64,
                "mem_percent": hundredths(memory_share),
                "cpu_percent": own["percent"],
            },
            "system": system,
            "rusages": rusage,
            "self_proc_stats": own,
            "system_proc_stats": system_stat,
            "meminfos": memory,
        })
    }

    fn rusage(&self, front: u32, workers: &[u32], own: &Map<String, Value>, now_ms: u64) -> Value {
        let mut sums = [0u64; 5];
        for pid in std::iter::once(&front).chain(workers) {
            let (status, io) = (read(&format!("/proc/{pid}/status")), read(&format!("/proc/{pid}/io")));
            let figures = [
                keyed(&status, "VmHWM"),
                keyed(&io, "read_bytes") / SECTOR_BYTES,
                keyed(&io, "write_bytes") / SECTOR_BYTES,
                keyed(&status, "voluntary_ctxt_switches"),
                keyed(&status, "nonvoluntary_ctxt_switches"),
            ];
            sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
        }
        let [resident_kb, blocks_in, blocks_out, voluntary, involuntary] = sums;
        let seconds = |field: &str| (number(own, field) / TICKS_PER_SECOND) as u64;
        json!({
            "ok": resident_kb > 0,
            "sample_time": now_ms,
            "ru_utime": seconds("utime"),
            "ru_stime": seconds("stime"),
            "ru_maxrss": resident_kb,
            "ru_ixrss": 0,
            "ru_idrss": 0,
            "ru_isrss": 0,
            "ru_minflt": number(own, "minflt") as u64,
            "ru_majflt": number(own, "majflt") as u64,
            "ru_nswap": 0,
            "ru_inblock": blocks_in,
            "ru_oublock": blocks_out,
            "ru_msgsnd": 0,
            "ru_msgrcv": 0,
            "ru_nsignals": 0,
            "ru_nvcsw": voluntary,
            "ru_nivcsw": involuntary,
        })
    }

    fn system_stat(&mut self, before: &Before, now_ms: u64) -> Value {
        let text = read("/proc/stat");
        let columns: Vec<u64> =
            text.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1).filter_map(|column| column.parse().ok()).collect();
        let mut stat = Map::new();
        // Guests' time is in the users' already.
        self.before.cpu_total = columns.iter().take(8).map(|column| *column as f64).sum();
        self.before.cpu_idle = columns.get(3).map_or(0.0, |idle| *idle as f64);
        let total = self.before.cpu_total - before.cpu_total;
        let idle = self.before.cpu_idle - before.cpu_idle;
        let percent = if before.cpu_total > 0.0 && total > 0.0 { (1.0 - idle / total).clamp(0.0, 1.0) } else { 0.0 };
        stat.insert("ok".into(), (!columns.is_empty()).into());
        stat.insert("sample_time".into(), now_ms.into());
        stat.insert("percent".into(), hundredths(percent));
        for (index, field) in CPU_FIELDS.into_iter().enumerate() {
            stat.insert(field.into(), columns.get(index).copied().unwrap_or(0).into());
        }
        stat.into()
    }

    fn system(&mut self, before: &Before, stat: &Value, memory: &Value, now_ms: u64) -> Value {
        let paged = read("/proc/vmstat");
        let figure = |name: &str| paged.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0.0);
        (self.before.paged_in_kb, self.before.paged_out_kb) = (figure("pgpgin "), figure("pgpgout "));
        let seconds = now_ms.saturating_sub(before.at_ms) as f64 / 1_000.0;
        let per_second = |now: f64, then: f64| if then > 0.0 && seconds > 0.0 { ((now - then).max(0.0) / seconds) as u64 } else { 0 };
        let (uptime, load) = (floats(&read("/proc/uptime")), floats(&read("/proc/loadavg")));
        let at = |list: &[f64], index: usize| hundredths(list.get(index).copied().unwrap_or(0.0));
        let (outer, inner) = traffic(&read("/proc/net/dev"));
        let (sockets, sockets6, snmp) = (read("/proc/net/sockstat"), read("/proc/net/sockstat6"), read("/proc/net/snmp"));
        let (tcp, udp) = (
            socket_count(&sockets, "TCP:", "inuse") + socket_count(&sockets6, "TCP6:", "inuse"),
            socket_count(&sockets, "UDP:", "inuse") + socket_count(&sockets6, "UDP6:", "inuse"),
        );
        let waiting = socket_count(&sockets, "TCP:", "tw");
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let online = read("/proc/stat")
            .lines()
            .filter(|line| line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
            .count();
        json!({
            "cpu_percent": stat["percent"],
            "disk_read_KBps": per_second(self.before.paged_in_kb, before.paged_in_kb),
            "disk_write_KBps": per_second(self.before.paged_out_kb, before.paged_out_kb),
            "disk_busy_percent": hundredths(0.0),
            "mem_ram_kbyte": memory["MemTotal"],
            "mem_ram_percent": memory["percent_ram"],
            "mem_swap_kbyte": memory["SwapTotal"],
            "mem_swap_percent": memory["percent_swap"],
            "cpus": online.max(cpus),
            "cpus_online": online.max(1),
            "uptime": at(&uptime, 0),
            "ilde_time": at(&uptime, 1),
            "load_1m": at(&load, 0),
            "load_5m": at(&load, 1),
            "load_15m": at(&load, 2),
            "net_sample_time": now_ms,
            "net_recv_bytes": outer[0],
            "net_send_bytes": outer[1],
            "net_recvi_bytes": inner[0],
            "net_sendi_bytes": inner[1],
            "conn_sys": tcp + waiting,
            "conn_sys_et": established(&snmp),
            "conn_sys_tw": waiting,
            "conn_sys_udp": udp,
        })
    }
}

/// What the front saw last; `None`: nothing yet.
pub fn last(shared_dir: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(shared_dir.join(NAME)).ok()?).ok()
}

/// A file of /proc; empty if it cannot be read.
fn read(path: &str) -> String {
    let mut bytes = Vec::with_capacity(FILE_BYTES);
    let _ = File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes));
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// `pid (command) state …`, where the command may hold anything.
fn process_stat(text: &str) -> Option<Map<String, Value>> {
    let (from, to) = (text.find('(')?, text.rfind(')')?);
    let mut stat = Map::new();
    stat.insert("comm".into(), text.get(from..=to)?.into());
    let mut fields = text.get(to + 1..)?.split_ascii_whitespace();
    stat.insert("state".into(), fields.next()?.into());
    for name in &STAT_FIELDS[1..] {
        let text = fields.next().unwrap_or("0");
        // Unlimited is the largest number there is, which SRS shows as -1.
        let value = text.parse::<i64>().unwrap_or(-1);
        stat.insert((*name).into(), value.into());
    }
    Some(stat)
}

/// The first process's figures, those that add up added up.
fn added(stats: &[Map<String, Value>]) -> Map<String, Value> {
    let mut all = stats.first().cloned().unwrap_or_else(|| process_stat("0 () Z").expect("a whole line"));
    for field in ADDED {
        let sum: i64 = stats.iter().filter_map(|stat| stat.get(field)?.as_i64()).sum();
        all.insert(field.into(), sum.into());
    }
    all
}

fn memory(text: &str, now_ms: u64) -> Value {
    let [total, free, buffers, cached, swap, swap_free] =
        ["MemTotal", "MemFree", "Buffers", "Cached", "SwapTotal", "SwapFree"].map(|name| keyed(text, name));
    let active = total.saturating_sub(free);
    let in_use = active.saturating_sub(buffers + cached);
    let share = |part: u64, whole: u64| hundredths(if whole == 0 { 0.0 } else { part as f64 / whole as f64 });
    json!({
        "ok": total > 0,
        "sample_time": now_ms,
        "percent_ram": share(in_use, total),
        "percent_swap": share(swap.saturating_sub(swap_free), swap),
        "MemActive": active,
        "RealInUse": in_use,
        "NotInUse": total.saturating_sub(in_use),
        "MemTotal": total,
        "MemFree": free,
        "Buffers": buffers,
        "Cached": cached,
        "SwapTotal": swap,
        "SwapFree": swap_free,
    })
}

/// `name: 123 kB` in lines.
fn keyed(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(':')?.split_ascii_whitespace().next()?.parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

fn floats(text: &str) -> Vec<f64> {
    text.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect()
}

/// Bytes received and sent by all interfaces but the loopback, then by that.
fn traffic(text: &str) -> ([u64; 2], [u64; 2]) {
    let (mut outer, mut inner) = ([0; 2], [0; 2]);
    for (name, figures) in text.lines().filter_map(|line| line.split_once(':')) {
        let figures: Vec<u64> = figures.split_ascii_whitespace().filter_map(|figure| figure.parse().ok()).collect();
        let sums = if name.trim() == "lo" { &mut inner } else { &mut outer };
        if let (Some(received), Some(sent)) = (figures.first(), figures.get(8)) {
            (sums[0], sums[1]) = (sums[0] + received, sums[1] + sent);
        }
    }
    (outer, inner)
}

/// `TCP: inuse 5 orphan 0 tw 3 …`
fn socket_count(text: &str, protocol: &str, what: &str) -> u64 {
    let Some(line) = text.lines().find_map(|line| line.strip_prefix(protocol)) else { return 0 };
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == what).and_then(|_| words.next()?.parse().ok()).unwrap_or(0)
}

/// `CurrEstab`: a line of names, then one of figures.
fn established(text: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (Some(names), Some(figures)) = (lines.next(), lines.next()) else { return 0 };
    let place = names.split_ascii_whitespace().position(|name| name == "CurrEstab");
    place.and_then(|place| figures.split_ascii_whitespace().nth(place)?.parse().ok()).unwrap_or(0)
}

/// How a program was started. Secrets have no place there.
fn command(pid: u32) -> String {
    let arguments = read(&format!("/proc/{pid}/cmdline"));
    arguments.trim_end_matches('\0').replace('\0', " ")
}

fn number(of: &Map<String, Value>, field: &str) -> f64 {
    of.get(field).map_or(0.0, number_of)
}

fn number_of(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

/// With the two digits behind the point that SRS writes, and always a point.
pub(super) fn hundredths(value: f64) -> Value {
    Number::from_f64((value * 100.0).round() / 100.0).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_be_called_anything() {
        let line = "17 (a) (b) c) S 1 2 3 0 -1 4194304 5 6 7 8 9 10 11 12 20 0 3 0 99 1000 22 18446744073709551615 1 1 1 0 0 0 0 0 0 0 0 0 17 1 0 0 4 5 6 7 8\n";
        let stat = process_stat(line).unwrap();
        assert_eq!(
            (&stat["comm"], &stat["state"], &stat["utime"], &stat["num_threads"]),
            (&json!("(a) (b) c)"), &json!("S"), &json!(9), &json!(3))
        );
        assert_eq!((&stat["rsslim"], &stat["delayacct_blkio_ticks"]), (&json!(-1), &json!(4)));
        assert_eq!(process_stat("17"), None);
        let both = added(&[stat.clone(), stat]);
        assert_eq!((&both["utime"], &both["ppid"], &both["rss"]), (&json!(18), &json!(1), &json!(44)));
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        let memory = memory("MemTotal: 1000 kB\nMemFree: 400 kB\nBuffers: 50 kB\nCached: 150 kB\nSwapTotal: 10 kB\nSwapFree: 5 kB\n", 1);
        assert_eq!((&memory["RealInUse"], &memory["percent_ram"], &memory["percent_swap"]), (&json!(400), &json!(0.4), &json!(0.5)));
        let dev = "Inter-| Receive\n face |bytes\n  lo: 100 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0\neth0: 7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0\n";
        assert_eq!(traffic(dev), ([7, 8], [100, 200]));
        assert_eq!(socket_count("sockets: used 9\nTCP: inuse 5 orphan 0 tw 3 alloc 6\n", "TCP:", "tw"), 3);
        assert_eq!(established("Ip: a\nTcp: RtoMin CurrEstab\nTcp: 200 12\n"), 12);
    }

    #[test]
    fn this_process_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let mut sampler = Sampler::default();
        assert_eq!(last(directory.path()), None);
        sampler.sample(directory.path(), std::process::id(), &[std::process::id()], 10_000).unwrap();
        sampler.sample(directory.path(), std::process::id(), &[], 12_000).unwrap();
        let sample = last(directory.path()).unwrap();
        assert_eq!(sample["self_proc_stats"]["pid"], std::process::id());
        for of in ["rusages", "self_proc_stats", "system_proc_stats", "meminfos"] {
            assert_eq!(sample[of]["ok"], true, "{of}");
        }
        assert!(sample["self"]["mem_kbyte"].as_u64().unwrap() > 0);
        assert!(sample["system"]["cpus"].as_u64().unwrap() > 0);
    }
}
