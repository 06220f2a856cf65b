#!/usr/bin/env bash
# How fast two servers and a client are on links that nothing shapes, in network namespaces on one
# machine, so that the processors are the bottleneck: ours, with and without digests, beside iperf3
# between the same namespaces, and beside aria2c, curl -Z and nginx in every pairing with each other
# and with ours. All in one run, in interleaved rounds. Files go to memory. Then 16 000 small segments:
# time, and memory of client and server, beside those of a tenth of them. Needs root.
#
#   benches/raw.sh [--rounds N]      5 rounds unless given; prints a table, keeps all under target/bench/
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
OURS=4455 SMALL=4456 NGINX=4457

# --- inside the client's namespace ---

# Runs a client and adds a line to times.csv: NAME, SERVERS, ROUND, wall seconds, elapsed_ms by its own
# log. What it left behind is counted, and looked into by the round that warms up.
timed() { # NAME SERVERS ROUND COMMAND...
    local name=$1 servers=$2 round=$3 began ended own='' found
    shift 3
    rm -rf "$BENCH/log.jsonl" "$MEMORY/files"
    mkdir "$MEMORY/files"
    began=$EPOCHREALTIME
    "$@" >"$BENCH/output" 2>&1 </dev/null || die "$name from $servers failed: $(tail -n 3 "$BENCH/output")"
    ended=$EPOCHREALTIME
    found=$(find "$MEMORY/files" -name 's*.m4s' -printf '%s\n' | awk '{ n++; bytes += $1 } END { print n, bytes }')
    [ "$found" = "$EXPECTED" ] || die "$name from $servers left files and bytes of $found, not $EXPECTED"
    if [ "$round" -eq 0 ]; then
        (cd "$MEMORY/files" && sha256sum --check --quiet "$DATA/SHA256SUMS") || die "$name left a wrong file"
    fi
    if [ -f "$BENCH/log.jsonl" ]; then
        own=$(jq -r 'select(.event == "run_end") | .data.elapsed_ms' "$BENCH/log.jsonl")
    fi
    rm -rf "$MEMORY/files"
    awk -v OFS=, -v row="$name,$servers,$round" -v took=$((${ended/./} - ${began/./})) -v own="$own" \
        'BEGIN { print row, sprintf("%.4f", took / 1e6), own }' >>"$BENCH/times.csv"
}

ours() { # NAME SERVERS PORT ROUND OPTIONS...
    local name=$1 servers=$2 port=$3 round=$4
    shift 4
    timed "$name" "$servers" "$round" "$TWINLINK_BIN" client "$@" --files "$PATTERN" \
        --out "$MEMORY/files" --log "$BENCH/log.jsonl" "server-a:$port" "server-b:$port"
}

# Both take one file at a time from each server, which was their fastest setting here.
others() { # SERVERS PORT ROUND
    timed "curl -Z" "$1" "$3" curl -sS -Z --parallel-max 2 --config "$BENCH/curl-$2"
    timed "aria2c" "$1" "$3" aria2c --no-conf --quiet --file-allocation=none -j2 -s1 -x1 \
        --input-file="$BENCH/aria2-$2" --dir="$MEMORY/files"
}

# What one TCP connection carries from a server to the client, and two, one from each.
iperf() { # ROUND
    local one two
    one=$(iperf3 --json -R -t 2 -c server-a | jq .end.sum_received.bits_per_second)
    iperf3 --json -R -t 2 -c server-b >"$BENCH/other.json" &
    two=$(iperf3 --json -R -t 2 -c server-a | jq .end.sum_received.bits_per_second)
    wait $!
    awk -v OFS=, -v round="$1" -v one="$one" -v a="$two" \
        -v b="$(jq .end.sum_received.bits_per_second "$BENCH/other.json")" \
        'BEGIN { print round, one / 1e9, (a + b) / 1e9 }' >>"$BENCH/iperf.csv"
}

one_round() { # ROUND
    iperf "$1"
    ours "twinlink --no-verify" twinlink $OURS "$1" --no-verify
    ours twinlink twinlink $OURS "$1"
    ours "twinlink --no-verify" nginx $NGINX "$1" --no-verify
    others nginx $NGINX "$1"
    others twinlink $OURS "$1"
}

write_lists() { # PORT
    awk -v out="$MEMORY/files" -v port="$1" '{ server = NR % 2 ? "server-a" : "server-b"
        printf "url = http://%s:%s/%s\noutput = %s/%s\n", server, port, $2, out, $2 }' \
        "$DATA/SHA256SUMS" >"$BENCH/curl-$1"
    awk -v port="$1" '{ server = NR % 2 ? "server-a" : "server-b"
        printf "http://%s:%s/%s\n", server, port, $2 }' "$DATA/SHA256SUMS" >"$BENCH/aria2-$1"
}

# The lab ends with its namespaces, and with them whatever runs there.
start_servers() {
    local letter namespace port
    for letter in a b; do
        namespace=TWINLINK_NS_${letter^^}
        namespace=${!namespace}
        sed "s#NAME#$BENCH/nginx-$letter#; s#DATA#$DATA#; s#PORT#$NGINX#" <<'CONF' >"$BENCH/nginx-$letter.conf"
daemon off;
worker_processes 1;
error_log stderr;
pid NAME.pid;
events {}
http {
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
    server {
        listen PORT;
        root DATA;
    }
}
CONF
        ip netns exec "$namespace" nginx -e stderr -c "$BENCH/nginx-$letter.conf" >>"$BENCH/servers" 2>&1 &
        ip netns exec "$namespace" iperf3 --server >>"$BENCH/servers" 2>&1 &
        ip netns exec "$namespace" "$TWINLINK_BIN" server --data "$DATA" --listen "0.0.0.0:$OURS" >/dev/null 2>>"$BENCH/servers" &
        echo "$!" >"$BENCH/ours-$letter.pid"
        ip netns exec "$namespace" "$TWINLINK_BIN" server --data "$MEMORY/small" --listen "0.0.0.0:$SMALL" >/dev/null 2>>"$BENCH/servers" &
        echo "$!" >"$BENCH/small-$letter.pid"
        for port in $OURS $SMALL $NGINX 5201; do
            until (exec 3<>"/dev/tcp/server-$letter/$port") 2>/dev/null; do sleep 0.05; done
        done
    done
}

kilobytes() { tr -dc 0-9 <<<"$(grep VmHWM "/proc/$1/status" 2>/dev/null)"; }

# Time, and the highest resident sizes as the kernel keeps them, read until the client is gone.
small_run() { # FILES
    local client read peak=0
    rm -rf "$BENCH/log.jsonl" "$MEMORY/files"
    "$TWINLINK_BIN" client --files "s{00001..$(printf %05d "$1")}.m4s" --out "$MEMORY/files" \
        --log "$BENCH/log.jsonl" "server-a:$SMALL" "server-b:$SMALL" >"$BENCH/output" 2>&1 &
    client=$!
    while read=$(kilobytes "$client") && [ -n "$read" ]; do
        peak=$read
        sleep 0.01
    done
    wait "$client" || die "the run of $1 small files failed: $(tail -n 3 "$BENCH/output")"
    echo "$1,$(jq -r 'select(.event == "run_end") | .data.elapsed_ms' "$BENCH/log.jsonl"),$peak,$(kilobytes "$(cat "$BENCH/small-a.pid")")" \
        >>"$BENCH/small.csv"
}

everything() { # ROUNDS
    local round
    EXPECTED=$(cd "$DATA" && stat -c %s s*.m4s | awk '{ n++; bytes += $1 } END { print n, bytes }')
    write_lists $OURS
    write_lists $NGINX
    start_servers
    # Left out of the table: it brings the programs into the page cache, and what it fetched is checked.
    one_round 0
    rm "$BENCH/times.csv" "$BENCH/iperf.csv"
    for ((round = 1; round <= $1; round++)); do one_round "$round"; done
    kilobytes "$(cat "$BENCH/ours-a.pid")" >"$BENCH/server_kilobytes"
    for round in 1 2 3; do
        small_run 1600
        small_run 16000
    done
}

if [ "${1:-}" = inside ]; then
    everything "$2"
    exit
fi

# --- outside ---

rounds_of "$@"
start_bench aria2c curl iperf3 jq nginx python3
# Both what is served and what is fetched lie in memory.
MEMORY=$(mktemp -d /dev/shm/twinlink-raw.XXXXXX)
trap 'rm -rf "$MEMORY"' EXIT
chmod 755 "$MEMORY"
DATA=$MEMORY/data
PATTERN='s{001..160}.m4s'
export DATA MEMORY PATTERN
"$TWINLINK_BIN" segments "$DATA" --mean-size 6MB >"$BENCH/output"
"$TWINLINK_BIN" segments "$MEMORY/small" --count 16000 --mean-size 5KB >"$BENCH/output"
chmod 755 "$DATA" "$MEMORY/small"
"$ROOT/netem/lab.sh" --servers none --exec bash "$SELF" inside "$rounds"
cat /proc/sys/net/ipv4/tcp_congestion_control >"$BENCH/congestion"
python3 "$BENCHES/raw.py" "$BENCH" "$(du -sb --exclude=SHA256SUMS "$DATA" | cut -f1)"
