"""Reads what a link carried, second by second, and holds it against a trace.

    trace-meter.py watch FILE FOR INTERFACE COUNTER...   a line each 20 ms: time, counters, captured bytes
    trace-meter.py compare FILE BEGAN TRACE COLUMN       prints each second, fails where one is 5 % off

A second is known by its stretches of 100 ms, or longer ones where it is slow: a machine that is held up
only takes from what they carry, so that their median must not be above the trace, nor the best tenth of
them below.
Times are those of the clock that counts since boot. A counter is a file with one number, or "delivers":
the IP packets that the kernel gave to its sockets, as full frames. What is captured are the packets
that leave by the interface, as a capture program sees them.
"""

import bisect
import math
import os
import select
import socket
import sys
import time

FRAME = 1514
ETH_P_ALL = 3

# What may pass in a second of outage.
OUTAGE_MBIT = float(os.environ.get("OUTAGE_MBIT", 0.065))


def now():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read(counter):
    try:
        if counter == "delivers":
            with open("/proc/net/snmp") as table:
                rows = [line.split() for line in table if line.startswith("Ip:")]
            return int(rows[1][rows[0].index("InDelivers")]) * FRAME
        with open(counter) as file:
            return int(file.read())
    except OSError:
        # The device is not there yet.
        return 0


class Capture:
    def __init__(self, interface):
        self.interface, self.socket, self.bytes = interface, None, 0

    def take(self):
        if self.socket is None and os.path.exists(f"/sys/class/net/{self.interface}"):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            self.socket.bind((self.interface, ETH_P_ALL))
        while self.socket and select.select([self.socket], [], [], 0)[0]:
            try:
                data, address = self.socket.recvfrom(2048)
            except OSError:
                # The device is not up yet, or it is gone.
                break
            if address[2] == socket.PACKET_OUTGOING:
                self.bytes += len(data)
        return self.bytes


def watch(path, seconds, interface, counters):
    capture = Capture(interface)
    due = now()
    end = due + seconds
    with open(path, "w") as file:
        while due < end:
            captured = capture.take()
            print(f"{now():.4f}", *map(read, counters), captured, file=file, flush=True)
            due += 0.02
            time.sleep(max(0, due - now()))


def at(rows, moment, column):
    """A counter at a time, between the two readings around it."""
    index = bisect.bisect_left(rows, (moment,))
    if not 0 < index < len(rows):
        sys.exit(f"nothing was read at {moment}")
    before, after = rows[index - 1], rows[index]
    part = (moment - before[0]) / (after[0] - before[0])
    return before[column] + part * (after[column] - before[column])


def compare(path, began, trace, column):
    with open(path) as file:
        rows = [tuple(map(float, line.split())) for line in file]
    with open(trace) as file:
        plan = [tuple(map(float, line.split())) for line in file]
    wrong = 0
    for second in range(20):
        expected = [rate for since, rate in plan if since <= second][-1]
        moments = [began + second + hundredth / 100 for hundredth in range(0, 101, 2)]
        bits = [at(rows, moment, column) * 8 for moment in moments]
        # One frame more or less must be little of what a stretch carries: it holds 40 of them.
        steps = min(max(5, math.ceil(40 * FRAME * 8 / (expected * 1e6) / 0.02)), 40) if expected else 5
        rates = sorted((after - before) / (steps * 2e4) for before, after in zip(bits, bits[steps:]))
        found, best = rates[len(rates) // 2], rates[len(rates) * 9 // 10]
        # In an outage the bucket of two packets may still pass, and what had left it just before.
        off = found > OUTAGE_MBIT if expected == 0 else found > 1.05 * expected or best < 0.95 * expected
        wrong += off
        print(f"second {second}: {found:.3f} Mbit/s, at best {best:.3f}, {expected:g} by the trace{', WRONG' if off else ''}")
    if wrong:
        sys.exit(f"{wrong} of 20 seconds are off by more than 5 %")


def main():
    command, *rest = sys.argv[1:]
    if command == "watch":
        watch(rest[0], float(rest[1]), rest[2], rest[3:])
    elif command == "compare":
        compare(rest[0], float(rest[1]), rest[2], int(rest[3]))
    else:
        sys.exit(__doc__)


main()
