//! TCP_INFO of a socket, as much of it as the log carries, and its congestion control.
//!
//! Reads what the kernel knows; it sets the congestion control, and bounds the window. Linux only.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::sender_report::Sender;
use serde::{Deserialize, Serialize};

/// TCP_INFO of the client's socket. The client receives: loss in the down direction is the server's to see.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TcpInfo {
    pub rtt_ms: f64,
    pub rtt_var_ms: f64,
    /// Least round trip seen; null on kernels before 4.6.
    pub min_rtt_ms: Option<f64>,
    /// Receiver-side estimate: the time that a window of data takes.
    pub rcv_rtt_ms: f64,
    pub rcv_space_bytes: u64,
    pub snd_mss_bytes: u64,
    pub rcv_mss_bytes: u64,
    pub snd_cwnd_packets: u64,
    pub retransmits_total: u64,
    pub bytes_received: Option<u64>,
    /// Data segments that came out of order: losses or reordering in the down direction. Kernel 5.4 on.
    pub rcv_out_of_order: Option<u64>,
}

/// The kernel's `struct tcp_info` up to `tcpi_rcv_ooopack` (include/uapi/linux/tcp.h, Linux 5.4);
/// libc's own stops at 2.6.37. Newer kernels only append, older ones fill less and say so.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawTcpInfo {
    bytes_0_4: [u8; 5], // state, ca_state, retransmits, probes, backoff
    options: u8,
    bytes_6_7: [u8; 2], // window scales, flags
    rto: u32,
    ato: u32,
    snd_mss: u32,
    rcv_mss: u32,
    counts: [u32; 5], // unacked, sacked, lost, retrans, fackets
    times: [u32; 4],  // last data sent, ack sent, data received, ack received
    pmtu: u32,
    rcv_ssthresh: u32,
    rtt: u32,
    rttvar: u32,
    snd_ssthresh: u32,
    snd_cwnd: u32,
    advmss: u32,
    reordering: u32,
    rcv_rtt: u32,
    rcv_space: u32,
    total_retrans: u32,
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
    delivered: u32,
    delivered_ce: u32,
    bytes_sent: u64,
    bytes_retrans: u64,
    dsack_dups: u32,
    reord_seen: u32,
    rcv_ooopack: u32,
    snd_wnd: u32,
}

const NO_MIN_RTT: u32 = u32::MAX;
/// The kernel's value for a slow-start threshold that was never set (`TCP_INFINITE_SSTHRESH`).
const NO_SSTHRESH: u32 = 0x7fff_ffff;

/// The congestion controls that can be asked for.
pub(crate) const CONGESTION_CONTROLS: [&str; 3] = ["cubic", "bbr", "reno"];

/// Reads a socket's TCP_INFO.
///
/// # Errors
/// When the descriptor is not a TCP socket.
pub(crate) fn read(socket: &impl AsRawFd) -> io::Result<TcpInfo> {
    let (raw, filled) = read_raw(socket.as_raw_fd())?;
    let us = |value: u32| f64::from(value) / 1e3;
    let has = |end: usize| filled >= end;
    Ok(TcpInfo {
        rtt_ms: us(raw.rtt),
        rtt_var_ms: us(raw.rttvar),
        min_rtt_ms: min_rtt_ms(&raw, filled),
        rcv_rtt_ms: us(raw.rcv_rtt),
        rcv_space_bytes: raw.rcv_space.into(),
        snd_mss_bytes: raw.snd_mss.into(),
        rcv_mss_bytes: raw.rcv_mss.into(),
        snd_cwnd_packets: raw.snd_cwnd.into(),
        retransmits_total: raw.total_retrans.into(),
        bytes_received: has(mem::offset_of!(RawTcpInfo, segs_out)).then_some(raw.bytes_received),
        rcv_out_of_order: has(mem::offset_of!(RawTcpInfo, snd_wnd)).then(|| raw.rcv_ooopack.into()),
    })
}

/// Whether both ends of a socket write timestamps into their headers (RFC 7323), 12 bytes each.
///
/// # Errors
/// When the descriptor is not a TCP socket.
pub(crate) fn has_timestamps(socket: &impl AsRawFd) -> io::Result<bool> {
    const TCPI_OPT_TIMESTAMPS: u8 = 1;
    Ok(read_raw(socket.as_raw_fd())?.0.options & TCPI_OPT_TIMESTAMPS != 0)
}

/// Reads the side of a socket's TCP_INFO that tells of its sending.
///
/// # Errors
/// When the descriptor is not a TCP socket.
pub(crate) fn read_sender(socket: &impl AsRawFd) -> io::Result<Sender> {
    let (raw, filled) = read_raw(socket.as_raw_fd())?;
    let has = |end: usize| filled >= end;
    let kbit = |bytes_per_s: u64| bytes_per_s.saturating_mul(8) / 1000;
    let busy = |us: u64| has(mem::offset_of!(RawTcpInfo, delivered)).then_some(us as f64 / 1e3);
    let paced = has(mem::offset_of!(RawTcpInfo, max_pacing_rate)) && raw.pacing_rate != u64::MAX;
    Ok(Sender {
        congestion_control: congestion_control(socket),
        rtt_ms: f64::from(raw.rtt) / 1e3,
        rtt_var_ms: f64::from(raw.rttvar) / 1e3,
        min_rtt_ms: min_rtt_ms(&raw, filled),
        snd_mss_bytes: raw.snd_mss.into(),
        snd_cwnd_packets: raw.snd_cwnd.into(),
        ssthresh_packets: (raw.snd_ssthresh < NO_SSTHRESH).then(|| raw.snd_ssthresh.into()),
        unacked_packets: raw.counts[0].into(),
        retransmits_total: raw.total_retrans.into(),
        delivery_rate_kbit: has(mem::offset_of!(RawTcpInfo, busy_time)).then(|| kbit(raw.delivery_rate)),
        pacing_rate_kbit: paced.then(|| kbit(raw.pacing_rate)),
        busy_ms: busy(raw.busy_time),
        rwnd_limited_ms: busy(raw.rwnd_limited),
        sndbuf_limited_ms: busy(raw.sndbuf_limited),
    })
}

/// The bytes that the other end has acknowledged; null on kernels before 4.1.
pub(crate) fn bytes_acked(socket: &impl AsRawFd) -> Option<u64> {
    let (raw, filled) = read_raw(socket.as_raw_fd()).ok()?;
    (filled >= mem::offset_of!(RawTcpInfo, bytes_received)).then_some(raw.bytes_acked)
}

/// Bounds the window that a socket offers its peer, and so what the peer has on its way.
///
/// # Errors
/// When the descriptor is not a TCP socket.
pub(crate) fn clamp_window(socket: &impl AsRawFd, bytes: u64) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel reads one int from `value`.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_WINDOW_CLAMP,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The least round trip seen (ms), where the kernel tells it and there was one.
fn min_rtt_ms(raw: &RawTcpInfo, filled: usize) -> Option<f64> {
    let told = filled >= mem::offset_of!(RawTcpInfo, data_segs_in);
    (told && raw.min_rtt != NO_MIN_RTT).then(|| f64::from(raw.min_rtt) / 1e3)
}

fn read_raw(fd: RawFd) -> io::Result<(RawTcpInfo, usize)> {
    let mut raw = RawTcpInfo::default();
    let mut length = size_of::<RawTcpInfo>() as libc::socklen_t;
    // SAFETY: `raw` is plain data of `length` bytes, which is all that the kernel writes to.
    let status = unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut raw).cast(), &mut length)
    };
    if status == 0 { Ok((raw, length as usize)) } else { Err(io::Error::last_os_error()) }
}

/// The name of the congestion control that a socket's own sending uses.
pub(crate) fn congestion_control(socket: &impl AsRawFd) -> Option<String> {
    let mut name = [0u8; 16];
    let mut length = name.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `name`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_mut_ptr().cast(),
            &mut length,
        )
    };
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    (status == 0).then(|| String::from_utf8_lossy(&name[..end]).into_owned())
}

/// Sets the congestion control of a socket's own sending.
pub(crate) fn set_congestion_control(socket: &impl AsRawFd, name: &str) -> io::Result<()> {
    // SAFETY: the kernel reads `name.len()` bytes from `name`.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns the entries of `CONGESTION_CONTROLS` that this process may use here, found by trying on a socket
/// of its own: the kernel, its modules and the process's capabilities decide.
pub(crate) fn usable() -> io::Result<Vec<&'static str>> {
    // SAFETY: this passes no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let usable = |name: &&str| set_congestion_control(&socket, name).is_ok();
    Ok(CONGESTION_CONTROLS.into_iter().filter(usable).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_loopback_socket_tells_its_round_trip_and_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        far.write_all(&[7; 1000]).unwrap();
        near.read_exact(&mut [0; 1000]).unwrap();
        let info = read(&near).unwrap();
        assert_eq!(info.bytes_received, Some(1000));
        assert!(info.rtt_ms > 0.0 && info.rtt_ms < 1000.0, "{info:?}");
        assert!(info.snd_mss_bytes > 500);
        assert!(congestion_control(&near).is_some());
        let sender = read_sender(&far).unwrap();
        assert!(sender.snd_cwnd_packets > 0 && sender.rtt_ms > 0.0, "{sender:?}");
        assert_eq!(sender.ssthresh_packets, None, "nothing was lost");
        assert_eq!(sender.congestion_control, congestion_control(&far));
    }

    #[test]
    fn an_unknown_congestion_control_is_refused_by_the_kernel() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(set_congestion_control(&listener, "nosuch").is_err());
        set_congestion_control(&listener, "reno").unwrap();
        assert_eq!(congestion_control(&listener).as_deref(), Some("reno"));
        assert!(usable().unwrap().contains(&"reno"), "reno is part of every kernel, and allowed to all");
    }
}
