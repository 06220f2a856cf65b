"""Draws profiles by a seed, puts two of them at a time between two servers and a client, and holds what a sender and
a receiver of datagrams saw (acceptance_probe.py) against what the profiles say. No code is shared with the shaper.

    acceptance.py run BACKEND SEED PROFILES [MOST_MBIT]   in a lab, with $TWINLINK_BIN; prints the tables
    acceptance.py measure DRAWN.json                      what `run` starts once the links are in force
    acceptance.py pair FILE                               in `link hold`: both links play their columns of the file
    acceptance.py flood a|b|ab                            only what these links carry down when kept full, in bit/s

Each figure has its own tolerance. One that chance decides must be in the range that 99.99 % of all runs keep
(3.891 standard errors, or Kolmogorov's distribution), so that a run of 20 profiles is wrong by chance once in a hundred.

- rate: 1 %: a stretch has 200 frames, of which its ends cost two; and what jitter moves the ends by.
- delay each way and round trip: the larger of 1 ms and 3 % above or below: what a thread that sleeps may be late by;
  above that a round trip without links, which is the machine's.
- jitter: Kolmogorov-Smirnov against the distribution that the profile names, samples two correlation times apart;
  later by what fits best within the range of the delay, which is the machine's.
- loss: binomial; its variance is widened by (1 + k) / (1 - k) where a bad state stays with k from packet to packet.
- burst: mean length of runs of lost packets; geometric.
- queue: median wait at 1.3 times the rate: 1 % and 1 ms; two frames less, since only whole ones find room, and the
  median one comes between two services; on netem a frame more, for its limit rounds; and what jitter moves it by.
- CoDel: the median wait of an overload by a twentieth is what RFC 8289's own pseudocode gives for these datagrams,
  within 2 ms and two frames.
- pair: each second of both links within 2 % or two frames, and their correlation within 0.01 of the file's.
- trace: bits of each 100 ms against the steps: nine tenths within 5 % or two frames, all together within 1 %.
"""

import bisect
import json
import math
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

import acceptance_probe as probe
from acceptance_probe import FRAME, SMALL_FRAME, Way

Z = 3.891
KOLMOGOROV = 2.225
# A virtual machine that is held up takes from a rate what tbf's small burst cannot make up for.
VM = bool(os.environ.get("ACCEPTANCE_VM"))
MOST_PACKETS_PER_S = 400 if VM else 2000
LOSS_S, IDLE_S, OVER = 20 if VM else 12, 20, 1.3
# A process that sends wakes so often at most.
WAKES_PER_S = 100 if VM else 400


# ---- drawing

def log_uniform(rng, low, high):
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def frames_per_s(shape):
    return shape["mbit"] * 1e6 / 8 / FRAME


def draw_shape(rng, backend, most_mbit):
    shape = {"mbit": round(log_uniform(rng, 1, most_mbit), 2), "delay_ms": round(log_uniform(rng, 2, 300), 1)}
    # Less jitter than this is not told from the lateness of threads on a busy machine.
    if shape["delay_ms"] > 8 and rng.random() < 0.7:
        shape["jitter_ms"] = round(rng.uniform(2, min(12, 0.4 * shape["delay_ms"])), 2)
        shape["distribution"] = rng.choice(["uniform", "normal"])
        times = rng.choice([5, rng.uniform(1, 6)]) if backend == "userspace" else 0
        shape["correlation_ms"] = round(times * shape["jitter_ms"], 1)
    fps = frames_per_s(shape)
    kind = rng.choice(["none", "random", "random", "bursts", "bursts"])
    if kind == "bursts" and 0.95 * fps * LOSS_S * 0.01 >= 70 and (not VM or fps < MOST_PACKETS_PER_S):
        r, share = rng.uniform(0.2, 0.5), rng.uniform(0.02, 0.04)
        shape["loss"] = {"p": round(r * share / (1 - share), 5), "r": round(r, 3)}
    elif kind != "none":
        least = 130 / (LOSS_S * small_pace(shape, backend))
        if least < 0.05:
            shape["loss"] = {"share": round(log_uniform(rng, max(0.004, least), 0.05), 4)}
    least_ms = 6 / fps * 1e3
    kind = rng.choice(["ms", "ms", "packets", "codel" if backend == "userspace" else "ms"])
    if kind == "packets" and backend == "userspace":
        shape["queue_packets"] = rng.randint(6, 150)
    elif kind == "codel" and fps > 300 and "loss" not in shape:
        shape["codel_ms"] = 300
    else:
        shape["queue_ms"] = round(max(least_ms, log_uniform(rng, 20, 200)))
    return shape


def draw(rng, number, backend, most_mbit):
    """A profile; one of five plays a trace down, without jitter and losses there."""
    profile = {"name": f"drawn-{number}", "down": draw_shape(rng, backend, most_mbit), "up": draw_shape(rng, backend, most_mbit)}
    if number % 5 == 2:
        steps = [round(log_uniform(rng, 1.5, max(most_mbit, 3)), 2) for _ in range(8)]
        profile["trace"] = [[1.5 * at, mbit] for at, mbit in enumerate(steps)]
        profile["down"] = {"mbit": max(steps), "delay_ms": profile["down"]["delay_ms"], "queue_ms": 150}
    return profile


def to_toml(profile, folder):
    lines = ['description = "drawn"']
    for direction in ("down", "up"):
        s = profile[direction]
        lines += [f"[{direction}]", f'rate = "{s["mbit"] * 1e3:.0f}kbit"', f'delay = "{s["delay_ms"] * 1e3:.0f}us"']
        if "jitter_ms" in s:
            lines += [f'jitter = "{s["jitter_ms"] * 1e3:.0f}us"', f'distribution = "{s["distribution"]}"']
            if s["correlation_ms"]:
                lines.append(f'correlation = "{s["correlation_ms"] * 1e3:.0f}us"')
        if "loss" in s:
            percents = {key: f"{value * 100:.6f}%" for key, value in s["loss"].items()}
            lines.append(f'loss = "{percents["share"]}"' if "share" in percents else
                         f'loss = {{ p = "{percents["p"]}", r = "{percents["r"]}" }}')
        if "codel_ms" in s:
            lines.append(f'queue = {{ kind = "codel", limit = "{s["codel_ms"]}ms" }}')
        else:
            lines.append(f'queue = "{s["queue_packets"]}p"' if "queue_packets" in s else f'queue = "{s["queue_ms"]}ms"')
    if "trace" in profile:
        (folder / f"{profile['name']}.txt").write_text("".join(f"{at} {mbit}\n" for at, mbit in profile["trace"]))
        lines += ["[trace]", f'file = "{profile["name"]}.txt"', 'direction = "down"']
    path = folder / f"{profile['name']}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


# ---- what the profile says

def small_pace(shape, backend):
    """Packets per second of small frames that fill no queue. On netem the limit counts packets of any size."""
    if backend == "netem":
        return min(MOST_PACKETS_PER_S, 0.5 * frames_per_s(shape))
    return min(MOST_PACKETS_PER_S, 0.6 * shape["mbit"] * 1e6 / 8 / SMALL_FRAME)


def loss_of(shape):
    """Share, and how a bad state stays from one packet to the next, at a pace of 95 % of full frames."""
    loss = shape["loss"]
    if "share" in loss:
        return loss["share"], 0.0
    share = loss["p"] / (loss["p"] + loss["r"])
    # In userspace a state steps at the rate of full frames, on netem with each packet.
    steps = 1.0 if shape["backend"] == "netem" else 1 / 0.95
    return share, (1 - loss["p"] - loss["r"]) ** steps


def share_below(shape, ms):
    """The share of packets whose delay is below this, by the profile's distribution."""
    place = (ms - shape["delay_ms"]) / shape["jitter_ms"]
    if shape["distribution"] == "uniform":
        return min(1.0, max(0.0, (place + 1) / 2))
    return (1 + math.erf(place / math.sqrt(2))) / 2


def deviation_ms(shape):
    jitter = shape.get("jitter_ms", 0.0)
    return jitter / math.sqrt(3) if shape.get("distribution") == "uniform" else jitter


def codel_waits(shape, sent):
    """The waits (s) of datagrams of full frames sent at these times, by the pseudocode of RFC 8289, 5: a queue with
    a head that is asked when the bottleneck is free."""
    target, interval, service = 0.005, 0.1, 1 / frames_per_s(shape)
    waits, queue, free, at = [], [], sent[0], 0
    first_above = drop_next = 0.0
    count = last_count = 0
    dropping = False

    def take(now):
        nonlocal first_above
        if not queue:
            first_above = 0.0
            return None, False
        came = queue.pop(0)
        if now - came < target or not queue:
            first_above = 0.0
            return came, False
        if first_above == 0.0:
            first_above = now + interval
            return came, False
        return came, now >= first_above

    while at < len(sent) or queue:
        now = free if queue else max(free, sent[at])
        while at < len(sent) and sent[at] <= now:
            queue.append(sent[at])
            at += 1
        came, over = take(now)
        if dropping:
            if not over:
                dropping = False
            while dropping and now >= drop_next:
                count += 1
                came, over = take(now)
                if not over:
                    dropping = False
                else:
                    drop_next += interval / math.sqrt(count)
        elif over:
            came, _ = take(now)
            dropping = True
            delta = count - last_count
            count = delta if delta > 1 and now - drop_next < 16 * interval else 1
            drop_next = now + interval / math.sqrt(count)
            last_count = count
        if came is not None:
            waits.append(now - came)
            free = now + service
    return waits


# ---- measuring

def idle(way, shape):
    """One-way delays (ms) of small frames on an idle way."""
    gap = max(0.025, 2.2 * shape.get("correlation_ms", 0) / 1e3, 3 * shape.get("jitter_ms", 0) * 2 / 1e3)
    return way.start(SMALL_FRAME, gap, int(max(60, min(400, IDLE_S / gap)))), gap


def measure_all(drawn):
    """All figures of two profiles that are in force, by link and direction; [asked, found, range] or the like."""
    ways = {(link, direction): Way(link, direction) for link in "ab" for direction in ("down", "up")}
    shapes = {(link, direction): drawn[link][direction] for link, direction in ways}
    found = {key: {} for key in ways}
    for link in "ab":
        if "trace" in drawn[link]:
            found[link, "down"]["trace"] = play(ways[link, "down"], drawn[link])
    # Idle: delays, and round trips between them.
    senders = {key: idle(way, shapes[key]) for key, way in ways.items()}
    for sender, _ in senders.values():
        sender.join()
    for key, way in ways.items():
        found[key]["delays_ms"] = [(came - sent) * 1e3 for _, sent, came in way.settled()]
    trips = {}
    for link in "ab":
        jitter = sum(deviation_ms(shapes[link, direction]) for direction in ("down", "up"))
        trips[link] = probe.round_trips(link, 60, max(0.03, jitter * 12e-3))
    for link in "ab":
        found[link, "down"]["trips_ms"] = [trip * 1e3 for trip in trips[link].get()]
        ways[link, "up"].settled()
    for group in ([("a", "down"), ("b", "up")], [("a", "up"), ("b", "down")]):
        lossy = [key for key in group if "loss" in shapes[key]]
        started = [(key, *lose(ways[key], shapes[key])) for key in lossy]
        for key, sender, count in started:
            sender.join()
            found[key]["lost"] = lost(ways[key].settled(), count)
        # A traced way has been flooded already.
        group = [key for key in group if "trace" not in found[key]]
        for keys in [[key] for key in group] if VM else [group]:
            started = [(key, flood(ways[key], shapes[key])) for key in keys]
            for key, sender in started:
                sender.join()
                found[key]["flood"] = ways[key].settled()
    return found


def lose(way, shape):
    share, stays = loss_of(shape)
    if "share" in shape["loss"]:
        pace = small_pace(shape, shape["backend"])
        count = math.ceil(min(130 / share, LOSS_S * pace))
        return way.start(SMALL_FRAME, 1 / pace, count, max(1, int(pace / 500))), count
    pace = 0.95 * frames_per_s(shape)
    count = math.ceil(min(100 / (share * (1 - stays)), LOSS_S * pace))
    return way.start(FRAME, 1 / pace, count, max(1, int(pace / 500))), count


def lost(rows, count):
    """Packets sent and lost, and how many runs of losses there were. A loss at an end has no neighbour."""
    came = sorted({int(number) for number, *_ in rows})
    gaps = [b - a - 1 for a, b in zip(came, came[1:]) if b > a + 1]
    return {"sent": count, "lost": count - len(came), "bursts": len(gaps), "in_bursts": sum(gaps)}


def flood(way, shape):
    fps = frames_per_s(shape)
    over = 1.05 if "codel_ms" in shape else OVER
    seconds = flood_warm_s(shape) + max(3.0, 410 / fps)
    pace = over * fps
    return way.start(FRAME, 1 / pace, int(pace * seconds), max(1, int(pace / WAKES_PER_S)), catch_up=True)


def flood_warm_s(shape):
    """Until the queue is full, or CoDel drops as much as is too much."""
    if "codel_ms" in shape:
        return 4.0 + shape["delay_ms"] / 1e3
    fps = frames_per_s(shape)
    queue_s = shape["queue_packets"] / fps if "queue_packets" in shape else shape["queue_ms"] / 1e3
    lossy = loss_of(shape)[0] if "loss" in shape else 0.0
    return 0.3 + shape["delay_ms"] / 1e3 + 2 * (queue_s + 0.05) / (OVER * (1 - lossy) - 1)


def began():
    """When this process began: the traces of the links that it was started for began just before."""
    with open("/proc/self/stat", encoding="utf-8") as file:
        ticks = int(file.read().rsplit(")", 1)[1].split()[19])
    # Ticks are since boot, stamps on the monotonic clock.
    return ticks / os.sysconf("SC_CLK_TCK") - (time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic())


def start_above(way, most_mbit, seconds):
    """Starts a flood above the greatest rate of a trace."""
    pace = 1.2 * most_mbit * 1e6 / 8 / FRAME
    return way.start(FRAME, 1 / pace, int(pace * seconds), max(1, int(pace / WAKES_PER_S)), catch_up=True)


def play(way, profile):
    """What came of a flood above a trace that has just begun, in frames; with when the trace began."""
    start_above(way, max(mbit for _, mbit in profile["trace"]), 12.2).join()
    return {"began": began(), "came": [came for _, _, came in way.settled()]}


# ---- judging

class Judge:
    """Collects cells of a table and what is out of its range."""

    def __init__(self, name):
        self.name, self.cells, self.wrong = name, {}, []

    def within(self, what, asked, found, low, high, form="{:.2f}"):
        text = f"{form.format(asked)} → {form.format(found)} ({form.format(low)} to {form.format(high)})"
        if asked == 0:
            text = f"{form.format(found)} (at most {form.format(high)})"
        if not low <= found <= high:
            text = f"**{text}**"
            self.wrong.append(f"{self.name} {what}: {text}")
        self.cells[what] = text


def judge(name, direction, shape, found, bare_ms):
    judged = Judge(f"{name} {direction}")
    jitter, n = deviation_ms(shape), len(found["delays_ms"])
    slack = max(1.0, 0.03 * shape["delay_ms"]) + Z * 1.2533 * jitter / math.sqrt(n)
    delay = statistics.median(found["delays_ms"])
    judged.within("delay, ms", shape["delay_ms"], delay, shape["delay_ms"] - slack, shape["delay_ms"] + slack + bare_ms)
    if jitter:
        came = sorted(found["delays_ms"])

        def distance_of(late_ms):
            shares = [share_below(shape, ms - late_ms) for ms in came]
            return max(max(share - at / n, (at + 1) / n - share) for at, share in enumerate(shares))

        distance = min(distance_of(late / 10) for late in range(0, int(10 * (slack + bare_ms)) + 1))
        judged.within("jitter, KS distance", 0, distance, 0, KOLMOGOROV / math.sqrt(n), "{:.3f}")
    if "lost" in found:
        share, stays = loss_of(shape)
        loss = found["lost"]
        half = Z * math.sqrt(share * (1 - share) * (1 + stays) / (1 - stays) / loss["sent"])
        judged.within("loss, %", share * 100, loss["lost"] / loss["sent"] * 100, max(0, share - half) * 100, (share + half) * 100)
        if stays and loss["bursts"]:
            goes_on = share + (1 - share) * stays
            mean = 1 / (1 - goes_on)
            half = Z * math.sqrt(goes_on) * mean / math.sqrt(loss["bursts"])
            judged.within("burst, packets", mean, loss["in_bursts"] / loss["bursts"], mean - half, mean + half)
    if "flood" in found:
        judge_flood(judged, shape, found["flood"])
    if "trace" in found:
        judge_trace(judged, shape, found["trace"])
    return judged


def judge_flood(judged, shape, rows):
    jitter, service_ms = deviation_ms(shape), 1e3 / frames_per_s(shape)
    warm = min(sent for _, sent, _ in rows) + flood_warm_s(shape)
    last_sent = max(sent for _, sent, _ in rows)
    steady = [(sent, came) for _, sent, came in rows if warm <= came - shape["delay_ms"] / 1e3 <= last_sent]
    seconds = steady[-1][1] - steady[0][1]
    mbit = (len(steady) - 1) * FRAME * 8 / 1e6 / seconds
    ends = Z * math.sqrt(2) * jitter / 1e3 / seconds
    mean_mbit = mbit
    # The median of all stretches of a half, since one that begins or ends while a thread was late is too short or too
    # long. In a virtual machine the best: what holds it up takes from a rate.
    half = len(steady) // 2
    spans = [after[1] - before[1] for before, after in zip(steady, steady[half:])]
    mbit = half * FRAME * 8 / 1e6 / (min(spans) if VM else statistics.median(spans))
    seconds /= 2
    below, above = (0.08, 0.02) if VM else (0.01, 0.01)
    judged.within("rate, Mbit/s", shape["mbit"], mbit, shape["mbit"] * (1 - below - ends), shape["mbit"] * (1 + above + ends))
    # Behind a full queue the draws of netem's jitter are not independent of the order that is kept.
    if jitter and shape["backend"] == "netem":
        return
    wait = statistics.median((came - sent) * 1e3 for sent, came in steady) - shape["delay_ms"]
    # By Little's law what waits is the wait times the rate that was, also where the machine was held up.
    wait *= mean_mbit / shape["mbit"] if VM else 1
    moves = Z * 1.2533 * jitter / math.sqrt(max(1.0, 2 * seconds * 1e3 / max(1.0, shape.get("correlation_ms", 0))))
    if "codel_ms" in shape:
        asked = statistics.median(codel_waits(shape, codel_sent(rows))[-len(steady):]) * 1e3
        slack, less, more = 2 + moves, 2 * service_ms, 2 * service_ms
    else:
        asked = shape.get("queue_ms") or shape["queue_packets"] * service_ms
        slack, less = 1 + 0.01 * asked + moves, 2 * service_ms
        more = service_ms if shape["backend"] == "netem" else 0
    judged.within("queue, ms", asked, wait, asked - slack - less, asked + slack + more, "{:.1f}")


def codel_sent(rows):
    """When each datagram was sent, those that were dropped between their neighbours."""
    known = sorted((number, sent) for number, sent, _ in rows)
    times = []
    for (number, sent), (other, then) in zip(known, known[1:]):
        times += [sent + (then - sent) * at / (other - number) for at in range(int(other - number))]
    return times


def judge_trace(judged, shape, trace):
    """Frames of each 100 ms, where the trace began at the moment that fits best: how long a program takes to start is
    not the link's."""
    steps = trace["steps"]

    def mbit_s(until):
        whole = sum(mbit * 1.5 for _, mbit in steps)
        laps, rest = divmod(until, 1.5 * len(steps))
        return laps * whole + sum(mbit * min(max(rest - at, 0), 1.5) for at, mbit in steps)

    came = sorted(trace["came"])
    base = trace["began"] + shape["delay_ms"] / 1e3
    # From when the queue has filled on.
    first = math.ceil((came[0] - base + 0.8) * 10)

    def errors(shift):
        rows = []
        for at in range(first, first + 105):
            since, until = at / 10, (at + 1) / 10
            frames = bisect.bisect_left(came, base + shift + until) - bisect.bisect_left(came, base + shift + since)
            rows.append((frames * FRAME * 8 / 1e6, mbit_s(until) - mbit_s(since)))
        return rows

    shift = min((at / 1000 for at in range(-300, 301, 4)), key=lambda s: sum(abs(a - b) for a, b in errors(s)))
    rows = errors(shift)
    frame = FRAME * 8 / 1e6
    over = sorted(max(0.0, abs(found - asked) - 2 * frame) / asked * 100 for found, asked in rows)
    judged.within("trace, % off in nine tenths of 100 ms", 0, over[len(over) * 9 // 10], 0, 5)
    asked, found = sum(row[1] for row in rows), sum(row[0] for row in rows)
    below = 0.08 if VM else 0.01
    judged.within("trace, Mbit", asked, found, asked * (1 - below), asked * 1.01, "{:.1f}")


# ---- the run

def measure(path):
    drawn = json.loads(pathlib.Path(path).read_text())
    results = []
    for (link, direction), row in measure_all(drawn).items():
        if "trace" in row:
            row["trace"]["steps"] = drawn[link]["trace"]
        shape = drawn[link][direction]
        judged = judge(drawn[link]["name"], direction, shape, row, drawn["bare_ms"])
        if direction == "down":
            asked = shape["delay_ms"] + drawn[link]["up"]["delay_ms"]
            jitter = math.hypot(deviation_ms(shape), deviation_ms(drawn[link]["up"]))
            slack = max(1.0, 0.03 * asked) + Z * 1.2533 * jitter / math.sqrt(len(row["trips_ms"]))
            judged.within("round trip, ms", asked, statistics.median(row["trips_ms"]), asked - slack, asked + slack + drawn["bare_ms"])
        results.append({"name": judged.name, "cells": judged.cells, "wrong": judged.wrong})
    pathlib.Path(path).with_suffix(".result").write_text(json.dumps(results))


COLUMNS = ["rate, Mbit/s", "delay, ms", "round trip, ms", "jitter, KS distance", "loss, %", "burst, packets", "queue, ms",
           "trace, % off in nine tenths of 100 ms", "trace, Mbit"]


def bare_round_trip_ms():
    """Returns the median round trip between the namespaces, while nothing is shaped: the machine's own time."""
    echo = Way("a", "up")
    bare_ms = statistics.median(probe.round_trips("a", 40, 0.025).get()) * 1e3
    echo.stop()
    return bare_ms


def run(backend, seed, count, most_mbit=100):
    rng = random.Random(int(seed))
    drawn = [draw(rng, number, backend, float(most_mbit)) for number in range(1, int(count) + 1)]
    folder = pathlib.Path(tempfile.mkdtemp(dir=os.environ.get("WORK")))
    print(f"Linux {os.uname().release}, {backend}, seed {seed}.\n")
    wrong, bare = [], []
    print("| way | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|", flush=True)
    for first, second in zip(drawn[::2], drawn[1::2]):
        # A host that becomes busier makes the machine slower from one pair to the next.
        bare.append(bare_round_trip_ms())
        pair = {"a": first, "b": second, "bare_ms": bare[-1]}
        for profile in (first, second):
            for direction in ("down", "up"):
                profile[direction]["backend"] = backend
        paths = {link: to_toml(profile, folder) for link, profile in zip("ab", (first, second))}
        plan = folder / f"{first['name']}.json"
        plan.write_text(json.dumps(pair))
        command = [os.environ["TWINLINK_BIN"], "link", "hold", "--link-a", paths["a"], "--link-b", paths["b"], "--backend",
                   backend, "--", sys.executable, __file__, "measure", plan]
        held = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if held.returncode:
            sys.exit(f"cannot measure {first['name']} and {second['name']}: {held.stderr[-2000:]}")
        for line in held.stderr.splitlines():
            if "overload" in line:
                print(line, file=sys.stderr)
        for row in json.loads(plan.with_suffix(".result").read_text()):
            print("| " + " | ".join([row["name"], *(row["cells"].get(column, "–") for column in COLUMNS)]) + " |", flush=True)
            wrong += row["wrong"]
    print(f"\nBefore the pairs, a round trip without links took {min(bare):.2f} to {max(bare):.2f} ms.")
    if wrong:
        sys.exit("out of range:\n" + "\n".join(wrong))


def pair(path):
    """Holds the seconds of both links against the columns of a file; the trace began at the moment
    that fits best, the same for both."""
    rows = [[float(word) for word in line.split(",")] for line in pathlib.Path(path).read_text().splitlines()]
    asked = {"a": [row[1] for row in rows], "b": [row[2] for row in rows]}
    ways = {link: Way(link, "down") for link in "ab"}
    senders = [start_above(way, max(asked[link]), len(rows) + 0.5) for link, way in ways.items()]
    for sender in senders:
        sender.join()
    came = {link: sorted(arrived for *_, arrived in way.settled()) for link, way in ways.items()}

    def mbit(link, second, shift):
        since = began() + shift + second
        frames = bisect.bisect_left(came[link], since + 1) - bisect.bisect_left(came[link], since)
        return frames * FRAME * 8 / 1e6

    # The first second has the programs' own start in it.
    seconds = range(1, len(rows))
    found_at = {s: {k: [mbit(k, second, s) for second in seconds] for k in "ab"} for s in (at / 1000 for at in range(-300, 301, 4))}
    wanted = {link: asked[link][1:] for link in "ab"}
    found = min(found_at.values(), key=lambda f: sum(abs(x - y) for k in "ab" for x, y in zip(f[k], wanted[k])))
    wrong = []
    for second, (x, y) in enumerate(zip(found["a"], found["b"]), 1):
        print(f"second {second}: a {asked['a'][second]} → {x:.3f}, b {asked['b'][second]} → {y:.3f} Mbit/s")
        for link, rate in (("a", x), ("b", y)):
            if abs(rate - asked[link][second]) > max(0.02 * asked[link][second], 2 * FRAME * 8 / 1e6):
                wrong.append(f"second {second} of link {link}")
    goes = [statistics.correlation(rates["a"], rates["b"]) for rates in (wanted, found)]
    print(f"correlation: {goes[0]:.3f} → {goes[1]:.3f}")
    if abs(goes[0] - goes[1]) > 0.01:
        wrong.append("correlation")
    if wrong:
        sys.exit("out of range: " + ", ".join(wrong))


def flood_down(links):
    """Keeps links full and prints what arrives of each in six seconds, after two to get going."""
    ways = [Way(link, "down") for link in links]
    pace = 65e6 / 8 / FRAME
    senders = [way.start(FRAME, 1 / pace, int(pace * 8.5), 20, catch_up=True) for way in ways]
    time.sleep(2)
    for way in ways:
        way.arrivals()
    began = time.monotonic()
    time.sleep(6)
    seconds = time.monotonic() - began
    print(*(f"{len(way.arrivals()) * FRAME * 8 / seconds:.0f}" for way in ways))
    for sender in senders:
        sender.join()


if __name__ == "__main__":
    {"run": run, "measure": measure, "pair": pair, "flood": flood_down}[sys.argv[1]](*sys.argv[2:])
