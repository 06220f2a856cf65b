#!/usr/bin/env python3
"""The plain way to serve the job, to compare with: ratio_server.py PORT DIR.

Reads file names, a line each, and answers each with its size (8 bytes, big-endian) and its content.
One thread a connection; no list, no digests, no ranges.
"""
import os
import socket
import socketserver
import sys


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for line in self.rfile:
            # A name, never a path: only what lies in the folder itself is served.
            name = os.path.basename(line.decode().strip())
            with open(os.path.join(FOLDER, name), "rb") as file:
                self.connection.sendall(os.fstat(file.fileno()).st_size.to_bytes(8, "big"))
                self.connection.sendfile(file)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


FOLDER = sys.argv[2]
Server(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
