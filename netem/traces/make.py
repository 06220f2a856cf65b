#!/usr/bin/env python3
"""Makes the traces in this folder: make.py [--check]. Synthetic, seeded, the same on every machine.

Each file says in its header what it is, its parameters and where they come from; "judgement" means
that no good source was found. With --check it writes nothing and fails if a file is not what it
would write.
"""

import pathlib
import random
import sys

FOLDER = pathlib.Path(__file__).parent


class Chance:
    """Draws from random() alone, whose sequence no version of Python has changed."""

    def __init__(self, seed):
        self.random = random.Random(seed).random

    def normal(self):
        """Mean 0, deviation 1: twelve uniform draws (Irwin and Hall), which never pass 6."""
        return sum(self.random() for _ in range(12)) - 6

    def between(self, low, high):
        return low + (high - low) * self.random()

    def wander(self, count, keeps):
        """A sequence of deviation 1 in which each value keeps that share of the one before."""
        value, values = self.normal(), []
        for _ in range(count):
            values.append(value)
            value = keeps * value + (1 - keeps**2) ** 0.5 * self.normal()
        return values


def lines(rows, end=None):
    """`time,rate` from times in s and rates in Mbit/s. A trace's last row lasts as long as the one
    before it, so where that is not what is meant, the last one is cut in two."""
    if end is not None:
        rows = rows + [((rows[-1][0] + end) / 2, rows[-1][1])]
    return ["time,rate"] + [f"{at:.2f},{rate:.3f}mbit" for at, rate in rows]


def wifi_walk(chance):
    """Walking away from an access point and back, on 5 then 2.4 GHz
    seed 1; 240 s of 1 s; medians 64, 21.6 and 7.6 Mbit/s at 0, 60 and 120 s (GreenLv/Lumos: Wi-Fi, strong,
    medium, weak), straight lines of the logarithm between them (judgement), and back; around them a
    deviation of 20 % that keeps 0.7 of itself from second to second (judgement)"""
    places = [64.0, 21.6, 7.6, 21.6, 64.0]
    rows = []
    for second, noise in enumerate(chance.wander(240, 0.7)):
        part, rest = divmod(second, 60)
        median = places[part] * (places[part + 1] / places[part]) ** (rest / 60)
        rows.append((second, median * 1.2**noise))
    return lines(rows)


def lte_driving(chance):
    """A car on LTE
    seed 2; 300 s of 1 s, both ways in kbit/s; medians 3.7 down and 1.6 up (mahimahi: AT&T LTE 2016, driving,
    computed), lognormal with a deviation of a factor 2.2, which keeps 0.9 of itself from second to second
    (judgement)"""
    ways = [[median * 2.2**noise for noise in chance.wander(300, 0.9)] for median in (3700, 1600)]
    return ["DL_bitrate,UL_bitrate"] + [f"{down:.0f},{up:.0f}" for down, up in zip(*ways)]


def lte_handover(chance):
    """LTE with handovers: nothing passes for a moment, then another cell
    seed 3; about 180 s; cells of 8 to 20 s (judgement), each with a median of 10.7 Mbit/s (GreenLv/Lumos: LTE,
    medium) times a factor of deviation 1.5 (judgement); outages of 50 to 500 ms between them (judgement)"""
    at, rows = 0.0, []
    while at < 180:
        rows.append((at, 10.7 * 1.5 ** chance.normal()))
        at += chance.between(8, 20)
        rows.append((at, 0))
        at += chance.between(0.05, 0.5)
    return lines(rows, at)


def blockage_5g(chance):
    """5G that bodies and walls block
    seed 4; about 60 s; 225 Mbit/s (Ookla: 5G, median of a carrier, March 2024) in the clear for 2 to 8 s, a tenth
    of it for 0.2 to 1 s while blocked (judgement)"""
    at, rows = 0.0, []
    while at < 60:
        rows.append((at, 225.0))
        at += chance.between(2, 8)
        rows.append((at, 22.5))
        at += chance.between(0.2, 1)
    return lines(rows, at)


def starlink_reconfig(chance):
    """Starlink, which assigns satellites anew every 15 s
    seed 5; 120 s; a stall of 100 ms every 15 s in which packets wait (WWW 2024; CoNEXT 2023), then a rate of
    105 Mbit/s (Ookla: median) times a factor of deviation 1.2 until the next (judgement)"""
    rows = []
    for slot in range(8):
        rows.append((slot * 15 + 0.0, 105 * 1.2 ** chance.normal()))
        rows.append((slot * 15 + 14.9, 0))
    return lines(rows, 120)


TRACES = {
    "wifi-walk.csv": (1, wifi_walk),
    "lte-driving.csv": (2, lte_driving),
    "lte-handover.csv": (3, lte_handover),
    "5g-blockage.csv": (4, blockage_5g),
    "starlink-reconfig.csv": (5, starlink_reconfig),
}


def main():
    wrong = []
    for name, (seed, make) in TRACES.items():
        about = [f"# {line.strip()}" for line in make.__doc__.splitlines()]
        text = "\n".join(about + ["# made by netem/traces/make.py"] + make(Chance(seed))) + "\n"
        path = FOLDER / name
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            wrong.append(name)
    if wrong:
        sys.exit(f"not what make.py makes: {', '.join(wrong)}; run netem/traces/make.py")


main()
