//! Which figures of an answer add up over processes, and adding them.

use serde_json::{Number, Value};

/// The fields of an answer that do not mean the machine, or one process alone. All others are of the first process that answered.
#[derive(Debug)]
pub(super) struct Sums {
    /// Added, as JSON pointers.
    pub added: &'static [&'static str],
    /// The greatest is taken.
    pub greatest: &'static [&'static str],
    /// True if it is everywhere.
    pub all: &'static [&'static str],
}

pub(super) const SUMMARIES: Sums = Sums {
    added: &[
        "/data/self/mem_kbyte",
        "/data/self/mem_percent",
        "/data/self/cpu_percent",
        "/data/system/srs_recv_bytes",
        "/data/system/srs_send_bytes",
        "/data/system/conn_srs",
    ],
    greatest: &["/data/self/srs_uptime"],
    all: &["/data/ok"],
};

pub(super) const RUSAGES: Sums = Sums {
    added: &[
        "/data/ru_utime",
        "/data/ru_stime",
        "/data/ru_maxrss",
        "/data/ru_ixrss",
        "/data/ru_idrss",
        "/data/ru_isrss",
        "/data/ru_minflt",
        "/data/ru_majflt",
        "/data/ru_nswap",
        "/data/ru_inblock",
        "/data/ru_oublock",
        "/data/ru_msgsnd",
        "/data/ru_msgrcv",
        "/data/ru_nsignals",
        "/data/ru_nvcsw",
        "/data/ru_nivcsw",
    ],
    greatest: &[],
    all: &["/data/ok"],
};

pub(super) const SELF_PROC_STATS: Sums = Sums {
    added: &[
        "/data/percent",
        "/data/minflt",
        "/data/cminflt",
        "/data/majflt",
        "/data/cmajflt",
        "/data/utime",
        "/data/stime",
        "/data/cutime",
        "/data/cstime",
        "/data/num_threads",
        "/data/vsize",
        "/data/rss",
        "/data/nswap",
        "/data/cnswap",
        "/data/delayacct_blkio_ticks",
        "/data/guest_time",
        "/data/cguest_time",
    ],
    greatest: &[],
    all: &["/data/ok"],
};

pub(super) const VHOST: Sums =
    Sums { added: &["/clients", "/streams", "/send_bytes", "/recv_bytes", "/kbps/recv_30s", "/kbps/send_30s"], greatest: &[], all: &[] };

impl Sums {
    /// Takes another process's answer in. A figure that one of them does not have stays as it is.
    pub fn take(&self, into: &mut Value, other: &Value) {
        let mut each = |fields: &[&str], join: fn(&Value, &Value) -> Option<Value>| {
            for field in fields {
                if let (Some(into), Some(other)) = (into.pointer_mut(field), other.pointer(field))
                    && let Some(joined) = join(into, other)
                {
                    *into = joined;
                }
            }
        };
        each(self.added, |a, b| add(a, b));
        each(self.greatest, |a, b| Some(if b.as_f64()? > a.as_f64()? { b.clone() } else { a.clone() }));
        each(self.all, |a, b| Some(Value::Bool(a.as_bool()? && b.as_bool()?)));
    }
}

/// Whole numbers stay whole; others have the two digits behind the point that SRS writes.
pub(super) fn add(a: &Value, b: &Value) -> Option<Value> {
    if let (Some(a), Some(b)) = (a.as_u64(), b.as_u64()) {
        return Some(Value::from(a.saturating_add(b)));
    }
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
        return Some(Value::from(a.saturating_add(b)));
    }
    let sum = a.as_f64()? + b.as_f64()?;
    Number::from_f64((sum * 100.0).round() / 100.0).map(Value::Number)
}
