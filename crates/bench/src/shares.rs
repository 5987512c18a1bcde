//! What kind of work a stack of functions does, by the names of the functions: the shares of a profile that a picture does not add up.
//!
//! Names of the kernel are those of Linux 6; what is not known by a name counts as other work, never as none.

use std::collections::BTreeMap;
use std::fmt::Write;

/// A function on a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Without offsets, hashes and generic arguments.
    pub name: String,
    /// It is the kernel's.
    pub in_kernel: bool,
}

/// Kinds of the kernel's work, and parts of the names of functions that do it. The innermost function that is known decides, and the first
/// kind that knows it.
const KERNEL: [(&str, &[&str]); 8] = [
    ("copying", &["copy_from_iter", "copy_to_iter", "copy_user", "copyin", "copyout", "rep_movs", "memcpy", "copy_page"]),
    ("acknowledging", &["tcp_ack", "tcp_clean_rtx", "__tcp_ack_snd_check", "tcp_send_ack", "tcp_data_snd_check"]),
    (
        "receiving, at the other end of loopback too",
        &["tcp_v4_rcv", "tcp_v6_rcv", "tcp_rcv_", "netif_receive", "ip_rcv", "net_rx_action", "tcp_recvmsg"],
    ),
    ("waking who waits", &["try_to_wake_up", "wake_up", "sock_def_readable", "ep_poll_callback"]),
    ("waiting and looking who is ready", &["ep_poll", "epoll_wait", "schedule", "epoll_ctl"]),
    ("files and memory", &["shmem", "vfs_write", "vfs_read", "page_fault", "handle_mm_fault", "filemap", "fallocate", "do_mmap"]),
    (
        "sending",
        &[
            "tcp_sendmsg",
            "tcp_write_xmit",
            "tcp_push",
            "tcp_transmit",
            "ip_queue_xmit",
            "ip_output",
            "dev_queue_xmit",
            "sk_stream",
            "sock_sendmsg",
            "sys_send",
        ],
    ),
    ("entering and leaving the kernel", &["entry_SYSCALL", "syscall", "fdget", "sockfd_lookup"]),
];

/// How many samples were of each kind.
#[derive(Debug, Default)]
pub struct Shares {
    kinds: BTreeMap<String, u64>,
    samples: u64,
}

impl Shares {
    /// Adds a stack, the innermost function first.
    pub fn add(&mut self, stack: &[Function]) {
        *self.kinds.entry(kind(stack)).or_default() += 1;
        self.samples += 1;
    }

    /// The greatest first, in one line.
    pub fn line(&self) -> String {
        let mut all: Vec<(&String, u64)> = self.kinds.iter().map(|(kind, samples)| (kind, *samples)).collect();
        all.sort_by_key(|&(kind, samples)| (std::cmp::Reverse(samples), kind));
        let mut line = format!("{} samples", self.samples);
        for (place, (kind, samples)) in all.iter().enumerate() {
            let share = *samples as f64 * 100.0 / self.samples.max(1) as f64;
            if share >= 0.5 {
                let _ = write!(line, "{} {share:.0} % {kind}", if place == 0 { ":" } else { "," });
            }
        }
        line
    }
}

fn kind(stack: &[Function]) -> String {
    let Some(innermost) = stack.first() else { return "unknown".to_owned() };
    if !innermost.in_kernel {
        return own_kind(stack);
    }
    let known = stack
        .iter()
        .take_while(|function| function.in_kernel)
        .find_map(|function| KERNEL.iter().find(|(_, parts)| parts.iter().any(|part| function.name.contains(part))).map(|(kind, _)| *kind));
    format!("{} (kernel)", known.unwrap_or("other work"))
}

/// Of a program's own code: the innermost function of ours is named, whatever library it calls.
fn own_kind(stack: &[Function]) -> String {
    if stack.first().is_some_and(|function| ["memcpy", "memmove"].iter().any(|part| function.name.contains(part))) {
        return "copying (own code)".to_owned();
    }
    let ours = stack.iter().filter(|function| !function.in_kernel).find_map(|function| {
        let path = function.name.strip_prefix("braidcast")?;
        let (before, name) = path.rsplit_once("::")?;
        Some(format!("{}::{name}", before.rsplit("::").next()?))
    });
    ours.map_or_else(|| "the program's own code".to_owned(), |name| format!("{name} (own code)"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn stack(names: &[&str]) -> Vec<Function> {
        let function = |name: &&str| match name.strip_prefix("k:") {
            Some(name) => Function { name: name.to_owned(), in_kernel: true },
            None => Function { name: (*name).to_owned(), in_kernel: false },
        };
        names.iter().map(function).collect()
    }

    #[test]
    fn the_innermost_function_that_is_known_decides() {
        let send = ["k:skb_put", "k:tcp_sendmsg_locked", "k:__sys_sendto", "k:do_syscall_64", "braidcast::worker::walk::walk"];
        assert_eq!(kind(&stack(&send)), "sending (kernel)");
        let received = [&["k:tcp_ack", "k:tcp_rcv_established", "k:tcp_v4_rcv", "k:ip_output"][..], &send[1..]].concat();
        assert_eq!(kind(&stack(&received)), "acknowledging (kernel)");
        assert_eq!(kind(&stack(&received[1..])), "receiving, at the other end of loopback too (kernel)");
        assert_eq!(kind(&stack(&["k:nobody_knows"])), "other work (kernel)");
    }

    #[test]
    fn own_code_is_told_apart_by_function() {
        assert_eq!(kind(&stack(&["memchr::find", "braidcast::worker::Worker::run", "main"])), "Worker::run (own code)");
        assert_eq!(kind(&stack(&["__memmove_avx_unaligned", "braidcast::worker::Worker::run"])), "copying (own code)");
        assert_eq!(kind(&stack(&["ngx_rtmp_send", "main"])), "the program's own code");
        assert_eq!(kind(&[]), "unknown");
    }

    #[test]
    fn shares_are_named_from_the_greatest_on_and_trifles_are_left_out() {
        let mut shares = Shares::default();
        (0..300).for_each(|_| shares.add(&stack(&["k:tcp_ack"])));
        (0..99).for_each(|_| shares.add(&stack(&["ngx_send"])));
        shares.add(&stack(&["k:x"]));
        assert_eq!(shares.line(), "400 samples: 75 % acknowledging (kernel), 25 % the program's own code");
        assert_eq!(Shares::default().line(), "0 samples");
    }
}
