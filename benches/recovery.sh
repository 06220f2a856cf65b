#!/usr/bin/env bash
# How much time a fault costs beyond what it has to: 40 files of 500 KB over links of 10 (a) and 30 Mbit/s (b),
# 5 ms each way, on the userspace backend, in a lab. One second after the first sample something fails:
#
#   b killed, back after 1 s           server b is killed, and started again after 1 s
#   both killed, started at once       both servers are killed and started again
#   blackhole b 3 s                    packets from server b are dropped for 3 s
#   blackhole both 5 s                 packets from both servers are dropped for 5 s
#   blackhole both 8.5 s               the same, with a --give-up of 10 s: the run has to survive it
#   client stopped 12 s                SIGSTOP to the client, which carries the shaper too
#
# The value is elapsed minus ideal, s. The ideal is the elapsed time of the same schedule in the same round
# without a fault, plus the time that the missing capacity costs. An outage is measured, from what breaks it
# until what mends it: until the server listens again, the drop is gone, the client goes on. An outage d of
# both links costs d. One of b costs d × 30 / 40 where a schedule moves work to the other link; with
# ratio=1:1, whose files stay where they are, what is left when b's last byte, d later, comes after a's.
# Prints medians of the rounds with the bar of each row, and what is above its bar in bold; keeps every run
# under target/bench/. Exits 1 where a run did not end well. Needs root.
#
#   benches/recovery.sh [--rounds N]      5 rounds unless given
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

SCHEDULES=(ratio=1:1 greedy adaptive inorder)
FAULTS=(none killed-b killed-both blackhole-b blackhole-both blackhole-long stopped)
declare -A server=([a]=10.45.0.2 [b]=10.45.0.3) pid=()

serve() { # LINK...
    local link namespace
    for link in "$@"; do
        namespace=TWINLINK_NS_${link^^}
        ip netns exec "${!namespace}" "$TWINLINK_BIN" server --data "$BENCH/data" --listen 0.0.0.0:4455 \
            >/dev/null 2>>"$BENCH/servers" &
        pid[$link]=$!
    done
}
await_servers() { # LINK...
    local link
    for link in "$@"; do
        until (exec 3<>"/dev/tcp/${server[$link]}/4455") 2>/dev/null; do sleep 0.01; done
    done
}
crash() { # LINK...
    local link
    for link in "$@"; do
        kill -KILL "${pid[$link]}"
        wait "${pid[$link]}" 2>/dev/null || true
    done
}
blackhole() { # -I|-D LINK...: what comes from these servers is dropped, or is not any more
    local change=$1 link
    for link in "${@:2}"; do iptables -w "$change" INPUT -s "${server[$link]}" -j DROP; done
}

# Does what fails, and mends it.
fault() { # NAME CLIENT
    case $1 in
    killed-b) crash b && sleep 1 && serve b && await_servers b ;;
    killed-both) crash a b && serve a b && await_servers a b ;;
    blackhole-b) blackhole -I b && sleep 3 && blackhole -D b ;;
    blackhole-both) blackhole -I a b && sleep 5 && blackhole -D a b ;;
    blackhole-long) blackhole -I a b && sleep 8.5 && blackhole -D a b ;;
    stopped) kill -STOP "$2" && sleep 12 && kill -CONT "$2" ;;
    esac
}

one() { # ROUND FAULT SCHEDULE
    local log=$BENCH/$1-$2-${3/:/-}.jsonl client broke=0 mended=0 row
    "$TWINLINK_BIN" client --schedule "$3" --link-a "$BENCH/a.toml" --link-b "$BENCH/b.toml" --backend userspace \
        --give-up 10s --log "$log" "${server[a]}" "${server[b]}" >/dev/null 2>"${log%.jsonl}.words" </dev/null &
    client=$!
    if [ "$2" != none ]; then
        until grep -q '"event":"sample"' "$log" 2>/dev/null; do
            kill -0 "$client" || die "a run ended before its fault: $(cat "${log%.jsonl}.words")"
            sleep 0.02
        done
        sleep 1
        broke=$EPOCHREALTIME
        fault "$2" "$client"
        mended=$EPOCHREALTIME
    fi
    wait "$client" || true
    row=$(jq -r 'select(.event == "run_end") | .data | [.exit, .elapsed_ms, .links.a.last_byte_ms, .links.b.last_byte_ms] | map(tostring) | join(",")' "$log")
    echo "$1,$2,$3,$(awk -v a="$broke" -v b="$mended" 'BEGIN { print b - a }'),${row:-no_end,,,}" >>"$BENCH/rows.csv"
}

if [ "${1:-}" = inside ]; then
    trap 'kill "${pid[@]}" 2>/dev/null || true' EXIT
    serve a b
    await_servers a b
    for ((round = 1; round <= $2; round++)); do
        for fault in "${FAULTS[@]}"; do
            for schedule in "${SCHEDULES[@]}"; do one "$round" "$fault" "$schedule"; done
        done
    done
    exit
fi

rounds_of "$@"
start_bench iptables jq python3
for link in a:10 b:30; do
    rate=${link#*:}
    way="rate = \"${rate}mbit\"
delay = \"5ms\"
queue = \"100ms\""
    printf 'description = "%s Mbit/s, 5 ms each way"\n[down]\n%s\n[up]\n%s\n' "$rate" "$way" "$way" >"$BENCH/${link%:*}.toml"
done
"$TWINLINK_BIN" segments "$BENCH/data" --count 40 --mean-size 500KB >/dev/null
chmod 755 "$BENCH/data"
"$ROOT/netem/lab.sh" --servers none --exec bash "$SELF" inside "$rounds" 2>"$BENCH/words" || die "$(tail -n 3 "$BENCH/words")"
python3 - "$BENCH/rows.csv" <<'PY'
import csv, statistics, sys

BARS = {
    "killed-b": ("b killed, back after 1 s", 0.3),
    "killed-both": ("both killed, started at once", 1.5),
    "blackhole-b": ("blackhole b 3 s", 0.4),
    "blackhole-both": ("blackhole both 5 s", 0.7),
    "blackhole-long": ("blackhole both 8.5 s of 10 s", None),
    "stopped": ("client stopped 12 s", 0.3),
}
runs = {}
for round, fault, schedule, outage, exit, elapsed, last_a, last_b in csv.reader(open(sys.argv[1])):
    found = [float(ms) / 1e3 if ms not in ("", "null") else None for ms in (elapsed, last_a, last_b)]
    runs[fault, schedule, round] = (float(outage), exit, *found)
rounds = sorted({key[2] for key in runs})
schedules = list(dict.fromkeys(key[1] for key in runs))


def ideal(fault, schedule, round):
    outage = runs[fault, schedule, round][0]
    _, _, elapsed, last_a, last_b = runs["none", schedule, round]
    if fault not in ("killed-b", "blackhole-b"):
        return elapsed + outage
    if schedule.startswith("ratio"):
        return elapsed + max(0, last_b + outage - max(last_a, last_b))
    return elapsed + outage * 30 / 40


print("| fault | bar, s | " + " | ".join(schedules) + " |")
print("|---|---|" + "---|" * len(schedules))
plain = [statistics.median(runs["none", schedule, round][2] or float("nan") for round in rounds) for schedule in schedules]
print("| none: elapsed, s | – | " + " | ".join(f"{value:.2f}" for value in plain) + " |")
bad = 0
for fault, (name, bar) in BARS.items():
    cells = []
    for schedule in schedules:
        exits = [runs[fault, schedule, round][1] for round in rounds]
        failed = [exit for exit in exits if exit != "ok"]
        bad += len(failed)
        if failed:
            cells.append(f"**{len(failed)} of {len(rounds)}: {failed[0]}**")
            continue
        late = statistics.median(
            runs[fault, schedule, round][2] - ideal(fault, schedule, round) for round in rounds
        )
        cells.append(f"**{late:.2f}**" if bar is not None and late > bar else f"{late:.2f}")
    print(f"| {name} | {'survived' if bar is None else bar} | " + " | ".join(cells) + " |")
sys.exit(1 if bad else 0)
PY
