#!/usr/bin/env python3
"""Predicts each schedule over cells of links that a seed draws, in virtual time, and prints percentiles of efficiency.

    benches/schedules.py [--cells N] [--seed N] [--congestion reno|cubic|bbr] [--twinlink PROGRAM]

A cell is a pair of links (or a shared channel) with files for about 4 s. Efficiency is the bound's time over the predicted
one: 1 is the fastest that physics allows. The bound counts no loss of TCP's, so that less than 1 is certain on lossy links.
Prints Markdown: a table of the classes of cells for each schedule, and the cells in which adaptive is furthest behind.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import random
import subprocess
import sys
import tempfile

SCHEDULES = ["adaptive", "inorder", "greedy", "rates", "min-rtt", "ecf", "dems"]
CHANNELS = ["course-scenario-1-near", "course-scenario-1-mid", "course-scenario-1-far"]
# Of the built-in sample.
FILE_BYTES, MOST_FILES = 517_000, 160
SECONDS = 4.0


def log_uniform(draw, least, most):
    return least * (most / least) ** draw.random()


def link(draw, kind):
    """Draws a link: its rate in Mbit/s, its one-way delay and queue in ms, and the loss as TOML."""
    delay_ms = draw.uniform(40, 150) if kind == "long round trip" else log_uniform(draw, 1, 30)
    loss = None
    if kind == "random loss":
        loss = f'"{log_uniform(draw, 0.02, 3):.3f}%"'
    elif kind == "bursts":
        mean, ends = log_uniform(draw, 0.05, 2) / 100, 1 / draw.uniform(3, 30)
        loss = f'{{ p = "{mean * ends / (1 - mean):.5%}", r = "{ends:.3%}" }}'
    return {
        "mbit": log_uniform(draw, 2, 200),
        "delay_ms": delay_ms,
        "queue_ms": draw.uniform(50, 250),
        "loss": loss,
    }


def profile(one):
    loss = f"loss = {one['loss']}\n" if one["loss"] else ""
    way = f"rate = \"{one['mbit'] * 1000:.0f}kbit\"\ndelay = \"{one['delay_ms']:.2f}ms\"\nqueue = \"{one['queue_ms']:.0f}ms\"\n"
    return f'description = "drawn"\n[down]\n{way}{loss}[up]\n{way}'


def drawn(cells, seed):
    """Draws the cells: each a class, its two links or a channel, and how many files."""
    draw = random.Random(seed)
    kinds = ["steady"] * 2 + ["random loss", "bursts", "long round trip", "shared channel"]
    for number in range(cells):
        kind = kinds[number % len(kinds)]
        if kind == "shared channel":
            yield {"kind": kind, "channel": draw.choice(CHANNELS), "files": draw.randint(20, 60), "seed": number}
            continue
        links = [link(draw, kind), link(draw, kind)]
        files = SECONDS * sum(one["mbit"] for one in links) * 1e6 / 8 / FILE_BYTES
        yield {"kind": kind, "links": links, "files": round(min(max(files, 4), MOST_FILES)), "seed": number}


def name(cell):
    if "channel" in cell:
        return f"{cell['channel']}, {cell['files']} files"
    ways = [f"{one['mbit']:.1f} Mbit/s, {one['delay_ms']:.0f} ms, loss {one['loss'] or 0}" for one in cell["links"]]
    return f"{ways[0]} + {ways[1]}, {cell['files']} files"


def path_of(folder, cell, letter):
    return os.path.join(folder, f"{cell['seed']}-{letter}.toml")


def predict(options, folder, cell, schedule):
    command = [options.twinlink, "simulate", "--json", "--congestion", options.congestion]
    command += ["--seed", str(cell["seed"] + 1), "--files", f"s{{001..{cell['files']:03}}}.m4s"]
    rates = "1:1"
    if "channel" in cell:
        command += ["--channel", cell["channel"]]
    else:
        rates = ":".join(f"{one['mbit'] * 1000:.0f}" for one in cell["links"])
        for letter in "ab":
            command += [f"--link-{letter}", path_of(folder, cell, letter)]
    command += ["--schedule", f"rates={rates}" if schedule == "rates" else schedule]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        sys.exit(f"cannot predict {name(cell)}: {ended.stderr.strip()}")
    return json.loads(ended.stdout)["efficiency"]


def percentile(values, share):
    values = sorted(values)
    place = share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--congestion", default="reno")
    parser.add_argument("--twinlink", default="target/release/twinlink")
    options = parser.parse_args()
    cells = list(drawn(options.cells, options.seed))
    found = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for cell in cells:
            for letter, one in zip("ab", cell.get("links", [])):
                with open(path_of(folder, cell, letter), "w") as file:
                    file.write(profile(one))
        work = [(cell, schedule) for cell in cells for schedule in SCHEDULES]
        results = pool.map(lambda one: predict(options, folder, *one), work)
        for number, ((cell, schedule), efficiency) in enumerate(zip(work, results), 1):
            found[schedule].append((efficiency, cell))
            if sys.stderr.isatty():
                print(f"\r{number} of {len(work)} predictions", end="", file=sys.stderr)
    print(f"{len(cells)} cells of seed {options.seed}, {options.congestion}; efficiency against the bound\n")
    print("| cells | schedule | least | 5th | 25th | median |\n|---|---|---|---|---|---|")
    for kind in ["all", *dict.fromkeys(cell["kind"] for cell in cells)]:
        for schedule in SCHEDULES:
            values = [value for value, cell in found[schedule] if kind in ("all", cell["kind"])]
            row = [percentile(values, share) for share in (0, 0.05, 0.25, 0.5)]
            print(f"| {kind} ({len(values)}) | {schedule} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    print("\n| efficiency of adaptive | cell |\n|---|---|")
    for value, cell in sorted(found["adaptive"], key=lambda one: one[0])[:10]:
        print(f"| {value:.3f} | {cell['kind']}: {name(cell)} |")


if __name__ == "__main__":
    main()
