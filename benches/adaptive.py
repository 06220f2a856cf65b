#!/usr/bin/env python3
"""Prints the table of benches/adaptive.sh: adaptive.py FOLDER CHANGE_S.

Reads times.csv and the set that was fetched, and writes the rows beside them as adaptive.json.

The bound of each case is physics: the payload share of each link's rate, from one round trip after the
first request, with link b's change at its time; for loss, what the same round's controls carried alone.
"""
import csv
import json
import os
import platform
import statistics
import sys

# Bytes of payload in each frame of 1514 bytes, with TCP's time stamps.
PAYLOAD_SHARE = 1448 / 1514
RATE_A, RATE_B = (mbit * 1e6 / 8 * PAYLOAD_SHARE for mbit in (160, 40))
AFTER = {"collapse": 2e6 / 8 * PAYLOAD_SHARE, "blackhole": 0.0}
BARS = {"steady": 1.01, "far": 1.02, "collapse": 1.03, "blackhole": 1.05, "loss": 1.05}
RTT_S = {"far": 0.08, "loss": 0.02}


def number(text):
    return float(text) if text not in ("", "null") else None


def bound_s(case, total, change_at_s, controls):
    """The least time in which `total` bytes can come, from the first request on."""
    first = RTT_S.get(case, 0.0)
    if case == "loss":
        return total / (controls["a alone"] + controls["b alone"])
    if case not in AFTER:
        return first + total / (RATE_A + RATE_B)
    before = (RATE_A + RATE_B) * change_at_s
    return change_at_s + max(0.0, total - before) / (RATE_A + AFTER[case])


def read(folder, total, change_s):
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(f"{folder}/data")}
    names = sorted(name for name in sizes if name.endswith(".m4s"))
    with open(f"{folder}/times.csv", newline="") as file:
        lines = list(csv.reader(file))
    rates = {}
    for case, name, turn, _wall, elapsed, _first, _waste in lines:
        if name.endswith("alone"):
            with open(f"{folder}/logs/{case}-{name.replace(' ', '-')}-{turn}.jsonl") as file:
                end = json.loads(file.readlines()[-1])["data"]
            rates.setdefault((case, turn), {})[name] = end["bytes"] / (float(elapsed) / 1e3)
    runs = []
    for case, name, turn, wall, elapsed, first, waste in lines:
        if name.endswith("alone"):
            continue
        elapsed, first, waste = number(elapsed), number(first), number(waste)
        change = change_s - (first or 0.0) / 1e3
        bound = bound_s(case, total, change, rates.get((case, turn), {}))
        runs.append({
            "case": case, "name": name, "round": int(turn), "wall_s": float(wall), "bound_s": bound,
            "elapsed_s": elapsed and elapsed / 1e3, "over_bound": elapsed and elapsed / 1e3 / bound,
            "wasted_share": waste and waste / total,
        })
    return len(names), runs


def median(values):
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def rows_of(runs):
    adaptive = {(run["case"], run["round"]): run["wall_s"] for run in runs if run["name"] == "adaptive"}
    groups = {}
    for run in runs:
        groups.setdefault((run["case"], run["name"]), []).append(run)
    for (case, name), group in groups.items():
        walls = [run["wall_s"] for run in group]
        row = {key: median(run[key] for run in group) for key in ("wall_s", "elapsed_s", "bound_s", "over_bound", "wasted_share")}
        # How far adaptive is behind this one in the same round; below 0 it is ahead.
        behind = [adaptive[case, run["round"]] / run["wall_s"] - 1 for run in group]
        yield {"case": case, "name": name, "rounds": len(group), "wall_least_s": min(walls), "wall_most_s": max(walls),
               "adaptive_behind": median(behind), "bar": BARS[case] if name == "adaptive" else None, **row}


def shown(value, digits=3):
    return "–" if value is None else f"{value:.{digits}f}"


def main():
    folder, change_s = sys.argv[1], float(sys.argv[2])
    total = sum(e.stat().st_size for e in os.scandir(f"{folder}/data") if e.name.endswith(".m4s"))
    files, runs = read(folder, total, change_s)
    rows = sorted(rows_of(runs), key=lambda row: (list(BARS).index(row["case"]), row["wall_s"]))
    print(f"{files} segments, {total / 1e6:.1f} MB, links of 160 and 40 Mbit/s, link b changes at {change_s:g} s;")
    print(f"{os.cpu_count()} processors, Linux {platform.release()}; wall from start to end of the process, medians\n")
    print("| case | program | wall, s (least–most) | elapsed, s | bound, s | elapsed / bound | bar | adaptive behind it | waste |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        behind = "" if row["name"] == "adaptive" else f"{row['adaptive_behind']:+.1%}"
        waste = "–" if row["wasted_share"] is None else f"{row['wasted_share']:.2%}"
        print(f"| {row['case']} | {row['name']} | {row['wall_s']:.3f} ({row['wall_least_s']:.3f}–{row['wall_most_s']:.3f}) "
              f"| {shown(row['elapsed_s'])} | {shown(row['bound_s'])} | {shown(row['over_bound'])} "
              f"| {shown(row['bar'], 2)} | {behind} | {waste} |")
    with open(f"{folder}/adaptive.json", "w") as file:
        json.dump({"files": files, "bytes": total, "change_s": change_s, "rows": rows, "runs": runs}, file, indent=1)
    print(f"\nevery single run: {os.path.relpath(folder)}")


main()
