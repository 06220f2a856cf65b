#!/usr/bin/env python3
"""A scheduler of one's own: each link takes the next 256 KB, and the slower one leaves the end to the faster.

    twinlink lab -- --link-a wifi-near --link-b lte-medium --schedule "exec=python3 examples/scheduler.py"

Every line on standard input is a question, and every line on standard output its answer; flush each. What a
program prints as an error is told if it ends. docs/schedules.md describes the lines.
"""
import json
import sys

PIECE = 256 * 1024


def seconds(link, size):
    """How long a link takes for what it was asked for and `size` bytes more; it has no rate before its first bytes."""
    rate = (link["rate_kbit"] or 1000.0) * 125
    return link["rtt_ms"] / 1000 + (link["outstanding_bytes"] + size) / rate


def decide(question):
    mine = question["links"][question["link"]]
    other = question["links"]["b" if question["link"] == "a" else "a"]
    part = question["waiting"][0]
    size = min(PIECE, (part["to"] or part["from"] + PIECE) - part["from"])
    # Where the other link brings all that waits before this one brings its piece, this one waits.
    if other["up"] and seconds(other, question["waiting_bytes"]) < seconds(mine, size):
        return {"wait_ms": 20}
    return {"file": part["file"], "from": part["from"], "to": part["to"] and part["from"] + size}


for line in sys.stdin:
    question = json.loads(line)
    if question["event"] == "start":
        print(len(question["files"]), "files", file=sys.stderr)
        answer = {}
    else:
        answer = decide(question)
    print(json.dumps(answer), flush=True)
