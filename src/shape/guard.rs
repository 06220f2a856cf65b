//! Where shaping is allowed, and by whom: only on an interface of a lab container or namespace, only
//! with the privilege for it, and only by one process at a time.
//!
//! It looks and refuses; it changes nothing.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::thread::capabilities;
use serde_json::Value;

use super::netem::tc::read;
use super::netem::tc::run;
use super::netem::tc::run::Tool;

/// The environment variable by which the lab's image says that its containers are the lab's.
const IN_CONTAINER: &str = "TWINLINK_LAB";

/// The inode of the initial pid namespace, fixed in the kernel (PROC_PID_INIT_INO).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Fails unless `dev` is a lab's own: a veth whose other end is in another network namespace, in a
/// network namespace that is not the machine's.
pub(crate) fn check_interface(dev: &str) -> Result<()> {
    let interface = read::interface(dev).with_context(|| format!("cannot examine the interface {dev}"))?;
    judge_interface(dev, &interface)?;
    if !is_own_namespace() {
        bail!(
            "cannot shape {dev}: this is not a lab's network namespace but the machine's own: use \
             docker compose or twinlink lab, or --backend none to run unshaped"
        );
    }
    Ok(())
}

fn judge_interface(dev: &str, interface: &Value) -> Result<()> {
    let kind = interface["linkinfo"]["info_kind"].as_str().unwrap_or("a plain interface");
    if kind != "veth" || interface["link_netnsid"].is_null() {
        let what = if kind == "veth" { "a veth whose other end is in the same namespace" } else { kind };
        bail!(
            "cannot shape {dev}: it is not a lab's interface (a veth that leads out of its network \
             namespace) but {what}: use docker compose or twinlink lab, or --backend none to run unshaped"
        );
    }
    Ok(())
}

/// Whether this process is in a network namespace that a lab made: another than that of process 1,
/// or a container of the lab's image, whose process 1 is its own.
pub(crate) fn is_own_namespace() -> bool {
    // The files below /proc/PID/net are a namespace's own, so their inodes tell namespaces apart.
    // /proc/1/ns/net would be plainer, but may be read only with all of process 1's privileges.
    let of =
        |process: &str| std::fs::metadata(format!("/proc/{process}/net/dev")).ok().map(|file| file.ino());
    let (own, of_init) = (of("self"), of("1"));
    if own.is_some() && of_init.is_some() && own != of_init {
        return true;
    }
    let pid = std::fs::read_link("/proc/self/ns/pid");
    let contained = pid.is_ok_and(|pid| pid.to_string_lossy() != INITIAL_PID_NAMESPACE);
    contained && std::env::var(IN_CONTAINER).is_ok_and(|value| value == "container")
}

/// Whether this process may change the network: CAP_NET_ADMIN, number 12, is in its effective set.
pub(crate) fn has_net_admin() -> bool {
    effective_capabilities().is_some_and(|set| set & (1 << 12) != 0)
}

/// The effective capabilities, a bit each, as capget(2) tells them: it needs no descriptor, so it works
/// where none is left.
pub(crate) fn effective_capabilities() -> Option<u64> {
    let all = capabilities(None).ok()?;
    Some(all.effective.bits())
}

pub(crate) fn check_privilege() -> Result<()> {
    if has_net_admin() {
        return Ok(());
    }
    bail!(
        "cannot shape links without the capability NET_ADMIN: give it to the container \
         (cap_add: [NET_ADMIN]), run in twinlink lab, or use --backend none"
    )
}

/// Fails unless tc and ip can be started.
pub(crate) fn check_tools() -> Result<()> {
    for tool in [Tool::Tc, Tool::Ip] {
        run::output(tool, &["-V"]).context("cannot shape links")?;
    }
    Ok(())
}

/// Held by the one process that shapes in this network namespace.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// The file that the lock is on. Each network namespace has its own, and only a process with NET_ADMIN in
/// that namespace can open it, so nobody else can hold the lock. Its content is never read.
const LOCK: &str = "/proc/sys/net/ipv4/tcp_fastopen_key";

/// Takes the lock, which the kernel releases when the process ends, however that ends.
///
/// # Errors
/// Another process holds it, or this one lacks NET_ADMIN.
pub(crate) fn lock() -> Result<Lock> {
    let file = File::open(LOCK).with_context(|| format!("cannot take the lab's lock on {LOCK}"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock { _file: file }),
        Err(Errno::WOULDBLOCK) => {
            bail!(
                "cannot shape links: {} already does here: stop it, or wait until it has ended",
                other_owner()
            )
        }
        Err(error) => Err(error).with_context(|| format!("cannot take the lab's lock on {LOCK}")),
    }
}

/// Names the process that shapes here, as far as its devices tell.
fn other_owner() -> String {
    let devices = read::devices().unwrap_or_default();
    let pid = devices.iter().find_map(|device| Some(device.alias.as_ref()?.pid));
    pid.map_or("another twinlink process".into(), |pid| format!("another twinlink process ({pid})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_those_that_proc_tells() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
        assert_eq!(effective_capabilities(), Some(u64::from_str_radix(set.trim(), 16).unwrap()));
    }

    #[test]
    fn the_lock_is_held_by_one_and_only_with_net_admin() {
        if !has_net_admin() {
            assert!(format!("{:#}", lock().unwrap_err()).contains("cannot take the lab's lock"));
            return;
        }
        // Where another test's network namespace is this one's, its process may hold the lock.
        let Ok(held) = lock() else { return };
        let second = lock().unwrap_err().to_string();
        assert!(second.contains("another twinlink process"), "{second}");
        drop(held);
        drop(lock().unwrap());
        let foreign = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat", LOCK])
            .output();
        assert!(foreign.is_ok_and(|foreign| !foreign.status.success()), "an ordinary user opens {LOCK}");
    }

    #[test]
    fn only_a_veth_that_leads_out_of_its_namespace_is_a_labs_interface() {
        let veth = |netns: Value| serde_json::json!({ "ifname": "eth0", "link_netnsid": netns, "linkinfo": { "info_kind": "veth" } });
        assert!(judge_interface("eth0", &veth(0.into())).is_ok());
        let inside = judge_interface("eth0", &veth(Value::Null)).unwrap_err().to_string();
        assert!(inside.contains("same namespace"), "{inside}");
        for other in [serde_json::json!({}), serde_json::json!({ "linkinfo": { "info_kind": "bridge" } })] {
            let error = judge_interface("eth0", &other).unwrap_err().to_string();
            assert!(error.contains("cannot shape eth0") && error.contains("twinlink lab"), "{error}");
        }
    }
}
