"""Fetches from both servers at once for some seconds and prints cells of a table row.

    userspace.py sockets|iperf3 SECONDS
    userspace.py idle COUNT             median and 99 % of that many TCP handshakes to server-a, in ms

The cells: payload in Mbit/s, the share of a processor that the thread that holds packets took, and
how busy the machine was.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

SERVERS = {"A": "10.45.0.2", "B": "10.45.0.3"}
PORT = 4472
TICKS = os.sysconf("SC_CLK_TCK")

SENDER = """
import socket, sys
listener = socket.create_server((sys.argv[1], %d))
peer, _ = listener.accept()
data = bytes(1 << 18)
try:
    while True:
        peer.sendall(data)
except OSError:
    pass
""" % PORT


def in_server(name, command):
    namespace = os.environ[f"TWINLINK_NS_{name}"]
    return subprocess.Popen(["ip", "netns", "exec", namespace, *command], stdout=subprocess.DEVNULL)


def connect(address, port):
    for _ in range(100):
        try:
            return socket.create_connection((address, port))
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{address} does not listen")


def holder_ticks():
    """Ticks that the thread of the parent process has run; none where there is no such thread."""
    parent = os.getppid()
    for task in os.listdir(f"/proc/{parent}/task"):
        with open(f"/proc/{parent}/task/{task}/stat", encoding="ascii") as file:
            name, _, rest = file.read().partition("(")[2].rpartition(")")
        if name == "links":
            fields = rest.split()
            return int(fields[11]) + int(fields[12])
    return None


def machine_ticks():
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(word) for word in file.readline().split()[1:9]]
    return sum(fields), sum(fields) - fields[3] - fields[4]


def receive(sock, totals, index, until):
    buffer = bytearray(1 << 18)
    while time.monotonic() < until:
        totals[index] += sock.recv_into(buffer)


def by_sockets(seconds):
    servers = [in_server(name, [sys.executable, "-c", SENDER, address]) for name, address in SERVERS.items()]
    socks = [connect(address, PORT) for address in SERVERS.values()]
    totals = [0, 0]
    until = time.monotonic() + seconds + 2
    threads = [threading.Thread(target=receive, args=(s, totals, i, until)) for i, s in enumerate(socks)]
    for thread in threads:
        thread.start()
    # Slow start is not what is measured.
    time.sleep(2)
    before, held, machine, since = sum(totals), holder_ticks(), machine_ticks(), time.monotonic()
    time.sleep(seconds - 0.2)
    passed = time.monotonic() - since
    mbit = (sum(totals) - before) * 8 / passed / 1e6
    result = (mbit, held, holder_ticks(), machine, machine_ticks(), passed)
    for thread in threads:
        thread.join()
    for sock, server in zip(socks, servers):
        sock.close()
        server.terminate()
        server.wait()
    return result


def by_iperf3(seconds):
    servers = [in_server(name, ["iperf3", "-s", "-1", "-B", address]) for name, address in SERVERS.items()]
    time.sleep(1)
    command = ["iperf3", "-R", "-J", "-O", "2", "-t", str(int(seconds)), "-c"]
    clients = [subprocess.Popen([*command, address], stdout=subprocess.PIPE) for address in SERVERS.values()]
    time.sleep(2)
    held, machine, since = holder_ticks(), machine_ticks(), time.monotonic()
    time.sleep(seconds - 1)
    after, machine_after, passed = holder_ticks(), machine_ticks(), time.monotonic() - since
    ends = [json.loads(client.communicate()[0])["end"] for client in clients]
    for server in servers:
        server.wait()
    mbit = sum(end["sum_received"]["bits_per_second"] for end in ends) / 1e6
    return mbit, held, after, machine, machine_after, passed


def idle(count):
    """What the kernel measured of handshakes one after another; TCPI_RTT is in microseconds."""
    accept = f"import socket, sys\nl = socket.create_server((sys.argv[1], {PORT}))\nwhile True: l.accept()[0].close()"
    server = in_server("A", [sys.executable, "-c", accept, SERVERS["A"]])
    connect(SERVERS["A"], PORT).close()
    times = []
    for _ in range(count):
        with socket.create_connection((SERVERS["A"], PORT)) as sock:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            times.append(struct.unpack_from("I", info, 68)[0] / 1e3)
        time.sleep(0.01)
    server.terminate()
    times.sort()
    print(f"{times[count // 2]:.3f} {times[int(count * 0.99)]:.3f}")


def main():
    if sys.argv[1] == "idle":
        idle(int(sys.argv[2]))
        return
    tool, seconds = sys.argv[1], float(sys.argv[2])
    mbit, held, held_after, machine, machine_after, passed = {"sockets": by_sockets, "iperf3": by_iperf3}[tool](seconds)
    thread = "–" if held is None else f"{(held_after - held) / TICKS / passed:.0%}"
    total, busy = machine_after[0] - machine[0], machine_after[1] - machine[1]
    print(f"{mbit:.1f} | {thread} | {busy / total:.0%}")


main()
