#!/usr/bin/env python3
"""Writes logs as the lab would, for tests of the report: a run, or an experiment's folder.

    report-logs.py run DIR [--segments 160]
    report-logs.py sweep DIR [--segments 160] [--repetitions 5] [--long-names]

The links are ideal: each file takes its bits over the rate, plus seeded noise. On the shared channel
only one link sends at a time. Nothing is measured: these logs test the reader, not the lab.
"""
import argparse
import json
import pathlib
import random

MEAN_BYTES = 500_000
CONDITIONS = {"near": (60_000, 30_000), "mid": (60_000, 12_000), "far": (60_000, 4_000)}  # kbit/s, a and b
SCHEDULES = ["ratio=0:1", "ratio=1:5", "ratio=1:2", "ratio=1:1", "ratio=2:1", "ratio=5:1", "ratio=1:0", "adaptive"]
LONG_CONDITION = ", with the second station behind two walls of concrete"
PROGRAM = "a-downloader-of-my-own-that-splits-files-into-many-pieces"


class Log:
    def __init__(self, path, run):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file, self.run = path.open("x"), run

    def write(self, at_ms, event, **data):
        record = {"schema": "twinlink/1", "event": event, "t_ns": int(at_ms * 1e6), "run": self.run, "data": data}
        self.file.write(json.dumps(record, separators=(",", ":")) + "\n")


def shape(rate_kbit):
    return {"rate_kbit": rate_kbit, "delay_ms": 10.0, "jitter_ms": 1.0, "distribution": "normal", "loss_pct": 0.01,
            "loss_model": "random", "queue_ms": 100.0, "queue_kind": "droptail", "reorder_pct": 0.0, "duplicate_pct": 0.0, "corrupt_pct": 0.0}


def choose_links(schedule, rates, count):
    if schedule == PROGRAM:
        return ["b"] * count
    if schedule.startswith("ratio="):
        a, b = map(int, schedule[6:].split(":"))
        return ["a" if i % (a + b) < a else "b" for i in range(count)]
    done, links = [0.0, 0.0], []
    for _ in range(count):
        link = min((0, 1), key=lambda i: done[i] + 1 / rates[i])
        done[link] += 1 / rates[link]
        links.append("ab"[link])
    return links


def one_run(path, name, rates, schedule, count, chance, shared=False, cell=None):
    """One log; returns the time that the run took (ms)."""
    log, first = Log(path, name), 100.0
    server = {"address": "10.0.0.1:4455", "software": "twinlink", "http_version": "1.1", "digests": True, "rtt_ms": 20.4}
    log.write(0, "run_start", version="0.1.0", command_line=["twinlink", "client"], kernel="6.18.0", doctor={}, seed=1,
              schedule=schedule, pipeline="auto", congestion_control="reno", verify=True, sync=False, files=count,
              servers={"a": {"name": "server-a", **server}, "b": {"name": "server-b", **server}},
              wall_clock="2026-01-01T00:00:00.000Z", segment_duration_ms=4000.0, startup_segments=2, cell=cell,
              commit="0123456789ab")
    profiles = {"a": "wifi-near", "b": "lte-medium"}
    for link, rate in zip("ab", rates):
        for direction in ("down", "up"):
            log.write(1, "link", link=link, direction=direction, backend="netem", why="netem can do all of it",
                      profile=profiles[link], asked=shape(rate), kernel={}, action="set")
        log.write(50, "probe", link=link, direction="down", rtt_ms=20.3, rtt_expected_ms=20.0, rate_kbit=rate * 0.99,
                  rate_expected_kbit=rate, goodput_kbit=rate * 0.95, loss_pct=0.013, loss_expected_pct=0.01, ok=True,
                  verdict="as asked", took_ms=1200.0)
    free = {"a": first, "b": first}
    totals = {"a": [0, 0, 0.0], "b": [0, 0, 0.0]}
    records = []
    for index, link in enumerate(choose_links(schedule, rates, count)):
        size = int(MEAN_BYTES * chance.uniform(0.8, 1.2))
        begin = max(free.values()) if shared else free[link]
        end = begin + size * 8 / (rates["ab".index(link)] * 0.95) * chance.gauss(1, 0.02)
        free[link] = end
        part = {"requested_ms": max(first, begin - 20), "first_byte_ms": begin + 0.1, "done_ms": end}
        records.append((end, "segment", dict(name=f"s{index + 1:03}.m4s", index=index, link=link, bytes=size,
                        parts=[{"link": link, "from_byte": 0, "to_byte": size, **part}],
                        goodput_kbit=size * 8 / (end - begin), digest_ok=True, **part)))
        totals[link][0] += size
        totals[link][1] += 1
        totals[link][2] = end - first
    last = max(free.values())
    step = max(100.0, (last - first) / 5000)
    at, drops = first, 0
    while at < last:
        at += step
        for link, rate in zip("ab", rates):
            busy = at < totals[link][2] + first
            drops += busy and chance.random() < 0.05
            down = {"rate_kbit": rate, "packets": 1, "bytes": 1, "queue_packets": 10 * busy, "queue_bytes": 15140 * busy,
                    "queue_ms": chance.uniform(20, 90) * busy, "dropped_queue": int(drops), "dropped_loss": None,
                    "lateness_ms": None}
            air = [{"station": "server-" + link, "busy_pct": 95.0 * busy}] if shared else None
            records.append((at, "sample", dict(link=link, bytes=0, goodput_kbit=rate * 0.95 * chance.uniform(0.9, 1) * busy,
                            requests_in_flight=int(busy), tcp=None, down=down, up=None, air=air)))
    for at, event, data in sorted(records, key=lambda record: record[0]):
        log.write(at, event, **data)
    size = totals["a"][0] + totals["b"][0]
    elapsed = last - first
    bound = size * 8 / ((max(rates) if shared else sum(rates)) * 0.956)
    links = {link: dict(bytes=n, files=files, goodput_kbit=n * 8 / ms if ms else None, last_byte_ms=ms or None,
                        connections=1) for link, (n, files, ms) in totals.items()}
    qoe = dict(startup_delay_ms=200.0, rebuffer_count=0, rebuffer_ms=0.0, rebuffer_ratio=0.0, stall_per_media=0.0,
               segment_duration_ms=4000.0, startup_segments=2)
    log.write(last + 1, "run_end", exit="ok", summary=f"{schedule} fetched {count} files in {elapsed / 1e3:.3f} s.",
              elapsed_ms=elapsed, first_request_ms=first, files=count, bytes=size, bound_ms=bound, bound_tcp_ms=bound,
              efficiency=bound / elapsed, predicted_ms=elapsed * 1.01, wasted_bytes=0,
              dropped_records=0, sync_ms=None, links=links, qoe=qoe, program=dict(
                  command=["downloader"], exit_code=0, signal=None, took_ms=elapsed, cpu_user_ms=1.0, cpu_system_ms=1.0,
                  peak_memory_bytes=1, requests=count) if schedule == PROGRAM else None)
    return dict(elapsed_ms=elapsed, bound_ms=bound, efficiency=bound / elapsed, predicted_ms=elapsed * 1.01)


def sweep(root, count, repetitions, long_names):
    chance = random.Random(1)
    schedules = SCHEDULES + [PROGRAM] * long_names
    cells = [(block, condition, channel, schedule) for block in range(repetitions) for condition in CONDITIONS
             for channel in ("independent", "shared") for schedule in schedules]
    log = Log(root / "sweep.jsonl", "20260101T000000Z-0000")
    (root / "experiment.toml").write_text('name = "made-up"\n')
    log.write(0, "sweep_start", version="0.1.0", experiment="made-up", file="experiments/made-up.toml",
              description="Logs made up for tests of the report", command_line=["twinlink", "sweep"], kernel="6.18.0",
              seed=1, cells=len(cells), repetitions=repetitions, skipped=0, wall_clock="2026-01-01T00:00:00.000Z")
    for index, (block, condition, channel, schedule) in enumerate(cells):
        rates, shared = CONDITIONS[condition], channel == "shared"
        condition += LONG_CONDITION * long_names
        if schedule == SCHEDULES[0]:
            alone = {link: rate * 0.95 * chance.gauss(1, 0.005) for link, rate in zip("ab", rates)}
            air = sum(1 / rate for rate in alone.values())
            together = {link: 1 / air if shared else rate for link, rate in alone.items()}
            log.write(index, "throughput", experiment="made-up", condition=condition, channel=channel, block=block,
                      alone_kbit=alone, together_kbit=together)
        cell = dict(experiment="made-up", index=index, block=block, condition=condition, channel=channel,
                    schedule=schedule, pipeline="auto", congestion=None)
        name = f"20260101T{index:06}Z-0000"
        ended = one_run(root / "runs" / name / "log.jsonl", name, rates, schedule, count, chance, shared, cell)
        log.write(index + 1, "cell_end", cell=cell, run=name, exit="ok", summary="done", setup_ms=300.0, **ended)
    log.write(len(cells), "sweep_end", exit="ok", summary="done", cells=len(cells), failed=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "sweep"])
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--segments", type=int, default=160)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--long-names", action="store_true")
    args = parser.parse_args()
    if args.what == "sweep":
        sweep(args.dir, args.segments, args.repetitions, args.long_names)
    else:
        one_run(args.dir / "log.jsonl", "20260101T000000Z-0000", CONDITIONS["near"], "adaptive", args.segments,
                random.Random(1))


if __name__ == "__main__":
    main()
