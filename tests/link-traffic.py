"""Traffic for the link tests: datagrams above a rate, counted datagrams, and idle round trips.

    link-traffic.py sink ADDRESS                 takes datagrams and TCP connections until it is ended
    link-traffic.py flood ADDRESS MBIT SECONDS   datagrams at a pace, many a system call
    link-traffic.py count ADDRESS MBIT NUMBER    NUMBER datagrams one by one; the sink's count comes back
    link-traffic.py rate FILE SECONDS            Mbit/s of a counter of bytes, as below
    link-traffic.py delays ADDRESS MBIT NUMBER BYTES
                                                 NUMBER stamped datagrams in frames of BYTES; prints as JSON
                                                 what the sink saw of their order, delays and losses
    link-traffic.py rtt ADDRESS NUMBER           median, least and most of that many TCP handshakes, in ms

Where no size is given each datagram fills an Ethernet frame of 1514 bytes. Stamps are of the monotonic
clock, which all namespaces of a machine share.
"""

import json
import os
import selectors
import socket
import statistics
import struct
import sys
import time

PORT = 4470
FRAME = 1514
# Not in Python's socket module.
UDP_SEGMENT = 103
SO_RCVBUFFORCE = 33


def payload(address):
    """Bytes of payload that make a full frame: Ethernet 14, IP 20 or 40, UDP 8."""
    return FRAME - 14 - (40 if ":" in address else 20) - 8


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def sink(address):
    """Counts numbered datagrams; a datagram of one byte asks how many came, and how many overtook."""
    udp = socket.socket(family(address), socket.SOCK_DGRAM)
    # Forced beyond the machine's limit, so that a sink that is held up loses nothing. An ordinary user may not.
    try:
        udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    except PermissionError:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
    udp.bind((address, PORT))
    tcp = socket.socket(family(address), socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind((address, PORT))
    tcp.listen(64)
    selector = selectors.DefaultSelector()
    selector.register(udp, selectors.EVENT_READ)
    selector.register(tcp, selectors.EVENT_READ)
    came = overtaken = 0
    last = -1
    stamped = []
    while True:
        for key, _ in selector.select():
            if key.fileobj is tcp:
                tcp.accept()[0].close()
                continue
            data, peer = udp.recvfrom(2048)
            if len(data) == 1:
                udp.sendto(struct.pack("!II", came, overtaken), peer)
                came = overtaken = 0
                last = -1
                stamped.clear()
                continue
            if len(data) == 2:
                udp.sendto(json.dumps(summary(stamped, came)).encode(), peer)
                continue
            number = struct.unpack("!i", data[:4])[0]
            if number >= 0:
                came += 1
                overtaken += number < last
                last = max(last, number)
                if len(data) >= 12:
                    sent = struct.unpack("!d", data[4:12])[0]
                    stamped.append((number, sent, time.monotonic()))


def summary(stamped, came):
    """Overtakers are those that came before one with a lower number; a loss is told by its number, and a
    run of losses lasts from the stamp before it to the one behind it."""
    delays = sorted((now - sent) * 1e3 for _, sent, now in stamped)
    overtakers, least = 0, float("inf")
    for number, _, _ in reversed(stamped):
        overtakers += number > least
        least = min(least, number)
    by_number = sorted(stamped)
    pairs = [(a, b) for a, b in zip(by_number, by_number[1:]) if b[0] > a[0] + 1]
    return {
        "came": came,
        "overtakers": overtakers,
        "mean_ms": statistics.fmean(delays),
        "sd_ms": statistics.pstdev(delays),
        "median_ms": statistics.median(delays),
        "bursts": len(pairs),
        "lost_in_bursts": sum(b[0] - a[0] - 1 for a, b in pairs),
        "mbit_packets": came / (max(now for *_, now in stamped) - min(now for *_, now in stamped)),
    }


def pace(deadline):
    left = deadline - time.monotonic()
    if left > 0:
        time.sleep(left)


def flood(address, mbit, seconds):
    size = payload(address)
    batch = max(1, min(40, int(mbit * 1e6 / 8 / FRAME / 200)))
    sock = socket.socket(family(address), socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
    data = struct.pack("!i", -1) + bytes(size - 4)
    gap = batch * FRAME * 8 / (mbit * 1e6)
    start = time.monotonic()
    sent = 0
    while sent * gap < seconds:
        sock.sendto(data * batch, (address, PORT))
        sent += 1
        pace(start + sent * gap)


def count(address, mbit, number):
    # A sender that moves between processors gets its packets reordered before any link sees them.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    size = payload(address)
    sock = socket.socket(family(address), socket.SOCK_DGRAM)
    gap = FRAME * 8 / (mbit * 1e6)
    filler = bytes(size - 4)
    due = time.monotonic()
    for each in range(number):
        sock.sendto(struct.pack("!i", each) + filler, (address, PORT))
        # Who was held up does not catch up: a burst would overflow the hosts' own queues.
        due = max(due + gap, time.monotonic())
        pace(due)
    time.sleep(2)
    sock.settimeout(3)
    for _ in range(10):
        sock.sendto(b"?", (address, PORT))
        try:
            came, overtaken = struct.unpack("!II", sock.recvfrom(64)[0])
            print(came, overtaken)
            return
        except socket.timeout:
            pass
    sys.exit("the sink did not answer")


def rate(path, seconds):
    """The best Mbit/s of any half second or more within this time, of a counter of bytes that a file holds.

    A machine that is held up sends too little for a while, and a late reading makes a stretch look shorter
    or longer. So the counter is read often, each stretch counts from before its first reading to after its
    last, which never makes a rate too high, and the best stretch is what the link carries.
    """
    least = 0.5
    begun = time.monotonic()
    readings = []
    with open(path) as file:
        while not readings or readings[-1][2] < begun + seconds:
            before = time.monotonic()
            file.seek(0)
            count = int(file.read())
            readings.append((before, count, time.monotonic()))
            time.sleep(0.02)
    rates = [
        (to[1] - since[1]) * 8 / (to[2] - since[0])
        for at, since in enumerate(readings)
        for to in readings[at + 1 :]
        if to[0] - since[2] >= least
    ]
    print(f"{max(rates) / 1e6:.3f}")


def delays(address, mbit, number, frame):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    size = payload(address) - FRAME + frame
    sock = socket.socket(family(address), socket.SOCK_DGRAM)
    gap = frame * 8 / (mbit * 1e6)
    due = time.monotonic()
    sock.sendto(b"?", (address, PORT))
    time.sleep(1)
    for each in range(number):
        sock.sendto(struct.pack("!id", each, time.monotonic()).ljust(size, b"\0"), (address, PORT))
        due = max(due + gap, time.monotonic())
        pace(due)
    time.sleep(2)
    sock.settimeout(3)
    for _ in range(10):
        sock.sendto(b"??", (address, PORT))
        try:
            while len(answer := sock.recvfrom(2048)[0]) <= 8:
                pass
            print(answer.decode())
            return
        except socket.timeout:
            pass
    sys.exit("the sink did not answer")


def rtt(address, number):
    """Handshakes on an idle link. Order is kept, so a packet sent just behind others would wait for
    the latest of them: each handshake starts when nothing of the one before is on its way."""
    times = []
    for _ in range(number):
        sock = socket.socket(family(address), socket.SOCK_STREAM)
        start = time.monotonic()
        sock.connect((address, PORT))
        times.append((time.monotonic() - start) * 1e3)
        sock.close()
        time.sleep(max(times) * 1.2e-3 + 0.005)
    print(f"{statistics.median(times):.3f} {min(times):.3f} {max(times):.3f}")


def main():
    command, address, *rest = sys.argv[1:]
    if command == "rate":
        return rate(address, float(rest[0]))
    if command == "sink":
        sink(address)
    elif command == "flood":
        flood(address, float(rest[0]), float(rest[1]))
    elif command == "count":
        count(address, float(rest[0]), int(rest[1]))
    elif command == "delays":
        delays(address, float(rest[0]), int(rest[1]), int(rest[2]))
    elif command == "rtt":
        rtt(address, int(rest[0]))
    else:
        sys.exit(__doc__)


main()
