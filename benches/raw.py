#!/usr/bin/env python3
"""Prints the table of benches/raw.sh: raw.py FOLDER BYTES, and writes it as FOLDER/raw.json.

BYTES is what each run fetched. Reads times.csv, iperf.csv, small.csv, server_kilobytes and congestion.
"""
import csv
import json
import os
import platform
import statistics
import sys


def rows(folder, name):
    with open(os.path.join(folder, name), newline="") as file:
        return list(csv.reader(file))


def pairings(folder, payload):
    groups = {}
    for name, servers, _round, wall, elapsed_ms in rows(folder, "times.csv"):
        gbit = payload * 8e-9
        own = gbit / (float(elapsed_ms) / 1e3) if elapsed_ms else None
        groups.setdefault((name, servers), []).append((gbit / float(wall), own))
    for (client, servers), runs in groups.items():
        walls = [wall for wall, _ in runs]
        owns = [own for _, own in runs if own is not None]
        yield {
            "client": client,
            "servers": servers,
            "wall_gbit": statistics.median(walls),
            "wall_least_gbit": min(walls),
            "wall_most_gbit": max(walls),
            "elapsed_gbit": statistics.median(owns) if owns else None,
            "per_round_elapsed_gbit": owns,
            "per_round_wall_gbit": walls,
        }


def small(folder):
    groups = {}
    for files, elapsed_ms, client_kb, server_kb in rows(folder, "small.csv"):
        groups.setdefault(int(files), []).append((float(elapsed_ms), int(client_kb), int(server_kb)))
    for files, runs in groups.items():
        elapsed_ms = statistics.median(run[0] for run in runs)
        yield {
            "files": files,
            "elapsed_ms": elapsed_ms,
            "us_per_file": elapsed_ms * 1e3 / files,
            "client_peak_mb": max(run[1] for run in runs) * 1024 / 1e6,
            "server_peak_mb": max(run[2] for run in runs) * 1024 / 1e6,
        }


def main():
    folder, payload = sys.argv[1], int(sys.argv[2])
    table = list(pairings(folder, payload))
    iperf = [(float(one), float(two)) for _, one, two in rows(folder, "iperf.csv")]
    one, two = (statistics.median(column) for column in zip(*iperf))
    with open(os.path.join(folder, "congestion")) as file:
        congestion = file.read().strip()
    find = {(row["client"], row["servers"]): row for row in table}
    ours = find["twinlink --no-verify", "twinlink"]
    foreign = max((row for row in table if not row["client"].startswith("twinlink")), key=lambda row: row["wall_gbit"])
    nginx = find["twinlink --no-verify", "nginx"]
    of_iperf = statistics.median(
        own / single for own, (single, _) in zip(ours["per_round_elapsed_gbit"], iperf)
    )
    print(
        f"{payload / 1e6:.0f} MB in 160 files from two servers, {os.cpu_count()} cores for all, "
        f"Linux {platform.release().split('-')[0]}, {congestion}; Gbit/s, medians of {len(iperf)} interleaved rounds"
    )
    print("wall: from starting the client to its end; elapsed: by its own clock, first request to last file")
    print(f"\n  {'client':22} {'servers':10}   wall  (least to most)  elapsed")
    for row in table:
        elapsed = "      -" if row["elapsed_gbit"] is None else f"{row['elapsed_gbit']:7.2f}"
        print(
            f"  {row['client']:22} {row['servers']:10} {row['wall_gbit']:6.2f}"
            f"  ({row['wall_least_gbit']:5.2f} to {row['wall_most_gbit']:5.2f}) {elapsed}"
        )
    print(f"  {'iperf3':22} {'one':10} {one:6.2f}\n  {'iperf3':22} {'two':10} {two:6.2f}")
    results = {
        "of_iperf3": of_iperf,
        "of_fastest_foreign_client": ours["wall_gbit"] / foreign["wall_gbit"],
        "of_our_client_from_nginx": ours["wall_gbit"] / nginx["wall_gbit"],
    }
    print(f"\ntwinlink --no-verify, elapsed, over iperf3 of the same round: {of_iperf:.2f} (goal 0.80)")
    print(
        f"twinlink --no-verify, wall, over {foreign['client']} from {foreign['servers']}, the fastest of the others: "
        f"{results['of_fastest_foreign_client']:.2f} (goal 1.50); over the same client from nginx: "
        f"{results['of_our_client_from_nginx']:.2f}\n"
    )
    with open(os.path.join(folder, "server_kilobytes")) as file:
        server_mb = int(file.read()) * 1024 / 1e6
    print(f"  peak memory of a server of {payload / 1e6:.0f} MB, with up to two connections at a time: {server_mb:.1f} MB")
    few_and_many = list(small(folder))
    for row in few_and_many:
        print(
            f"  {row['files']:6} files of 5 KB: {row['elapsed_ms']:7.0f} ms, {row['us_per_file']:5.1f} us each; "
            f"peak memory client {row['client_peak_mb']:.1f} MB, server {row['server_peak_mb']:.1f} MB"
        )
    with open(os.path.join(folder, "raw.json"), "w") as file:
        whole = {"payload_bytes": payload, "cores": os.cpu_count(), "congestion": congestion, "iperf3_gbit": one, "server_peak_mb": server_mb}
        json.dump({**whole, "iperf3_two_gbit": two, **results, "pairings": table, "small": few_and_many}, file, indent=1)
    print(f"\nevery single time: {os.path.relpath(folder)}/times.csv")


main()
