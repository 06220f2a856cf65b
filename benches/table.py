#!/usr/bin/env python3
"""Prints the table of benches/transfer.sh: table.py FOLDER ROUNDS.

Reads times.csv, memory.csv, congestion and the set that was fetched, and writes the medians beside
them as medians.jsonl, a line a row.
"""
import csv
import json
import os
import platform
import statistics
import sys

# Bytes of payload in each frame of 1514 bytes, with TCP's time stamps.
PAYLOAD_SHARE = 1448 / 1514
RATES_BIT = (20e6, 80e6)


def number(text):
    return float(text) if text not in ("", "null") else None


def median(values):
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def rows_of(folder):
    groups = {}
    with open(os.path.join(folder, "times.csv"), newline="") as file:
        for setting, name, _round, wall, elapsed_ms, bound_ms, _efficiency in csv.reader(file):
            groups.setdefault((setting, name), []).append((number(wall), number(elapsed_ms), number(bound_ms)))
    for (setting, name), runs in groups.items():
        walls = [wall for wall, _, _ in runs]
        elapsed_ms, bound_ms = median(run[1] for run in runs), median(run[2] for run in runs)
        yield {
            "setting": setting,
            "name": name,
            "wall_s": median(walls),
            "wall_least_s": min(walls),
            "wall_most_s": max(walls),
            "elapsed_s": elapsed_ms and elapsed_ms / 1e3,
            "bound_s": bound_ms and bound_ms / 1e3,
        }


def shown(value):
    return "-" if value is None else f"{value:.3f}"


def main():
    folder, rounds = sys.argv[1:]
    data = os.path.join(folder, "data")
    sizes = [entry.stat().st_size for entry in os.scandir(data) if entry.name.endswith(".m4s")]
    with open(os.path.join(folder, "congestion")) as file:
        congestion = file.read().strip()
    payload_bound_s = sum(sizes) * 8 / (sum(RATES_BIT) * PAYLOAD_SHARE)
    print(f"{len(sizes)} segments, {sum(sizes) / 1e6:.2f} MB; medians of {rounds} interleaved rounds, in seconds")
    print(f"the servers' sockets send with {congestion}; {os.cpu_count()} processors, Linux {platform.release()}")
    print("wall: from starting the process to its end; elapsed: by the client's own clock, first request to last file")
    print("files go to a tmpfs; only twinlink checks digests while it fetches, except with --no-verify")
    rows = list(rows_of(folder))
    width = max(len(row["name"]) for row in rows)
    head = {
        "shaped": f"\nover tbf, rate-20 and rate-80; the payload alone takes {payload_bound_s:.3f} s at these rates",
        "unshaped": "\nunshaped",
    }
    for setting in ("shaped", "unshaped"):
        print(head[setting])
        print(f"  {'':{width}}    wall   (least to most)   elapsed   bound  elapsed/bound")
        for row in rows:
            if row["setting"] != setting:
                continue
            ratio = row["elapsed_s"] / row["bound_s"] if row["bound_s"] and row["elapsed_s"] else None
            row["elapsed_over_bound"] = ratio
            print(
                f"  {row['name']:{width}}  {row['wall_s']:6.3f}  ({row['wall_least_s']:.3f} to {row['wall_most_s']:.3f})"
                f"  {shown(row['elapsed_s']):>8}  {shown(row['bound_s']):>6}  {shown(ratio):>8}"
            )
    print()
    with open(os.path.join(folder, "memory.csv"), newline="") as file:
        for setting, kilobytes in csv.reader(file):
            megabytes = int(kilobytes) * 1024 / 1e6
            rows.append({"setting": setting, "name": "twinlink adaptive", "peak_memory_mb": megabytes})
            print(f"peak memory of the client, {setting}: {megabytes:.1f} MB (it should stay under 50 MB)")
    with open(os.path.join(folder, "medians.jsonl"), "w") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    print(f"every single time: {os.path.relpath(folder)}/times.csv")


main()
