"""Datagrams that carry the time of their sending, and receivers that log when each came.

Stamps are of CLOCK_MONOTONIC, which all namespaces of a machine share, taken just before the datagram is handed to
the kernel and just after it is read. Nothing here knows of the shaper, and nothing of the shaper is used here.
"""

import array
import ctypes
import multiprocessing
import os
import select
import socket
import struct
import time

FRAME = 1514
SMALL_FRAME = 142
HEADERS = 14 + 20 + 8
# Not in Python's socket module.
UDP_SEGMENT = 103
SO_RCVBUFFORCE = 33

PORT = 4471
SERVERS = {"a": "10.45.0.2", "b": "10.45.0.3"}
CLIENT = "10.45.0.4"
STAMP = struct.Struct("!Id")


def enter(end):
    """Moves this process into the network namespace of "client", "a" or "b"."""
    name = os.environ["TWINLINK_NS_CLIENT" if end == "client" else f"TWINLINK_NS_{end.upper()}"]
    with open(f"/var/run/netns/{name}", "rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {name}")


def in_process(target, *args):
    def run():
        try:
            # On a busy machine a sender or receiver that is kept waiting would be measured instead of the link.
            if not os.environ.get("ACCEPTANCE_VM"):
                os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
        except PermissionError:
            pass
        target(*args)

    process = multiprocessing.Process(target=run, daemon=True)
    process.start()
    return process


class Way:
    """One direction of a link: who sends, who receives, and what came since the last look."""

    def __init__(self, link, direction):
        self.link, self.direction = link, direction
        down = direction == "down"
        self.sender, self.receiver = (link, "client") if down else ("client", link)
        self.address = CLIENT if down else SERVERS[link]
        self.port = PORT + 2 * "ab".index(link) + down
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = in_process(self._receive, theirs)
        self.pipe.recv()

    def stop(self):
        self.process.kill()
        self.process.join()

    def _receive(self, pipe):
        enter(self.receiver)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # Beyond the machine's limit, so that a receiver that is held up loses nothing.
        udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        udp.bind((self.address, self.port))
        udp.setblocking(False)
        rows = array.array("d")
        pipe.send(None)
        while True:
            if pipe in select.select([udp, pipe], [], [])[0]:
                pipe.recv()
                pipe.send(rows)
                rows = array.array("d")
            try:
                for _ in range(200):
                    data, peer = udp.recvfrom(2048)
                    number, sent = STAMP.unpack_from(data)
                    rows.extend((number, sent, time.monotonic()))
                    if data[STAMP.size] == 1:
                        udp.sendto(data[: STAMP.size] + b"\0" + data[STAMP.size + 1 :], peer)
            except BlockingIOError:
                pass

    def arrivals(self):
        """Returns (number, sent, came) of all that has come, in seconds, as it came."""
        self.pipe.send(None)
        rows = self.pipe.recv()
        return list(zip(rows[::3], rows[1::3], rows[2::3]))

    def settled(self):
        """Waits until nothing comes any more, and returns all that came."""
        rows = []
        while True:
            time.sleep(0.6)
            more = self.arrivals()
            rows += more
            if not more:
                return rows

    def start(self, frame, gap, count, batch=1, catch_up=False):
        """Starts a sender of `count` frames, `batch` at once and `gap` seconds apart on average."""
        return in_process(self._send, frame, gap, count, batch, catch_up)

    def _send(self, frame, gap, count, batch, catch_up):
        enter(self.sender)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, frame - HEADERS)
        filler = bytes(frame - HEADERS - STAMP.size)
        due = time.monotonic()
        for first in range(0, count, batch):
            left = due - time.monotonic()
            if left > 0:
                time.sleep(left)
            elif not catch_up:
                # A sender that was held up must not send a burst.
                due = time.monotonic()
            now = time.monotonic()
            numbers = range(first, min(first + batch, count))
            data = b"".join(STAMP.pack(number, now) + filler for number in numbers)
            try:
                udp.sendto(data, (self.address, self.port))
            except OSError as error:
                # A full socket buffer: more than the way takes.
                if error.errno not in (11, 105):
                    raise
            due += gap * batch


def round_trips(link, count, gap):
    """Returns the round trips (s) of datagrams that a server sends back at once; those that are lost are left out."""
    queue = multiprocessing.Queue()

    def ask():
        enter("client")
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setblocking(False)
        times, due = [], time.monotonic()
        end = due + count * gap + 2.0
        for number in [*range(count), None]:
            due = due + gap if number is not None else end
            if number is not None:
                data = STAMP.pack(number, time.monotonic()) + b"\1" + bytes(50)
                udp.sendto(data, (SERVERS[link], PORT + 2 * "ab".index(link)))
            while (left := due - time.monotonic()) > 0:
                if select.select([udp], [], [], left)[0]:
                    sent = STAMP.unpack_from(udp.recv(2048))[1]
                    times.append(time.monotonic() - sent)
        queue.put(times)

    in_process(ask)
    return queue
