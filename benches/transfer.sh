#!/usr/bin/env bash
# Times the main job, 160 segments of 500 KB on average from two servers at once, in network
# namespaces: over tbf at 20 and 80 Mbit/s and unshaped, ours beside aria2c, curl and a plain Python
# pair, in interleaved rounds, so that what else the machine does falls on all alike. Every time is
# taken in the same way, from starting the process to its end; ours is also given by its own clock.
# Prints a table of medians and keeps every single time under target/bench/. Needs root.
#
#   benches/transfer.sh [--rounds N]      5 rounds unless given
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
PYTHON_PORT=4456

# --- inside the client's namespace ---

# Runs a command and adds its time to the table: "times" gets SETTING, NAME, ROUND, wall seconds, and
# for ours the log's elapsed_ms, bound_ms and efficiency.
timed() { # SETTING NAME ROUND COMMAND...
    local setting=$1 name=$2 round=$3 began ended own=,,
    shift 3
    rm -rf "$BENCH/log.jsonl" "${BENCH:?}/files/"*
    began=$EPOCHREALTIME
    "$@" >"$BENCH/output" 2>&1 </dev/null || die "$name failed: $(tail -n 3 "$BENCH/output")"
    ended=$EPOCHREALTIME
    local files
    files=$(find "$BENCH/files" -name 's*.m4s' | wc -l)
    [ "$files" -eq 160 ] || die "$name left $files files, not 160"
    (cd "$BENCH/files" && sha256sum --check --quiet "$DATA/SHA256SUMS") || die "$name left a wrong file"
    if [ -f "$BENCH/log.jsonl" ]; then
        own=$(jq -r 'select(.event == "run_end") | .data | [.elapsed_ms, .bound_ms, .efficiency] | @csv' "$BENCH/log.jsonl")
    fi
    awk -v OFS=, -v row="$setting,$name,$round" -v took=$((${ended/./} - ${began/./})) -v own="$own" \
        'BEGIN { print row, sprintf("%.3f", took / 1e6), own }' >>"$BENCH/times.csv"
}

ours() { # SETTING NAME ROUND OPTIONS...
    local setting=$1 name=$2 round=$3
    shift 3
    timed "$setting" "$name" "$round" "$TWINLINK_BIN" client "$@" --out "$BENCH/files" --log "$BENCH/log.jsonl" server-a server-b
}

aria2() { # SETTING ROUND
    timed "$1" "aria2c -j2 -s2 -x1" "$2" aria2c --no-conf --quiet --file-allocation=none \
        -j2 -s2 -x1 --input-file="$BENCH/aria2.txt" --dir="$BENCH/files"
}

shaped_round() { # ROUND
    ours shaped "twinlink adaptive" "$1"
    ours shaped "twinlink greedy" "$1" --schedule greedy
    ours shaped "twinlink ratio=1:4" "$1" --schedule ratio=1:4
    aria2 shaped "$1"
}

unshaped_round() { # ROUND
    ours unshaped "twinlink adaptive" "$1"
    ours unshaped "twinlink greedy" "$1" --schedule greedy
    ours unshaped "twinlink greedy --no-verify" "$1" --schedule greedy --no-verify
    aria2 unshaped "$1"
    timed unshaped "curl -Z" "$1" curl -sS -Z --config "$BENCH/curl.txt"
    timed unshaped "Python sockets 1:1" "$1" python3 "$BENCHES/ratio_client.py" 1:1 "$BENCH/files" \
        "$BENCH/names" "server-a:$PYTHON_PORT" "server-b:$PYTHON_PORT"
}

write_lists() {
    sed 's/^[0-9a-f]*  //' "$DATA/SHA256SUMS" >"$BENCH/names"
    sed 's#.*#http://server-a:4455/&\thttp://server-b:4455/&#' "$BENCH/names" >"$BENCH/aria2.txt"
    awk -v out="$BENCH/files" '{ server = NR % 2 ? "server-a" : "server-b"
        printf "url = http://%s:4455/%s\noutput = %s/%s\n", server, $0, out, $0 }' "$BENCH/names" >"$BENCH/curl.txt"
}

start_python_servers() {
    local namespace
    for namespace in "$TWINLINK_NS_A" "$TWINLINK_NS_B"; do
        # The lab ends with its namespaces, and with them whatever runs there.
        ip netns exec "$namespace" python3 "$BENCHES/ratio_server.py" "$PYTHON_PORT" "$DATA" >>"$BENCH/servers" 2>&1 &
    done
    for server in server-a server-b; do
        until (exec 3<>"/dev/tcp/$server/$PYTHON_PORT") 2>/dev/null; do sleep 0.05; done
    done
}

# The highest resident size of a run of ours, as the kernel keeps it, read until the process is gone.
peak_memory() { # SETTING
    local client line kilobytes=0
    rm -rf "${BENCH:?}/files/"*
    "$TWINLINK_BIN" client --out "$BENCH/files" server-a server-b >"$BENCH/output" 2>&1 &
    client=$!
    while line=$(grep VmHWM "/proc/$client/status" 2>/dev/null); do
        kilobytes=$(tr -dc 0-9 <<<"$line")
        sleep 0.01
    done
    wait "$client"
    echo "$1,$kilobytes" >>"$BENCH/memory.csv"
}

everything() { # ROUNDS
    local round
    # What is fetched goes to memory: aria2c flushes each file to the disk and the others do not, and
    # the disk is not what is compared. A lab's command has a mount namespace of its own.
    mkdir "$BENCH/files"
    mount -t tmpfs -o size=200m none "$BENCH/files"
    write_lists
    start_python_servers
    # Left out of the table: it brings the files and the programs into the page cache.
    unshaped_round 0
    sed -i d "$BENCH/times.csv"
    for ((round = 1; round <= $1; round++)); do unshaped_round "$round"; done
    peak_memory unshaped
    "$TWINLINK_BIN" link hold --link-a rate-20 --link-b rate-80 -- sleep infinity 2>"$BENCH/output" &
    local owner=$!
    until [ -S "${TWINLINK_CONTROL:-/run/twinlink/control.sock}" ]; do sleep 0.1; done
    for ((round = 1; round <= $1; round++)); do shaped_round "$round"; done
    peak_memory shaped
    kill "$owner"
    wait "$owner" || true
    cat /proc/sys/net/ipv4/tcp_congestion_control >"$BENCH/congestion"
}

if [ "${1:-}" = inside ]; then
    everything "$2"
    exit
fi

# --- outside ---

rounds_of "$@"
start_bench aria2c curl jq python3
DATA=$BENCH/data
export DATA
"$TWINLINK_BIN" segments "$DATA" >"$BENCH/output"
chmod 755 "$DATA"
"$ROOT/netem/lab.sh" --data "$DATA" --exec bash "$SELF" inside "$rounds"
python3 "$BENCHES/table.py" "$BENCH" "$rounds"
cd "$BENCH"
rm -rf data files log.jsonl output servers names aria2.txt curl.txt
