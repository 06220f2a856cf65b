//! The netlink socket of nfnetlink_queue: binds queues, receives packets in batches, gives verdicts
//! in batches. Knows nothing of links or of time.
//!
//! Written out here rather than taken from a crate because three things decide how much a held
//! packet costs: only its first bytes are copied out of the kernel, one verdict releases all packets
//! up to an id, and many verdicts travel in one system call.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// How many messages one system call receives at most.
const BATCH: usize = 64;

/// The size of a message besides the packet's own bytes.
const METADATA: usize = 512;

/// The bytes copied of each packet that stays unchanged: its headers as far as the ports, behind IPv4's longest.
pub(crate) const COPY_LITTLE: u32 = 64;

/// How much is gathered at most; a system call takes no more than the socket's send buffer.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// The whole packet, for packets that may be changed.
pub(crate) const COPY_ALL: u32 = 0xffff;

const ALIGN: usize = 4;

fn aligned(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

/// A packet that waits for its verdict.
#[derive(Debug)]
pub(crate) struct Queued<'a> {
    pub queue: u16,
    pub id: u32,
    /// The length of the IP packet, whatever was copied of it.
    pub ip_bytes: u32,
    /// The copied bytes: all of them if the queue copies all.
    pub payload: &'a [u8],
}

/// The kernel's answer to a request.
fn parse_ack(message: &[u8]) -> Option<io::Result<()>> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    if i32::from(kind) != libc::NLMSG_ERROR {
        return None;
    }
    let code = i32::from_ne_bytes(message.get(16..20)?.try_into().ok()?);
    Some(if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) })
}

/// Reads one message; none where it is not a packet.
fn parse_packet(message: &[u8]) -> Option<Queued<'_>> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    if i32::from(kind) != (libc::NFNL_SUBSYS_QUEUE << 8 | libc::NFQNL_MSG_PACKET) {
        return None;
    }
    let queue = u16::from_be_bytes(message.get(18..20)?.try_into().ok()?);
    let (mut id, mut payload, mut whole) = (None, &message[..0], None);
    let mut rest = message.get(20..)?;
    while let Some(head) = rest.get(..4) {
        let len = u16::from_ne_bytes([head[0], head[1]]) as usize;
        let value = rest.get(4..len)?;
        match i32::from(u16::from_ne_bytes([head[2], head[3]]) & 0x3fff) {
            libc::NFQA_PACKET_HDR => id = Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?)),
            libc::NFQA_PAYLOAD => payload = value,
            libc::NFQA_CAP_LEN => whole = Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?)),
            _ => {}
        }
        rest = rest.get(aligned(len)..).unwrap_or_default();
    }
    Some(Queued { queue, id: id?, ip_bytes: whole.unwrap_or(payload.len() as u32), payload })
}

/// Messages on their way to the kernel.
#[derive(Debug, Default)]
struct SendBuffer {
    bytes: Vec<u8>,
    /// Where the message that is being written begins.
    start: usize,
}

impl SendBuffer {
    fn begin(&mut self, kind: libc::c_int, flags: libc::c_int, queue: u16) {
        self.start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(((libc::NFNL_SUBSYS_QUEUE << 8 | kind) as u16).to_ne_bytes());
        self.bytes.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        self.bytes.extend([0; 8]);
        // The address family and the version are 0; the queue's number is in network order.
        self.bytes.extend([0, 0]);
        self.bytes.extend(queue.to_be_bytes());
    }

    fn attribute(&mut self, kind: libc::c_int, value: &[u8]) {
        self.bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.bytes.extend((kind as u16).to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }

    fn end(&mut self) {
        let len = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&len.to_ne_bytes());
    }
}

/// The socket, bound to any number of queues.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    fd: OwnedFd,
    send_buffer: SendBuffer,
    receive_buffer: Vec<u8>,
    /// The size of one message in the receive buffer.
    slot: usize,
}

impl NetlinkSocket {
    pub(crate) fn open() -> io::Result<NetlinkSocket> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: a plain system call; the descriptor it returns is owned from here on.
        let fd = unsafe {
            let fd = check(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER))?;
            OwnedFd::from_raw_fd(fd)
        };
        let mut socket =
            NetlinkSocket { fd, send_buffer: SendBuffer::default(), receive_buffer: Vec::new(), slot: 0 };
        socket.make_room(COPY_LITTLE);
        // A full receive buffer is counted by the kernel, queue by queue; an error here adds nothing.
        socket.set_option(libc::SOL_NETLINK, libc::NETLINK_NO_ENOBUFS, 1)?;
        Ok(socket)
    }

    fn set_option(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the value is an int that lives through the call.
        check(unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), size)
        })?;
        Ok(())
    }

    /// Asks for a receive buffer of this size, and gives the one that it got.
    pub(crate) fn set_receive_buffer(&self, bytes: usize) -> io::Result<usize> {
        let asked = bytes as libc::c_int;
        if self.set_option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, asked).is_err() {
            self.set_option(libc::SOL_SOCKET, libc::SO_RCVBUF, asked)?;
        }
        let mut got: libc::c_int = 0;
        let mut size = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: both pointers are to locals of the sizes that are said.
        check(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUF,
                (&raw mut got).cast(),
                &mut size,
            )
        })?;
        Ok(got as usize)
    }

    fn make_room(&mut self, copy: u32) {
        let slot = aligned(METADATA + copy as usize);
        if slot > self.slot {
            self.slot = slot;
            self.receive_buffer = vec![0; slot * BATCH];
        }
    }

    /// Binds a queue, before any packet is sent to it, and makes it long.
    ///
    /// # Errors
    /// EPERM where another program has it, or the privilege is missing; EINVAL where the kernel has
    /// no such queues.
    pub(crate) fn bind(&mut self, queue: u16, max_len: u32) -> io::Result<()> {
        self.send_buffer.begin(libc::NFQNL_MSG_CONFIG, libc::NLM_F_ACK, queue);
        self.send_buffer.attribute(libc::NFQA_CFG_CMD, &[libc::NFQNL_CFG_CMD_BIND as u8, 0, 0, 0]);
        self.send_buffer.attribute(libc::NFQA_CFG_QUEUE_MAXLEN, &max_len.to_be_bytes());
        self.send_buffer.attribute(libc::NFQA_CFG_PARAMS, &copy_params(COPY_LITTLE));
        self.send_buffer.end();
        self.flush()?;
        self.await_ack()
    }

    /// Says how much of each packet is copied from now on. Packets may come meanwhile, so no answer
    /// is asked for; the kernel cannot refuse the number.
    pub(crate) fn copy(&mut self, queue: u16, bytes: u32) -> io::Result<()> {
        self.make_room(bytes);
        self.send_buffer.begin(libc::NFQNL_MSG_CONFIG, 0, queue);
        self.send_buffer.attribute(libc::NFQA_CFG_PARAMS, &copy_params(bytes));
        self.send_buffer.end();
        self.flush()
    }

    fn await_ack(&mut self) -> io::Result<()> {
        let mut answer = [0u8; 256];
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        for _ in 0..16 {
            // SAFETY: the array and the buffer live through the calls, with the lengths that are said.
            let len = unsafe {
                check(libc::poll(&mut poll, 1, 1000))?;
                check(libc::recv(self.fd.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) as i32)?
            };
            if let Some(result) = parse_ack(&answer[..len as usize]) {
                return result;
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel gave no answer"))
    }

    /// Receives what is there, at most one batch, and gives how much it was.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(Queued)) -> io::Result<usize> {
        // SAFETY: all-zero is a valid value for these C structures, and the buffers that they are
        // pointed at live through the call and do not overlap.
        let (received, messages) = unsafe {
            let mut vectors: [libc::iovec; BATCH] = zeroed();
            let mut messages: [libc::mmsghdr; BATCH] = zeroed();
            for (index, slot) in self.receive_buffer.chunks_exact_mut(self.slot).enumerate() {
                vectors[index] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
                messages[index].msg_hdr.msg_iov = &raw mut vectors[index];
                messages[index].msg_hdr.msg_iovlen = 1;
            }
            let none = std::ptr::null_mut();
            let flags = libc::MSG_DONTWAIT;
            let fd = self.fd.as_raw_fd();
            let got = libc::recvmmsg(fd, messages.as_mut_ptr(), BATCH as u32, flags as _, none);
            (check(got), messages)
        };
        let received = match received {
            Ok(count) => count as usize,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            // A signal, or a loss that the kernel counts by queue and that is looked up there.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(0),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(0),
            Err(error) => return Err(error),
        };
        for (slot, message) in self.receive_buffer.chunks_exact(self.slot).zip(&messages[..received]) {
            let len = (message.msg_len as usize).min(slot.len());
            // Any other message is an error about a packet that is no longer there.
            if let Some(packet) = parse_packet(&slot[..len]) {
                each(packet);
            }
        }
        Ok(received)
    }

    /// Releases one packet. Verdicts are gathered until [`NetlinkSocket::flush`].
    pub(crate) fn accept(&mut self, queue: u16, id: u32) -> io::Result<()> {
        self.verdict(libc::NFQNL_MSG_VERDICT, queue, id, libc::NF_ACCEPT, None)
    }

    /// Releases all packets of a queue up to this id that have had no verdict.
    pub(crate) fn accept_up_to(&mut self, queue: u16, id: u32) -> io::Result<()> {
        self.verdict(libc::NFQNL_MSG_VERDICT_BATCH, queue, id, libc::NF_ACCEPT, None)
    }

    /// Releases one packet with other bytes. Its checksums are left as they are in there.
    pub(crate) fn accept_changed(&mut self, queue: u16, id: u32, payload: &[u8]) -> io::Result<()> {
        self.verdict(libc::NFQNL_MSG_VERDICT, queue, id, libc::NF_ACCEPT, Some(payload))
    }

    /// Sends one packet through its queue once more, with other bytes.
    pub(crate) fn requeue(&mut self, queue: u16, id: u32, payload: &[u8]) -> io::Result<()> {
        let again = libc::NF_QUEUE | i32::from(queue) << 16;
        self.verdict(libc::NFQNL_MSG_VERDICT, queue, id, again, Some(payload))
    }

    pub(crate) fn drop_packet(&mut self, queue: u16, id: u32) -> io::Result<()> {
        self.verdict(libc::NFQNL_MSG_VERDICT, queue, id, libc::NF_DROP, None)
    }

    fn verdict(
        &mut self,
        kind: libc::c_int,
        queue: u16,
        id: u32,
        verdict: libc::c_int,
        payload: Option<&[u8]>,
    ) -> io::Result<()> {
        let mut header = [0; 8];
        header[..4].copy_from_slice(&(verdict as u32).to_be_bytes());
        header[4..].copy_from_slice(&id.to_be_bytes());
        self.send_buffer.begin(kind, 0, queue);
        self.send_buffer.attribute(libc::NFQA_VERDICT_HDR, &header);
        if let Some(payload) = payload {
            self.send_buffer.attribute(libc::NFQA_PAYLOAD, payload);
        }
        self.send_buffer.end();
        if self.send_buffer.bytes.len() < SEND_BUFFER_BYTES { Ok(()) } else { self.flush() }
    }

    /// Sends what has been gathered; the kernel acts on it before this returns.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.send_buffer.bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: all-zero but for the family is the kernel's own address; the buffer lives through
        // the call.
        let sent = unsafe {
            let mut kernel: libc::sockaddr_nl = zeroed();
            kernel.nl_family = libc::AF_NETLINK as libc::sa_family_t;
            libc::sendto(
                self.fd.as_raw_fd(),
                self.send_buffer.bytes.as_ptr().cast(),
                self.send_buffer.bytes.len(),
                0,
                (&raw const kernel).cast(),
                size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        };
        self.send_buffer.bytes.clear();
        check(sent as i32).map(drop)
    }
}

impl AsRawFd for NetlinkSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn copy_params(bytes: u32) -> [u8; 5] {
    let [a, b, c, d] = bytes.to_be_bytes();
    [a, b, c, d, libc::NFQNL_COPY_PACKET as u8]
}

/// A C call's result: negative means that errno says why.
pub(crate) fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packets_message_is_read_and_nothing_makes_the_reader_panic() {
        let mut send_buffer = SendBuffer::default();
        send_buffer.begin(libc::NFQNL_MSG_PACKET, 0, 4450);
        send_buffer.attribute(libc::NFQA_PACKET_HDR, &[0, 0, 1, 7, 8, 0, 0]);
        send_buffer.attribute(libc::NFQA_PAYLOAD, &[0x45; 15]);
        send_buffer.attribute(libc::NFQA_CAP_LEN, &1500u32.to_be_bytes());
        send_buffer.end();
        let packet = parse_packet(&send_buffer.bytes).unwrap();
        assert_eq!((packet.queue, packet.id, packet.ip_bytes), (4450, 263, 1500));
        assert_eq!(packet.payload.len(), 15);
        for len in 0..send_buffer.bytes.len() {
            let _ = parse_packet(&send_buffer.bytes[..len]);
            let mut bent = send_buffer.bytes.clone();
            for value in [0, 1, 3, 255] {
                bent[len] = value;
                let _ = parse_packet(&bent);
            }
        }
    }

    #[test]
    fn an_uncut_packet_has_the_length_of_its_bytes() {
        let mut send_buffer = SendBuffer::default();
        send_buffer.begin(libc::NFQNL_MSG_PACKET, 0, 1);
        send_buffer.attribute(libc::NFQA_PACKET_HDR, &[0, 0, 0, 9, 8, 0, 0]);
        send_buffer.attribute(libc::NFQA_PAYLOAD, &[0x45; 40]);
        send_buffer.end();
        assert_eq!(parse_packet(&send_buffer.bytes).unwrap().ip_bytes, 40);
    }

    #[test]
    fn an_answer_is_told_from_a_packet() {
        let mut answer = vec![0u8; 36];
        answer[4..6].copy_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
        assert!(parse_ack(&answer).unwrap().is_ok());
        answer[16..20].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(parse_ack(&answer).unwrap().unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(parse_packet(&answer).is_none());
    }
}
