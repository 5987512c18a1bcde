//! What keeps a process that reads strangers' bytes from doing anything but its work, should one of them get into it: another user,
//! no capabilities, few system calls (seccomp), few files and ports (Landlock).
//!
//! A process goes in once, when everything it needs is open and before the first byte from outside. Threads that it starts later are in it
//! too. The front stays outside: it reads no such byte.

mod calls;
mod reach;
mod standing;
#[cfg(feature = "faults")]
pub mod trial;

pub use reach::Needs;
pub use standing::Standing;

use crate::config::{Config, Sandbox};
use anyhow::{Context, bail, ensure};
use braidcast_sys::privileges::{self, Identity};

/// Users that are taken when the configuration names none, the first that there is.
const USERS: [&str; 2] = ["braidcast", "nobody"];
/// What others than owner and group may not do with files that this server makes.
const UMASK: u32 = 0o007;
/// The oldest version of Landlock that lets files be moved between directories.
const LANDLOCK_LEAST: u32 = 2;
/// The oldest version of Landlock that knows connections.
const LANDLOCK_CONNECT: u32 = 4;

/// For the front, before it makes anything: puts numbers in the place of the user's and the group's names, or nothing where workers stay
/// who they are, and says once what of the sandbox there is not.
///
/// # Errors
/// What an operator has to mend: a user or group that does not exist, or is root.
pub fn settle(sandbox: &mut Sandbox) -> anyhow::Result<()> {
    if !sandbox.enabled {
        (sandbox.user, sandbox.group) = (String::new(), String::new());
        tracing::warn!(
            "[sandbox] enabled = false: whoever gets into a worker by a flaw has all rights of the user that the server runs as"
        );
        return Ok(());
    }
    match resolve(sandbox)? {
        Some(Identity { uid, gid }) => (sandbox.user, sandbox.group) = (uid.to_string(), gid.to_string()),
        None => (sandbox.user, sandbox.group) = (String::new(), String::new()),
    }
    for lack in lacks(sandbox) {
        tracing::warn!("the sandbox of workers is not whole: {}; `braidcast doctor` says what mends it", lack.said);
    }
    Ok(())
}

/// Something that there is not, and what mends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lack {
    /// For people.
    pub said: &'static str,
    /// A command, or what to do.
    pub mend: &'static str,
}

/// What this machine or this user does not allow of a settled sandbox.
pub fn lacks(sandbox: &Sandbox) -> Vec<Lack> {
    let mut lacks = Vec::new();
    if privileges::effective_uid() == 0 && sandbox.user.is_empty() {
        lacks.push(Lack {
            said: "this root may not become another user (it lacks CAP_SETUID, CAP_SETGID or CAP_CHOWN): workers stay root, without capabilities",
            mend: "docker run --cap-add SETUID --cap-add SETGID --cap-add CHOWN …    # or --user, so that nothing is root",
        });
    }
    if !calls::are_filtered_here() {
        lacks.push(Lack {
            said: "the kernel does not filter system calls: workers have all of them",
            mend: "a kernel with CONFIG_SECCOMP_FILTER, on x86-64, ARM64 or RISC-V",
        });
    }
    match privileges::landlock_abi() {
        None | Some(0..LANDLOCK_LEAST) => lacks.push(Lack {
            said: "the kernel has no Landlock of Linux 5.19 or later, or has it switched off: files and ports are not restricted",
            mend: "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&lsm=landlock,lockdown,yama,apparmor,bpf /' /etc/default/grub && update-grub && reboot",
        }),
        Some(abi) if abi < LANDLOCK_CONNECT => lacks.push(Lack {
            said: "the kernel's Landlock does not know ports yet: where workers connect to is not restricted",
            mend: "a kernel of Linux 6.7 or later",
        }),
        Some(_) => {}
    }
    lacks
}

/// Who workers become, as it was settled; `None`: they stay who they are.
pub fn identity(settled: &Sandbox) -> Option<Identity> {
    Some(Identity { uid: settled.user.parse().ok()?, gid: settled.group.parse().ok()? })
}

/// From now on what this process and its children make is for the group of the directory that it is made in, too, and for nobody else.
pub fn share_with_group() {
    privileges::set_umask(UMASK);
}

/// Who workers are to become; `None`: they stay who they are.
///
/// # Errors
/// See [`settle`].
pub fn resolve(sandbox: &Sandbox) -> anyhow::Result<Option<Identity>> {
    if !sandbox.enabled || privileges::effective_uid() != 0 || !privileges::may_change_user() {
        return Ok(None);
    }
    let mut identity = match sandbox.user.as_str() {
        "" => {
            let found = USERS.iter().find_map(|name| privileges::user(name).ok().flatten());
            found.context(
                "[sandbox] user: there is neither a user braidcast nor nobody; make one: useradd --system --no-create-home braidcast",
            )?
        }
        name => match (name.parse(), privileges::user(name).context("[sandbox] user")?) {
            (_, Some(identity)) => identity,
            (Ok(uid), None) => Identity { uid, gid: uid },
            (Err(_), None) => bail!("[sandbox] user = {name:?}: there is no such user; make it: useradd --system --no-create-home {name}"),
        },
    };
    match sandbox.group.as_str() {
        "" => {}
        name => {
            let by_name = privileges::group(name).context("[sandbox] group")?;
            identity.gid =
                by_name.or_else(|| name.parse().ok()).with_context(|| format!("[sandbox] group = {name:?}: there is no such group"))?;
        }
    }
    ensure!(
        identity.uid != 0 && identity.gid != 0,
        "[sandbox] user and group are to be others than root; [sandbox] enabled = false turns the sandbox off"
    );
    Ok(Some(identity))
}

/// Goes in, for good. To be called in a process's only thread.
///
/// # Errors
/// Something that the kernel has could not be had: then the process shall not go on.
pub fn enter(config: &Config, needs: &Needs) -> anyhow::Result<Standing> {
    if !config.sandbox.enabled {
        return Ok(Standing::default());
    }
    ensure!(privileges::threads() <= 1, "{} has threads already: they would stay outside", needs.who);
    let mut standing = Standing::default();
    // Before anything is in force: this reads what cannot be read afterwards.
    let filters = calls::prepare(needs).context("filtering system calls")?;
    let reach = reach::prepare(needs).context("what it may reach")?;
    match identity(&config.sandbox) {
        Some(identity) => privileges::become_user(identity, needs.signals).context("becoming another user")?,
        None => privileges::drop_capabilities(needs.signals).context("giving capabilities away")?,
    }
    standing.note_user(privileges::effective_uid() != 0);
    privileges::set_no_new_privileges().context("renouncing new privileges")?;
    privileges::set_undumpable().context("keeping others of its user out")?;
    if let Some(reach) = reach {
        standing.note_reach(reach.restrict()?);
    }
    if let Some(filters) = filters {
        filters.restrict().context("filtering system calls")?;
        standing.note_calls();
    }
    tracing::debug!("{} is in the sandbox: {standing}", needs.who);
    Ok(standing)
}
