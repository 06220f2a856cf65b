//! The lab's network: a namespace for each host, joined by a bridge in the namespace of the lab's
//! first process. The machine's own network has no part in it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::signals;
use crate::shape::netem::tc::run;
use crate::shape::netem::tc::run::Tool;

/// The port that servers listen on.
pub(crate) const PORT: u16 = 4455;

/// The hosts: name, last part of the address.
const HOSTS: [(&str, u8); 3] = [("server-a", 2), ("server-b", 3), ("client", 4)];

/// As in compose.yaml. A kernel may refuse them in a namespace, and most labs do without.
const SETTINGS: [(&str, &str); 3] =
    [("tcp_no_metrics_save", "1"), ("tcp_rmem", "4096 131072 33554432"), ("tcp_wmem", "4096 65536 33554432")];

/// The lab's hosts, and whether they have IPv6 addresses.
pub(crate) struct Network {
    pub server_a: Host,
    pub server_b: Host,
    pub client: Host,
    pub has_ipv6: bool,
}

/// A network namespace with an address. Its name is known to `ip netns` inside the lab only.
#[derive(Clone)]
pub(crate) struct Host {
    pub name: &'static str,
    number: u8,
    namespace: Arc<File>,
}

/// Makes the hosts and joins them.
///
/// # Errors
/// The kernel refuses, iproute2 is missing, or IPv6 is `wanted` and the kernel has none.
pub(crate) fn build(ipv6_wanted: bool) -> Result<Network> {
    let [server_a, server_b, client] = HOSTS.map(|(name, number)| Host::new(name, number));
    let (server_a, server_b, client) = (server_a?, server_b?, client?);
    let mut lines: Vec<String> =
        ["link set lo up", "link add br0 type bridge", "link set br0 up"].map(String::from).to_vec();
    for (name, _) in HOSTS {
        // Each end is made where it belongs.
        lines.push(format!("link add {name} type veth peer name eth0 netns {name}"));
        lines.push(format!("link set {name} master br0 up"));
    }
    run::batch(Tool::Ip, &lines).context("cannot build the lab's network")?;
    let mut has_ipv6 = true;
    for host in [&server_a, &server_b, &client] {
        let ipv6 = host.within(|| host.configure()).context("cannot set up a host's network")??;
        if let (Err(error), true) = (&ipv6, ipv6_wanted) {
            bail!("cannot use IPv6 in the lab: {error:#}: leave -6 out, or use a kernel with IPv6");
        }
        has_ipv6 &= ipv6.is_ok();
    }
    Ok(Network { server_a, server_b, client, has_ipv6 })
}

impl Host {
    fn new(name: &'static str, number: u8) -> Result<Host> {
        let make = || -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            let own = "/proc/thread-self/ns/net";
            let named = format!("/run/netns/{name}");
            File::create(&named)
                .and_then(|_| {
                    Ok(mount(Some(own), named.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
                })
                .with_context(|| format!("cannot name the network namespace {name}"))?;
            File::open(own).context("cannot open a network namespace")
        };
        let namespace = Arc::new(on_a_thread(make)?);
        Ok(Host { name, number, namespace })
    }

    pub(crate) fn ipv4(&self) -> String {
        format!("10.45.0.{}", self.number)
    }

    pub(crate) fn ipv6(&self) -> String {
        format!("fd45::{}", self.number)
    }

    /// Calls `work` in this network namespace: sockets and programs that it starts belong there.
    ///
    /// # Errors
    /// The kernel refuses to enter it.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_a_thread(|| {
            setns(&*self.namespace, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter the network namespace of {}", self.name))?;
            Ok(work())
        })
    }

    /// Gives the interface its addresses. The inner result tells whether there is IPv6.
    fn configure(&self) -> Result<Result<()>> {
        for (name, value) in SETTINGS {
            let _ = fs::write(format!("/proc/sys/net/ipv4/{name}"), value);
        }
        for scope in ["all", "default", "eth0"] {
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "0");
        }
        let lines = [
            "link set lo up".into(),
            format!("address add {}/24 dev eth0", self.ipv4()),
            "link set eth0 up".into(),
        ];
        run::batch(Tool::Ip, &lines)?;
        // Without nodad an IPv6 address cannot be used until the check for duplicates is over.
        Ok(run::batch(Tool::Ip, &[format!("address add {}/64 dev eth0 nodad", self.ipv6())]))
    }

    /// Returns a command that runs on this host, with a `/sys` that shows its interfaces.
    pub(crate) fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new(program);
        let namespace = self.namespace.clone();
        let enter = move || {
            signals::reset()?;
            setns(&*namespace, CloneFlags::CLONE_NEWNET)?;
            unshare(CloneFlags::CLONE_NEWNS)?;
            // Where the kernel does not allow it the old one serves too: few programs look there.
            let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), plain, None::<&str>);
            Ok(())
        };
        // SAFETY: only system calls; nothing is allocated and no lock is taken.
        unsafe { command.pre_exec(enter) };
        command
    }
}

/// Calls `work` on a thread of its own, whose network namespace ends with it.
fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().spawn_scoped(scope, work).context("cannot start a thread")?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Returns the text of the lab's `/etc/hosts`. With `ipv6`, the hosts' names mean IPv6 addresses.
pub(crate) fn hosts_file(network: &Network, ipv6: bool) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
    for host in [&network.server_a, &network.server_b, &network.client] {
        let address = if ipv6 { host.ipv6() } else { host.ipv4() };
        text += &format!("{address} {}\n", host.name);
        if network.has_ipv6 {
            text += &format!("{} {}6\n", host.ipv6(), host.name);
        }
    }
    text
}
