#!/usr/bin/env bash
# A run's samples against tcpdump on the ifb of each link's down direction: between any two samples a second
# apart the log has the bytes that the capture saw, and at the end as many in all.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../link-lib.sh"

"$TWINLINK_BIN" segments "$WORK/data" --count 120 --mean-size 500KB --seed 1 >/dev/null
start_servers "$WORK/data"

# The servers stand still until the captures have begun, so that nothing is missed.
kill -STOP "${server_pid[@]}"
"$TWINLINK_BIN" client --link-a rate-20 --link-b rate-80 --give-up 60s --log "$WORK/log.jsonl" "${server[a]}" "${server[b]}" >"$WORK/out" &
client=$!
eventually 30 bash -c 'tc filter show dev eth0 egress | grep -q twl-b-up'
captures=()
for each in a b; do
    # Heads alone are kept; each record says how long its frame was.
    tcpdump -i "twl-$each-down" -Q out -s 64 -B 8192 --immediate-mode -U -w "$WORK/$each.pcap" 2>"$WORK/$each.words" &
    captures+=($!)
    eventually 20 grep -q 'listening on' "$WORK/$each.words"
done
kill -CONT "${server_pid[@]}"
wait "$client"
# The devices, and with them the captures, end with the run.
wait "${captures[@]}" || true
grep -H 'dropped by kernel' "$WORK"/*.words

"$PYTHON" - "$WORK" <<'END_OF_PROGRAM'
import bisect, datetime, json, struct, sys

work = sys.argv[1]
records = [json.loads(line) for line in open(f"{work}/log.jsonl")]
began = datetime.datetime.fromisoformat(
    next(r for r in records if r["event"] == "run_start")["data"]["wall_clock"].replace("Z", "+00:00")).timestamp()
worst = 0
for link in "ab":
    times, sums, total = [], [], 0
    with open(f"{work}/{link}.pcap", "rb") as file:
        assert struct.unpack("=I", file.read(24)[:4])[0] == 0xA1B2C3D4, "not a capture in microseconds"
        while len(head := file.read(16)) == 16:
            second, micro, kept, length = struct.unpack("=IIII", head)
            file.read(kept)
            total += length
            times.append(second + micro / 1e6)
            sums.append(total)
    seen = lambda at: sums[i - 1] if (i := bisect.bisect(times, at)) else 0
    samples = [(began + r["t_ns"] / 1e9, r["data"]["down"]["bytes"])
               for r in records if r["event"] == "sample" and r["data"]["link"] == link]
    assert len(samples) > 40, f"only {len(samples)} samples of link {link}"
    compared = 0
    for (at, before), (later, after) in zip(samples, samples[10:]):
        captured, logged = seen(later) - seen(at), after - before
        # A sample is read a little before it is stamped: 10 ms of a second, and two frames.
        allowed = 0.01 * captured + 2 * 1514
        worst = max(worst, abs(captured - logged) / max(captured, 1))
        assert abs(captured - logged) <= allowed, \
            f"link {link}, {at - began:.3f} s: {logged} bytes in the samples, {captured} in the capture"
        compared += 1
    first, last = samples[0], samples[-1]
    captured, logged = seen(last[0]) - seen(first[0]), last[1] - first[1]
    assert abs(captured - logged) <= 0.002 * captured + 2 * 1514, f"link {link}: {logged} of {captured} bytes in all"
    print(f"link {link}: {len(times)} frames captured; {compared} spans of a second agree; {logged} and {captured} bytes in all")
print(f"worst second: {worst:.2%} apart")
END_OF_PROGRAM
