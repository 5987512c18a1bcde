//! Which system calls a process in the sandbox has (seccomp).
//!
//! Two filters. One knows the calls that the server, the C library and the name resolver make; whatever it does not know is answered as an
//! old kernel would, `ENOSYS`, so that a library that tries something newer falls back to what it did before. The other refuses what nobody
//! here has a reason to do, `EPERM`. Neither kills: a call that was overlooked costs what asked for it, and not a thousand viewers.

use super::reach::{Connect, Needs};
use anyhow::Context;
use braidcast_sys::features;
use braidcast_sys::syscalls::{self as sys, FILES, HOSTILE, INPUT_OUTPUT, PROCESS, SIGNALS, SOCKETS};
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{MaskedEq, Ne};
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Whether the kernel can.
pub fn are_filtered_here() -> bool {
    features::call_filters() && TargetArch::try_from(std::env::consts::ARCH).is_ok()
}

/// Filters that are ready to be put into force, in their order.
#[derive(Debug)]
pub struct Filters([BpfProgram; 3]);

/// Makes the filters; `None`: the kernel has none.
pub fn prepare(needs: &Needs) -> anyhow::Result<Option<Filters>> {
    if !are_filtered_here() {
        return Ok(None);
    }
    // The last one does not know the call by which filters are put into force.
    Ok(Some(Filters([refused(needs)?, newer()?, known()?])))
}

impl Filters {
    /// Puts the filters into force for this thread and those that it starts.
    pub fn restrict(self) -> anyhow::Result<()> {
        self.0.iter().try_for_each(|filter| apply_filter(filter).context("seccomp"))
    }
}

/// What is known; everything else is as if the kernel did not have it.
fn known() -> anyhow::Result<BpfProgram> {
    // What the other filter refuses gets through this one.
    let lists = [INPUT_OUTPUT, FILES, SOCKETS, PROCESS, SIGNALS, HOSTILE];
    let rules = lists.into_iter().flatten().map(|call| (*call, Vec::new())).collect();
    compile(rules, SeccompAction::Errno(sys::ENOSYS as u32), SeccompAction::Allow)
}

/// The C library makes threads by `clone3`, whose flags lie in memory that no filter sees, unless that is missing.
fn newer() -> anyhow::Result<BpfProgram> {
    compile(Rules::from([(sys::SYS_clone3, Vec::new())]), SeccompAction::Allow, SeccompAction::Errno(sys::ENOSYS as u32))
}

/// What is refused.
fn refused(needs: &Needs) -> anyhow::Result<BpfProgram> {
    let mut rules: Rules = HOSTILE.iter().map(|call| (*call, Vec::new())).collect();
    if !needs.signals {
        rules.extend(SIGNALS.iter().map(|call| (*call, Vec::new())));
    }
    if !needs.listens {
        rules.insert(sys::SYS_listen, Vec::new());
    }
    let own = std::process::id();
    // Not a thread: another process.
    rules.insert(sys::SYS_clone, vec![all([condition(0, MaskedEq(sys::CLONE_THREAD as u64), 0)?])?]);
    rules.insert(sys::SYS_tgkill, vec![all([condition(0, Ne, own.into())?])?]);
    // The last one is part of putting a filter into force.
    let prctls = [sys::PR_SET_NAME, sys::PR_GET_NAME, sys::PR_SET_VMA, sys::PR_SET_NO_NEW_PRIVS];
    rules.insert(sys::SYS_prctl, vec![none_of(0, &prctls.map(|option| option as u64))?]);
    let ioctls = [sys::FIONBIO, sys::FIONREAD, sys::TIOCOUTQ, sys::FIOCLEX, sys::TCGETS];
    rules.insert(sys::SYS_ioctl, vec![none_of(1, &ioctls.map(|request| request as u32 as u64))?]);
    // Another process's limits, or new ones.
    rules.insert(sys::SYS_prlimit64, vec![all([condition(0, Ne, 0)?])?, all([condition(2, Ne, 0)?])?]);
    let families = families(needs);
    rules.insert(sys::SYS_socket, if families.is_empty() { Vec::new() } else { vec![none_of(0, &families)?] });
    rules.insert(sys::SYS_socketpair, vec![none_of(0, &[sys::AF_UNIX as u64])?]);
    if !needs.names {
        // The resolver's modules alone are code that is loaded later.
        let executable = || condition(2, MaskedEq(sys::PROT_EXEC as u64), sys::PROT_EXEC as u64).and_then(|condition| all([condition]));
        rules.insert(sys::SYS_mmap, vec![executable()?]);
        rules.insert(sys::SYS_mprotect, vec![executable()?]);
    }
    compile(rules, SeccompAction::Allow, SeccompAction::Errno(sys::EPERM as u32))
}

/// The families of sockets that are made later.
fn families(needs: &Needs) -> Vec<u64> {
    let mut families = Vec::new();
    if needs.names || needs.listens || needs.connect != Connect::Nowhere {
        families.extend([sys::AF_INET, sys::AF_INET6]);
    }
    // A cache of names is asked so, too; and the resolver wants to know which addresses this machine has.
    if needs.names || needs.local {
        families.push(sys::AF_UNIX);
    }
    if needs.names {
        families.push(sys::AF_NETLINK);
    }
    families.into_iter().map(|family| family as u64).collect()
}

fn condition(argument: u8, operator: seccompiler::SeccompCmpOp, value: u64) -> anyhow::Result<SeccompCondition> {
    Ok(SeccompCondition::new(argument, Dword, operator, value)?)
}

fn all<const N: usize>(conditions: [SeccompCondition; N]) -> anyhow::Result<SeccompRule> {
    Ok(SeccompRule::new(conditions.into())?)
}

/// Fits whatever the argument is but one of these.
fn none_of(argument: u8, values: &[u64]) -> anyhow::Result<SeccompRule> {
    let conditions: anyhow::Result<Vec<_>> = values.iter().map(|value| condition(argument, Ne, *value)).collect();
    Ok(SeccompRule::new(conditions?)?)
}

fn compile(rules: Rules, otherwise: SeccompAction, fitting: SeccompAction) -> anyhow::Result<BpfProgram> {
    let machine: TargetArch = std::env::consts::ARCH.try_into().context("this machine's system calls are not known")?;
    Ok(SeccompFilter::new(rules, otherwise, fitting, machine)?.try_into()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn filters_can_be_made_for_whatever_is_needed() {
        for bits in 0..16 {
            let is = |bit: u32| bits & (1 << bit) != 0;
            let connect = if is(0) { Connect::Anywhere } else { Connect::Nowhere };
            let (who, read, write) = (String::new(), Vec::new(), Vec::new());
            let needs = Needs { who, read, write, connect, names: is(1), listens: is(2), local: is(3), signals: is(3) };
            for filter in [refused(&needs), newer(), known()] {
                // linux/filter.h: BPF_MAXINSNS.
                assert!(filter.unwrap().len() <= 4_096, "{needs:?}");
            }
        }
    }

    #[test]
    fn nothing_is_both_needed_and_hostile() {
        let needed: HashSet<_> = [INPUT_OUTPUT, FILES, SOCKETS, PROCESS].into_iter().flatten().collect();
        assert!(HOSTILE.iter().chain(SIGNALS).all(|call| !needed.contains(call)));
    }
}
