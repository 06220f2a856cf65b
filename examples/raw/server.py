#!/usr/bin/python3
"""server.py ADDRESS PORT FOLDER: a client sends a name of eight bytes and gets the file, then an end mark; and again."""

import os
import socketserver
import sys

END_MARK = b"--- end of the file, 32 bytes --"


class Connection(socketserver.BaseRequestHandler):
    def handle(self):
        while name := self.request.recv(8, 0x100):  # MSG_WAITALL
            path = os.path.join(sys.argv[3], os.path.basename(name.decode()))
            with open(path, "rb") as file:
                self.request.sendfile(file)
            self.request.sendall(END_MARK)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


Server((sys.argv[1], int(sys.argv[2])), Connection).serve_forever()
