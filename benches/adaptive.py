#!/usr/bin/env python3
"""Holds adaptive against the bound, aria2c, the best static ratio and the oracle that knows the rates.

    benches/adaptive.py [--rounds N] [--backend userspace|netem] [--rates A:B] [--files N] [CASE...]

Two links of A and B Mbit/s (160:40), queues of 100 ms, servers sending with reno, and about 20 s of files;
what a case adds, or has instead, stands in CASES below. In each round every program runs once (of aria2c's
settings the fastest of the first round goes on), in an order that turns with the round, on links that are
shaped for that run alone, so that each meets empty queues and a trace from its beginning. Prints a table of
medians, writes it as JSON, and keeps every single run under target/bench/. Needs root, and what
tests/setup/packages.sh root peers installs.

The bound is physics: the payload share of each link's rate from one round trip after the first
request, with link b's change or trace at its times; for loss, what the same round's controls say that
each link's TCP carries alone.
"""
import argparse
import csv
import glob
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.environ.get("TWINLINK_BIN", f"{ROOT}/target/release/twinlink")
# Bytes of payload in each frame of 1514 bytes, with TCP's time stamps.
PAYLOAD_SHARE = 1448 / 1514
# When link b changes, in seconds from starting a program.
CHANGE_S = 12.0
FELL_TO_MBIT = 2.0
TRACE = "lte-driving"
# Link a beside the trace, as fast as makes both of them matter.
TRACE_A_MBIT = 10.0
# A program that has not ended by then is ended, and that counts as its time.
LONGEST_S = 60

# Each: the bar of elapsed / bound, and what link b or both are like. One-way delay in ms.
CASES = {
    "steady": {"bar": 1.01},
    "far": {"bar": 1.02, "delay_ms": 40},
    "collapse": {"bar": 1.03, "change": "collapse"},
    "blackhole": {"bar": 1.05, "change": "blackhole"},
    "loss": {"bar": 1.05, "delay_ms": 10, "loss": "1%"},
    "loss-bbr": {"bar": 1.05, "delay_ms": 10, "loss": "1%", "congestion": "bbr"},
    "trace": {"bar": 1.05, "trace": TRACE},
}


def die(what):
    sys.exit(f"adaptive.py: {what}")


# --- what the links can carry ---


def trace_steps():
    """The trace's way down: seconds from its beginning, and bytes of frames a second."""
    with open(f"{ROOT}/netem/traces/{TRACE}.csv", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return [(second, float(row["DL_bitrate"]) * 125) for second, row in enumerate(rows)]


class Bench:
    def __init__(self, folder, options):
        self.folder, self.options = folder, options
        self.rates = dict(zip("ab", (float(mbit) for mbit in options.rates.split(":"))))

    def course(self, case, link, lead_s=0.0):
        """A link's steps: seconds from the first request, which was `lead_s` after the program's start,
        and payload bytes a second."""
        rate = lambda mbit: mbit * 125e3 * PAYLOAD_SHARE
        if CASES[case].get("trace"):
            if link == "a":
                return [(0.0, rate(TRACE_A_MBIT))]
            return [(at - lead_s, frames * PAYLOAD_SHARE) for at, frames in trace_steps()]
        steps = [(0.0, rate(self.rates[link]))]
        if link == "b" and CASES[case].get("change"):
            after = FELL_TO_MBIT if CASES[case]["change"] == "collapse" else 0.0
            steps.append((CHANGE_S - lead_s, rate(after)))
        return steps

    def rtt_s(self, case, link):
        if CASES[case].get("trace"):
            return 0.07 if link == "b" else 0.0
        return 2e-3 * CASES[case].get("delay_ms", 0)

    def bound_s(self, case, size, lead_s=0.0):
        """The least time in which `size` bytes can come, from the first request on."""
        ways = [(self.course(case, link, lead_s), self.rtt_s(case, link)) for link in "ab"]
        low, high = 0.0, 1e4
        while high - low > 1e-6:
            middle = (low + high) / 2
            came = sum(integral(steps, rtt_s / 2, middle - rtt_s / 2) for steps, rtt_s in ways)
            low, high = (low, middle) if came >= size else (middle, high)
        return high

    # --- the set that is fetched ---

    def names(self, case):
        """The files of a case: as many of the large, or of the small where that would be few, as both links
        carry in about 20 s as they are at first."""
        trace = CASES[case].get("trace")
        wanted = sum(integral(self.course(case if trace else "steady", link), 0.0, 20.0) for link in "ab")
        letter = "s" if wanted > 100e6 else "t"
        names = sorted(os.path.basename(path) for path in glob.glob(f"{self.folder}/data/{letter}*.m4s"))
        if self.options.files:
            return names[: self.options.files]
        total = 0
        for count, name in enumerate(names, 1):
            total += os.path.getsize(f"{self.folder}/data/{name}")
            if total >= wanted:
                return names[:count]
        return names

    def size(self, names):
        return sum(os.path.getsize(f"{self.folder}/data/{name}") for name in names)

    # --- who takes part ---

    def entrants(self, case, alone):
        """Programs by name. Static ones are told the mean rates that the bound needs, so that they too end
        with the last byte, or what each link's TCP was measured to carry `alone`; after a blackhole none that
        leaves a server its share ever ends."""
        names = self.names(case)
        if CASES[case].get("trace") or CASES[case].get("change"):
            until = self.bound_s(case, self.size(names))
            mean = {link: integral(self.course(case, link), 0.0, until) / until for link in "ab"}
        else:
            mean = {link: self.rates[link] * 125e3 for link in "ab"}
        mean.update(alone)
        ours = {"adaptive": ["--schedule", "adaptive"]}
        if CASES[case].get("change") != "blackhole":
            oracle = ":".join(str(round(mean[link] * 8e-3)) for link in "ab")
            ours["rates oracle"] = ["--schedule", f"rates={oracle}"]
            ratio = best_ratio(mean["a"] / mean["b"])
            ours[f"ratio={ratio}"] = ["--schedule", f"ratio={ratio}"]
        aria2 = {"aria2c -j5": ["-j5"], "aria2c -j16": ["-j16"], "aria2c -j2 -s2 -k1M": ["-j2", "-s2", "-x1", "-k1M"]}
        return ours, aria2

    def client(self, case, options, names):
        pattern = f"{names[0][0]}{{{names[0][1:-4]}..{names[-1][1:-4]}}}.m4s"
        return [BIN, "client", "--congestion", congestion(case), "--files", pattern, *options,
                "--out", f"{self.folder}/files", "--log", f"{self.folder}/log.jsonl", "server-a", "server-b"]

    def aria2c(self, case, options, names):
        with open(f"{self.folder}/aria2.txt", "w") as file:
            file.writelines(f"http://server-a:4455/{name}\thttp://server-b:4455/{name}\n" for name in names)
        return ["aria2c", "--no-conf", "--quiet", "--file-allocation=none", f"--header=Twinlink-Sender: cc={congestion(case)}",
                *options, f"--input-file={self.folder}/aria2.txt", f"--dir={self.folder}/files"]

    # --- a run ---

    def profiles(self, case):
        for link in "ab":
            rate = TRACE_A_MBIT if CASES[case].get("trace") else self.rates[link]
            loss = CASES[case].get("loss", "0%") if link == "b" else "0%"
            delay = CASES[case].get("delay_ms", 0)
            write_profile(f"{self.folder}/{link}.toml", rate, delay, loss)
        write_profile(f"{self.folder}/fallen.toml", FELL_TO_MBIT, 0, "0%")
        b = CASES[case].get("trace") or f"{self.folder}/b.toml"
        return ["--link-a", f"{self.folder}/a.toml", "--link-b", b]

    def run(self, case, name, turn, command, names):
        """Runs a program; again, where the machine was held up so that the shaper could not keep up."""
        for _ in range(6):
            row = self.once(case, name, turn, command, names)
            if row:
                with open(f"{self.folder}/runs.jsonl", "a") as file:
                    print(json.dumps(row), file=file)
                print(f"{case}, round {turn}: {name} {row['wall_s']:.3f} s", file=sys.stderr, flush=True)
                return row
            print(f"{case}, round {turn}: {name} is run again: the shaper could not keep up", file=sys.stderr, flush=True)
        die(f"{case}, {name}: the shaper could not keep up six times: leave the machine alone")

    def once(self, case, name, turn, command, names):
        """Runs a program on links of its own; returns the row of its times, none after an overload."""
        files, log = f"{self.folder}/files", f"{self.folder}/log.jsonl"
        for left in os.scandir(files):
            os.remove(left)
        if os.path.exists(log):
            os.remove(log)
        hold = [BIN, "link", "hold", "--backend", self.options.backend, *self.profiles(case), "--"]
        clock = ["bash", "-c", f'echo "$EPOCHREALTIME" >&"$0"; timeout -k 5 {LONGEST_S} "$@"; code=$?; echo "$EPOCHREALTIME" >&"$0"; exit $code']
        reading, writing = os.pipe()
        with open(f"{self.folder}/words", "w") as words:
            process = subprocess.Popen([*hold, *clock, str(writing), *command], stdin=subprocess.DEVNULL,
                                       stdout=words, stderr=words, pass_fds=[writing])
        os.close(writing)
        with os.fdopen(reading) as times:
            began = times.readline()
            changer = Changer(CASES[case].get("change"), self.folder) if began else None
            ended = times.readline()
        code = process.wait()
        if changer:
            changer.stop()
        said = open(f"{self.folder}/words").read()
        if began and ended and float(ended) - float(began) >= LONGEST_S:
            print(f"{case}, round {turn}: {name} was ended after {LONGEST_S} s", file=sys.stderr, flush=True)
            return {"case": case, "name": name, "round": turn, "wall_s": float(LONGEST_S)}
        if code != 0 or not ended:
            die(f"{case}, {name}: it ended with {code}: {said[-600:]}")
        if "overload" in said:
            return None
        if "alone" not in name:
            check = subprocess.run(["sha256sum", "--check", "--quiet"], cwd=files, text=True,
                                   input=self.sums(names), capture_output=True)
            if check.returncode != 0:
                die(f"{case}, {name} left a wrong file: {check.stdout[-300:]}")
        row = {"case": case, "name": name, "round": turn, "wall_s": round(float(ended) - float(began), 4)}
        if os.path.exists(log):
            end = json.loads(open(log).readlines()[-1])["data"]
            row.update({key: end[key] for key in ("elapsed_ms", "first_request_ms", "wasted_bytes", "bytes")})
            shutil.copy(log, f"{self.folder}/logs/{case}-{name.replace(' ', '-').replace(':', '-')}-{turn}.jsonl")
        return row

    def sums(self, names):
        wanted = set(names)
        with open(f"{self.folder}/data/SHA256SUMS") as file:
            return "".join(line for line in file if line.split()[1] in wanted)

    def rounds(self, case):
        names = self.names(case)
        controls = []
        if CASES[case].get("loss"):
            for link, ratio, part in (("a", "1:0", len(names) // 2), ("b", "0:1", len(names) // 20 + 1)):
                controls.append((link, self.client(case, ["--schedule", f"ratio={ratio}"], names[:part]), names[:part]))
        first = [(link, self.run(case, f"{link} alone", 0, *control)) for link, *control in controls]
        ours, aria2 = self.entrants(case, {link: row["bytes"] / row["elapsed_ms"] * 1e3 for link, row in first})
        programs = {name: self.client(case, options, names) for name, options in ours.items()}
        programs |= {name: self.aria2c(case, options, names) for name, options in aria2.items()}
        rows = []
        for turn in range(1, self.options.rounds + 1):
            order = list(programs)
            start = turn % len(order)
            for name in order[start:] + order[:start]:
                rows.append(self.run(case, name, turn, programs[name], names))
            if turn == 1:
                # The fastest of aria2c's settings goes on.
                settings = sorted((row["wall_s"], row["name"]) for row in rows if row["name"] in aria2)
                for _, name in settings[1:]:
                    del programs[name]
            rows += [self.run(case, f"{link} alone", turn, *control) for link, *control in controls]
        return rows

    # --- the table ---

    def bounded(self, case, rows):
        """Adds bound_s and over_bound to ours."""
        size = self.size(self.names(case))
        alone = {(row["name"], row["round"]): row["bytes"] / row["elapsed_ms"] * 1e3 for row in rows if "alone" in row["name"]}
        for row in rows:
            if "alone" in row["name"]:
                continue
            if CASES[case].get("loss"):
                row["bound_s"] = size / (alone["a alone", row["round"]] + alone["b alone", row["round"]])
            else:
                row["bound_s"] = self.bound_s(case, size, row.get("first_request_ms", 0.0) / 1e3)
            if "elapsed_ms" in row:
                row["over_bound"] = row["elapsed_ms"] / 1e3 / row["bound_s"]
                row["wasted_share"] = row["wasted_bytes"] / size

    def table(self, case, rows):
        self.bounded(case, rows)
        adaptive = {row["round"]: row["wall_s"] for row in rows if row["name"] == "adaptive"}
        for name in dict.fromkeys(row["name"] for row in rows):
            group = [row for row in rows if row["name"] == name]
            walls = [row["wall_s"] for row in group]
            middle = lambda key: statistics.median(values) if (values := [r[key] for r in group if key in r]) else None
            # How far adaptive is behind this one in the same round; below 0 it is ahead.
            behind = statistics.median(adaptive[row["round"]] / row["wall_s"] - 1 for row in group)
            yield {
                "case": case, "name": name, "rounds": len(group), "wall_s": statistics.median(walls),
                "wall_least_s": min(walls), "wall_most_s": max(walls), "elapsed_ms": middle("elapsed_ms"),
                "bound_s": middle("bound_s"), "over_bound": middle("over_bound"), "wasted_share": middle("wasted_share"),
                "bar": CASES[case]["bar"] if name == "adaptive" else None,
                "adaptive_behind": None if name == "adaptive" or "alone" in name else behind,
            }


def congestion(case):
    return CASES[case].get("congestion", "reno")


def integral(steps, start, end):
    """Bytes between two times, where the last step holds on."""
    total = 0.0
    for (at, rate), until in zip(steps, [step[0] for step in steps[1:]] + [float("inf")]):
        total += rate * max(0.0, min(end, until) - max(start, at))
    return total


def best_ratio(wanted):
    """The ratio of small numbers that is nearest to the rates'."""
    ratios = [(a, b) for a in range(1, 41) for b in range(1, 41)]
    a, b = min(ratios, key=lambda pair: (abs(pair[0] / pair[1] / wanted - 1) > 0.02, abs(pair[0] / pair[1] / wanted - 1)
                                         if abs(pair[0] / pair[1] / wanted - 1) > 0.02 else 0, pair[0] + pair[1]))
    return f"{a}:{b}"


def write_profile(path, mbit, delay_ms, loss):
    with open(path, "w") as file:
        file.write(f'description = "{mbit:g} Mbit/s, {delay_ms} ms each way, {loss} lost"\n'
                   f'[down]\nrate = "{mbit:g}mbit"\nqueue = "100ms"\ndelay = "{delay_ms}ms"\nloss = "{loss}"\n'
                   f'[up]\nrate = "40mbit"\nqueue = "100ms"\ndelay = "{delay_ms}ms"\n')


class Changer:
    """What happens to link b while a program runs, and its undoing."""

    def __init__(self, change, folder):
        self.undo, self.timer = [], None
        self.due = time.monotonic() + CHANGE_S
        rule = ["INPUT", "-s", "server-b", "-j", "DROP"]
        if change == "collapse":
            self.begin(["link", "set", "b", f"{folder}/fallen.toml"], [])
        elif change == "blackhole":
            self.begin(["iptables", "-I", *rule], ["iptables", "-D", *rule])

    def begin(self, command, undo):
        command = [BIN, *command] if command[0] == "link" else command

        def change():
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                # The run goes on unchanged; its times would be wrong.
                print(f"adaptive.py: link b could not be changed: {done.stderr}", file=sys.stderr)
                os._exit(1)
            self.undo = undo
        self.timer = threading.Timer(max(0.0, self.due - time.monotonic()), change)
        self.timer.start()

    def stop(self):
        if self.timer:
            self.timer.cancel()
            self.timer.join()
        if self.undo:
            subprocess.run(self.undo, check=True)


def shown(value, form="{:.3f}"):
    return "–" if value is None else form.format(value)


def print_table(bench, rows):
    print(f"\nLinks of {bench.options.rates} Mbit/s on {bench.options.backend}, link b changes at {CHANGE_S:g} s; {TRACE} is beside "
          f"{TRACE_A_MBIT:g} Mbit/s.\n{os.cpu_count()} processors, Linux {platform.release()}; wall from start to end of the process, medians\n")
    print("| case | program | wall, s (least–most) | elapsed, s | bound, s | elapsed / bound | bar | adaptive behind it | waste |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        elapsed = row["elapsed_ms"] and row["elapsed_ms"] / 1e3
        print(f"| {row['case']} | {row['name']} | {row['wall_s']:.3f} ({row['wall_least_s']:.3f}–{row['wall_most_s']:.3f}) "
              f"| {shown(elapsed)} | {shown(row['bound_s'])} | {shown(row['over_bound'])} | {shown(row['bar'], '{:.2f}')} "
              f"| {shown(row['adaptive_behind'], '{:+.1%}')} | {shown(row['wasted_share'], '{:.2%}')} |")


def inside(bench, cases):
    """In the client's namespace. Each case's rows are kept as soon as it is done."""
    os.makedirs(f"{bench.folder}/logs", exist_ok=True)
    os.makedirs(f"{bench.folder}/files", exist_ok=True)
    # What is fetched goes to memory: aria2c flushes each file to the disk and the others do not.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "none", f"{bench.folder}/files"], check=True)
    table = []
    for case in cases:
        rows = bench.rounds(case)
        table += sorted(bench.table(case, rows), key=lambda row: row["wall_s"])
        with open(f"{bench.folder}/adaptive.json", "w") as file:
            json.dump({"rates_mbit": bench.rates, "backend": bench.options.backend, "change_s": CHANGE_S,
                       "kernel": platform.release(), "rows": table}, file, indent=1)
    print_table(bench, table)
    print(f"\nevery single run: {os.path.relpath(bench.folder, ROOT)}")


def make_data(folder, count):
    """s*.m4s of 3 MB and t*.m4s of 500 KB on average, in one folder with one list."""
    sums = ""
    for letter, mean in (("t", "500KB"), ("s", "2.95MB")):
        part = f"{folder}/data-{letter}"
        subprocess.run([BIN, "segments", part, "--count", str(count), "--mean-size", mean], check=True, stdout=subprocess.DEVNULL)
        os.makedirs(f"{folder}/data", exist_ok=True)
        for line in open(f"{part}/SHA256SUMS"):
            digest, name = line.split()
            os.rename(f"{part}/{name}", f"{folder}/data/{letter}{name[1:]}")
            sums += f"{digest}  {letter}{name[1:]}\n"
        shutil.rmtree(part)
    with open(f"{folder}/data/SHA256SUMS", "w") as file:
        file.write(sums)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=" ".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", choices=["userspace", "netem"], default="userspace")
    parser.add_argument("--rates", default="160:40", help="of links a and b, Mbit/s")
    parser.add_argument("--files", type=int, help="how many, instead of about 20 s")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for case in options.cases:
        if case not in CASES:
            die(f"no case is called {case}; expected {' '.join(CASES)}")
    cases = options.cases or list(CASES)
    if options.inside:
        inside(Bench(options.inside, options), cases)
        return
    if os.geteuid() != 0:
        die("cannot make network namespaces: not root")
    for program in ("aria2c", "iptables", "sha256sum"):
        if not shutil.which(program):
            die(f"{program} not found: run tests/setup/packages.sh root peers")
    folder = f"{ROOT}/target/bench/adaptive-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    os.makedirs(folder)
    try:
        make_data(folder, 160)
        code = subprocess.run([f"{ROOT}/netem/lab.sh", "--data", f"{folder}/data", "--exec",
                               sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--inside", folder]).returncode
    finally:
        for leftover in ("data", "files", "log.jsonl", "words", "aria2.txt", "a.toml", "b.toml", "fallen.toml"):
            path = f"{folder}/{leftover}"
            shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else os.path.exists(path) and os.remove(path)
    sys.exit(code)


main()
