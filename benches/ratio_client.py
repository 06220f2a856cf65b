#!/usr/bin/env python3
"""The plain way to do the job, to compare with: ratio_client.py NA:NB OUT NAMES SERVER_A SERVER_B.

Takes the names of the file NAMES in turn, NA for server a, the next NB for server b, and fetches each
server's one after another on one connection, both servers at once, from ratio_server.py. A thread
each; nothing is verified and nothing is retried.
"""
import os
import socket
import sys
import threading

BUFFER_BYTES = 256 * 1024


def read_exactly(connection, view):
    while view:
        read = connection.recv_into(view)
        if read == 0:
            raise EOFError("the server closed the connection")
        view = view[read:]


def fetch(server, names, out):
    host, port = server.rsplit(":", 1)
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with socket.create_connection((host, int(port))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name in names:
            connection.sendall(name.encode() + b"\n")
            size = bytearray(8)
            read_exactly(connection, memoryview(size))
            missing = int.from_bytes(size, "big")
            with open(os.path.join(out, name), "wb", buffering=0) as file:
                while missing:
                    read = connection.recv_into(buffer[: min(missing, BUFFER_BYTES)])
                    if read == 0:
                        raise EOFError("the server closed the connection")
                    file.write(buffer[:read])
                    missing -= read


def main():
    ratio, out, list_of_names, *servers = sys.argv[1:]
    of_a, of_b = map(int, ratio.split(":"))
    with open(list_of_names) as file:
        names = file.read().split()
    shares = ([], [])
    for place, name in enumerate(names):
        shares[place % (of_a + of_b) >= of_a].append(name)
    os.makedirs(out, exist_ok=True)
    done = []

    def work(server, share):
        fetch(server, share, out)
        done.append(server)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(servers, shares)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A thread's exception does not end the process by itself.
    sys.exit(len(done) != len(servers))


main()
