"""Measures two links that are in force and compares them with their profile.

    acceptance.py PROFILE.json      with TWINLINK_NS_CLIENT, _A and _B naming the lab's namespaces
    acceptance.py idle              the round trip that is in force, in ms
    acceptance.py flood a|b|ab      only what these links carry down when they are kept full, in bit/s

Run in a lab while both links carry the profile. Prints one row of a Markdown table for each direction
and fails if a value is out of its range:

- rate within 2 % (in a virtual machine at most 2 % above and 8 % below): datagrams above it, counted by the kernel where they arrive;
- round trip within the larger of 1 ms and 3 %: what the kernel measured of TCP handshakes, median;
- loss within the range that holds in 99.99 % of all runs, where the profile has loss: 120 losses
  expected, and the range widened for losses that come in bursts. A direction that is so slow that
  this takes minutes is left out ("–").

Link a is measured down and link b up at the same time, so both links carry traffic together. A
virtual machine cannot do that in time: with ACCEPTANCE_GENTLE set, everything comes one after
another. Nothing is measured twice: a rate is that of its best stretch, since a machine that is held up
only takes from it.
"""

import ctypes
import json
import math
import multiprocessing
import os
import socket
import statistics
import struct
import sys
import time

SERVERS = {"a": "10.45.0.2", "b": "10.45.0.3"}
CLIENT = "10.45.0.4"
PORT = 4471
FRAME = 1514
SMALL_FRAME = 142
HEADERS = 14 + 20 + 8
UDP_SEGMENT = 103
# A virtual machine on a busy host stands still now and then, which only takes from a rate.
LEAST_BELOW = 0.08 if os.environ.get("ACCEPTANCE_GENTLE") else 0.02
SO_MEMINFO = 55
TCPI_RTT = 68  # its place in struct tcp_info, in microseconds
Z_9999 = 3.891

# A virtual machine cannot send as fast.
PACKETS_PER_S = float(os.environ.get("ACCEPTANCE_PACKETS_PER_S", 10000))
GENTLE = bool(os.environ.get("ACCEPTANCE_GENTLE"))

# The round trip of this lab without any link, in ms; it is in what is measured with one.
BARE_MS = float(os.environ.get("ACCEPTANCE_BARE_MS", 0))

# A direction that would take longer to lose enough is not measured for loss.
LONGEST_S = float(os.environ.get("ACCEPTANCE_LONGEST_S", 30))


def enter(namespace):
    """Moves this thread into a network namespace; sockets stay where they were made."""
    with open(f"/var/run/netns/{namespace}", "rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {namespace}")


def namespace_of(end):
    return os.environ["TWINLINK_NS_CLIENT" if end == "client" else f"TWINLINK_NS_{end.upper()}"]


def made_in(end, make):
    enter(namespace_of(end))
    try:
        return make()
    finally:
        enter(namespace_of("client"))


class Counter:
    """A socket that nobody reads: once it is full the kernel counts all that arrives as dropped."""

    def __init__(self, end, address, port):
        self.socket = made_in(end, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        self.socket.bind((address, port))
        self.socket.setblocking(False)
        self.read = 0

    def arrived(self):
        while True:
            try:
                self.socket.recv(2048)
                self.read += 1
            except BlockingIOError:
                break
        return self.read + struct.unpack("9I", self.socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[8]


def send(end, address, port, frame, batch, gap, count, seconds):
    """Sends batches at a pace without ever catching up, so that a late batch makes no burst."""
    enter(namespace_of(end))
    if not GENTLE:
        try:
            # On a busy machine a sender that is kept waiting would be measured instead of the link.
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
        except PermissionError:
            pass
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    size = frame - HEADERS
    sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
    began = last = time.monotonic()
    sent = 0
    while (count and sent < count) or (seconds and last - began < seconds):
        now_batch = min(batch, count - sent) if count else batch
        try:
            sock.sendto(bytes(size * now_batch), (address, port))
            sent += now_batch
        except OSError as error:
            # A full socket buffer: the pace was above what the way takes.
            if error.errno not in (11, 105):
                raise
        left = last + gap - time.monotonic()
        if left > 0:
            time.sleep(left)
        # A flood catches up, so that it stays above the rate; a count must not burst.
        last = last + gap if seconds else max(last + gap, time.monotonic() - gap)


def seconds_of(text):
    for unit, factor in (("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("min", 60), ("s", 1)):
        if text.endswith(unit):
            return float(text[: -len(unit)]) * factor
    raise ValueError(text)


def bits_of(text):
    for unit, factor in (("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9), ("bit", 1)):
        if text.endswith(unit):
            return float(text[: -len(unit)]) * factor
    raise ValueError(text)


def share_of(text):
    return float(text.rstrip("%")) / 100


def loss_of(shape, pace=1.0):
    """The mean loss, and by how much bursts widen its variance beyond independent losses: a state lasts
    for the time of full frames, so packets at a pace beyond theirs meet longer bursts."""
    loss = shape.get("loss", "0%")
    if isinstance(loss, str):
        return share_of(loss), 1.0
    p, r = share_of(loss["p"]), share_of(loss["r"])
    bad, good = share_of(loss.get("bad", "100%")), share_of(loss.get("good", "0%"))
    kept = (1 - p - r) ** (bits_of(shape["rate"]) / 8 / FRAME / pace)
    return p / (p + r) * bad + r / (p + r) * good, max(1.0, (1 + kept) / (1 - kept))


def pace_that_fits(shape):
    """Packets per second that a direction holds without dropping: its limit counts packets, whatever
    their size, and those in the delay line with them."""
    delay, jitter = seconds_of(shape.get("delay", "0ms")), seconds_of(shape.get("jitter", "0ms"))
    frames_per_s = bits_of(shape["rate"]) / 8 / FRAME
    queue = shape["queue"]
    limit = frames_per_s * delay
    limit += float(queue.rstrip("packets")) if queue.endswith(("p", "packets")) else frames_per_s * seconds_of(queue)
    return 0.7 * limit / (delay + 2.5 * jitter + 0.01)


def round_trips(link, count, gap):
    """Starts handshakes at a pace and asks the kernel how long each took, in ms."""
    poll = []
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((SERVERS[link], PORT))
        poll.append(sock)
        time.sleep(gap)
    time.sleep(2)
    times = []
    for sock in poll:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        if info[0] == 1:
            times.append(struct.unpack_from("I", info, TCPI_RTT)[0] / 1e3)
        sock.close()
    return times


def round_trips_in_turn(link, count, gap=0):
    """One handshake after another, in ms. Order is kept, so one that starts just behind the last packets
    of the one before waits for the latest of them: the gap is for these to arrive."""
    times = []
    for _ in range(count):
        with socket.socket() as sock:
            sock.settimeout(3)
            try:
                sock.connect((SERVERS[link], PORT))
            except TimeoutError:
                continue
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            times.append(struct.unpack_from("I", info, TCPI_RTT)[0] / 1e3)
        time.sleep(gap)
    if len(times) < 0.7 * count:
        sys.exit(f"only {len(times)} of {count} handshakes came about")
    return times


def both_round_trips(expected_ms, jitter_ms):
    # Enough handshakes that the median of what jitter spreads is within a third of the tolerance,
    # far enough apart that none holds the next one back.
    tolerance = max(1.0, 0.03 * expected_ms)
    spread = 1.25 * jitter_ms * math.sqrt(2)
    count = max(20, min(600, math.ceil((3 * spread / tolerance) ** 2 / 2)))
    if GENTLE:
        gap = (expected_ms / 2 + 4 * jitter_ms) / 1e3
        return statistics.median(round_trips_in_turn("a", min(2 * count, 500), gap))
    gap = max(0.02, 5 * jitter_ms / 1e3)
    queue = multiprocessing.Queue()
    workers = []
    for link in SERVERS:
        worker = multiprocessing.Process(target=lambda link=link: queue.put(round_trips(link, count, gap)))
        worker.start()
        workers.append(worker)
    times = queue.get() + queue.get()
    for worker in workers:
        worker.join()
    if len(times) < count:
        sys.exit(f"only {len(times)} of {2 * count} handshakes came about")
    return statistics.median(times)


class Way:
    """One direction of the link that measures it."""

    def __init__(self, direction, shape, link=None, port=PORT):
        self.direction, self.shape, self.port = direction, shape, port
        link = link or ("a" if direction == "down" else "b")
        self.rate = bits_of(shape["rate"])
        self.sender = link if direction == "down" else "client"
        self.address = CLIENT if direction == "down" else SERVERS[link]
        self.counter = Counter("client" if direction == "down" else link, self.address, port)

    def start(self, *args):
        worker = multiprocessing.Process(target=send, args=(self.sender, self.address, self.port, *args))
        worker.start()
        return worker

    def flood(self, seconds):
        batch = max(1, min(40, int(self.rate / 8 / FRAME / 200)))
        return self.start(FRAME, batch, batch * FRAME * 8 / (1.3 * self.rate), 0, seconds)


def settle(ways):
    """Waits until nothing arrives any more."""
    before = None
    while before != (before := [way.counter.arrived() for way in ways]):
        time.sleep(1.5)


def best_rates(ways, seconds):
    """The bit/s that arrives each way in its best stretch of four fifths of this time or more. What holds the
    machine up only takes from a rate: a stretch counts from before its first reading to after its last."""
    readings = [[] for _ in ways]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for way, row in zip(ways, readings):
            before = time.monotonic()
            row.append((before, way.counter.arrived(), time.monotonic()))
        time.sleep(0.05)
    return [
        max(
            (to[1] - since[1]) * FRAME * 8 / (to[2] - since[0])
            for at, since in enumerate(row)
            for to in row[at + 1 :]
            if to[0] - since[2] >= 0.8 * seconds
        )
        for row in readings
    ]


def measure_rates(ways, delay_s):
    warm = delay_s + 1.0
    seconds = max(5.0, max(300 * FRAME * 8 / way.rate for way in ways))
    workers = [way.flood(warm + seconds + 0.5) for way in ways]
    time.sleep(warm)
    rates = best_rates(ways, seconds)
    for worker in workers:
        worker.join()
    settle(ways)
    return rates


def measure_losses(ways):
    """The share lost in each direction, and the range in which it should be; none without loss."""
    results, workers = {}, []
    for way in ways:
        if GENTLE and workers:
            workers[-1][1].join()
        mean, _ = loss_of(way.shape)
        if mean == 0:
            continue
        count = math.ceil(120 / mean)
        pace = min(PACKETS_PER_S, 0.7 * way.rate / 8 / SMALL_FRAME, pace_that_fits(way.shape))
        if count / pace > LONGEST_S:
            continue
        batch = max(1, min(10, int(pace / 200)))
        before = way.counter.arrived()
        workers.append((way, way.start(SMALL_FRAME, batch, batch / pace, count, 0), count, before, pace))
    for worker in workers:
        worker[1].join()
    settle([way for way, *_ in workers])
    for way, _, count, before, pace in workers:
        # On netem a burst counts packets, and the lesser widening holds all the more.
        mean, widened = loss_of(way.shape, pace)
        lost = 1 - (way.counter.arrived() - before) / count
        half = Z_9999 * math.sqrt(mean * (1 - mean) * widened / count)
        results[way.direction] = (lost, max(0.0, mean - half), mean + half)
    return results


def flood(links):
    """Keeps links full and prints what arrives of each in six seconds, after two to get going."""
    shape = {"rate": "50mbit"}
    ways = [Way("down", shape, link, PORT + index) for index, link in enumerate(links)]
    workers = [way.flood(8.5) for way in ways]
    time.sleep(2)
    began = [(time.monotonic(), way.counter.arrived()) for way in ways]
    time.sleep(6)
    for way, (since, before) in zip(ways, began):
        print(f"{(way.counter.arrived() - before) * FRAME * 8 / (time.monotonic() - since):.0f}", end=" ")
    print()
    for worker in workers:
        worker.join()


def main():
    if sys.argv[1] == "flood":
        flood(sys.argv[2])
        return
    listeners = [made_in(link, socket.socket) for link in SERVERS]
    for listener, address in zip(listeners, SERVERS.values()):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT))
        listener.listen(4000)
    if sys.argv[1] == "idle":
        print(f"{statistics.median(round_trips_in_turn('a', 21)):.3f}")
        return
    with open(sys.argv[1], encoding="utf-8") as file:
        profile = json.load(file)
    shapes = {direction: profile[direction] for direction in ("down", "up")}
    ways = [Way(direction, shape) for direction, shape in shapes.items()]
    delay = {d: seconds_of(s.get("delay", "0ms")) for d, s in shapes.items()}
    jitter_ms = max(seconds_of(s.get("jitter", "0ms")) * 1e3 for s in shapes.values())
    expected_ms = sum(delay.values()) * 1e3
    slack_ms = max(1.0, 0.03 * expected_ms)

    def in_time(found):
        return expected_ms - slack_ms <= found <= expected_ms + slack_ms + BARE_MS

    def at_rate(way, found):
        return -LEAST_BELOW <= found / way.rate - 1 <= 0.02

    rtt_ms = both_round_trips(expected_ms, jitter_ms)
    rates = []
    for group in [[way] for way in ways] if GENTLE else [ways]:
        rates += measure_rates(group, sum(delay.values()))
    losses = measure_losses(ways)
    wrong = []
    if not in_time(rtt_ms):
        wrong.append("round trip")
    for way, rate in zip(ways, rates):
        if not at_rate(way, rate):
            wrong.append(f"{way.direction} rate")
        loss = "–"
        if way.direction in losses:
            lost, low, high = losses[way.direction]
            loss = f"{lost:.4%} ({low:.4%}–{high:.4%})"
            if not low <= lost <= high:
                wrong.append(f"{way.direction} loss")
        print(
            f"| {profile['name']} {way.direction} | {way.rate / 1e6:g} | {rate / 1e6:.3f} "
            f"| {expected_ms:g} | {rtt_ms:.2f} | {loss} |",
            flush=True,
        )
    if wrong:
        sys.exit(f"{profile['name']}: out of range: {', '.join(wrong)}")


main()
