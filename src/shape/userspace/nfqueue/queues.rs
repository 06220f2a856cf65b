//! The queues of the kernel: who has which, how many packets each dropped, and binding one.

use anyhow::{Context, Result, bail};

use super::netlink::NetlinkSocket;

/// Longer than any backlog: the model drops long before, by its own limit, and says so.
const QUEUE_LENGTH: u32 = 1_000_000;

pub(crate) fn open_socket() -> Result<NetlinkSocket> {
    NetlinkSocket::open().context("cannot open a netlink socket for packets (nfnetlink)")
}

/// Returns the error for a queue that another program has.
pub(crate) fn taken(row: KernelQueue) -> String {
    format!(
        "cannot use the packet queue {}: another program (netlink port {}) has it in this network \
         namespace: end it; /proc/net/netfilter/nfnetlink_queue lists who has which",
        row.queue, row.owner
    )
}

/// Binds a queue, and says in words why it cannot.
pub(crate) fn bind(socket: &mut NetlinkSocket, queue: u16) -> Result<()> {
    let Err(error) = socket.bind(queue, QUEUE_LENGTH) else { return Ok(()) };
    if let Some(row) = kernel_queues().into_iter().find(|row| row.queue == queue) {
        bail!("{}", taken(row));
    }
    let hint = match error.raw_os_error() {
        Some(libc::EPERM) => "it needs the capability NET_ADMIN",
        Some(libc::EBUSY) => "another program has it",
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT) => {
            "this kernel has no NFQUEUE (CONFIG_NETFILTER_NETLINK_QUEUE)"
        }
        _ => "the kernel refuses",
    };
    Err(error).context(format!("cannot bind the packet queue {queue}: {hint}"))
}

/// A line of the kernel's list of queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelQueue {
    pub queue: u16,
    /// The netlink port of its owner.
    pub owner: u32,
    /// Dropped because the queue was too long, or the socket's buffer full.
    pub dropped: u64,
}

pub(crate) fn kernel_queues() -> Vec<KernelQueue> {
    let text = std::fs::read_to_string("/proc/self/net/netfilter/nfnetlink_queue").unwrap_or_default();
    parse_kernel_queues(&text)
}

/// Queue, owner, length, copy mode, copy range, dropped by the queue, dropped by the socket, last id.
fn parse_kernel_queues(text: &str) -> Vec<KernelQueue> {
    let parse = |line: &str| {
        let field: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let dropped = field.get(5)? + field.get(6)?;
        Some(KernelQueue {
            queue: u16::try_from(*field.first()?).ok()?,
            owner: *field.get(1)? as u32,
            dropped,
        })
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_read() {
        let text = " 4450   1234     7 2    16     3     4      99  1\n junk\n";
        let expected = KernelQueue { queue: 4450, owner: 1234, dropped: 7 };
        assert_eq!(parse_kernel_queues(text), [expected]);
    }
}
