#!/usr/bin/env bash
# The main job in network namespaces: one client fetches 160 segments from two servers at once over
# rate-20 and rate-80. Shows that every file arrives whole, that the log explains the run and agrees
# with the kernel's own counters, that nothing stays shaped however a run ends, that a link can be
# changed in the middle of a run, and that what stands in a run's way is named.
# Runs alone: it measures the time of runs.
. "$(dirname "$0")/../lib.sh"
needs_root
needs_binary

SELF=$(realpath "$0")
SHAPED=(--link-a rate-20 --link-b rate-80)
SERVERS=(server-a server-b)

# Runs one of this script's functions in the client's namespace of a new lab. KEEP outlives the
# lab; what a function finds wrong ends the lab with an error, and this script with it.
in_lab() { # FUNCTION ARGS...
    echo "== $*"
    env KEEP="$WORK" "$ROOT/netem/lab.sh" "${LAB[@]}" --exec bash "$SELF" "$@"
}

# Everything that shaping leaves in a network namespace: devices, qdiscs and filters, without the
# counters and the handles that the kernel numbers by itself.
network_state() {
    ip -o link show | sed 's/^[0-9]*: //; s/[@:].*//' | sort
    tc qdisc show | sed 's/ refcnt [0-9]*//'
    tc filter show dev eth0 ingress 2>/dev/null || true
    tc filter show dev eth0 egress 2>/dev/null || true
}

unchanged() { # WHAT BEFORE
    local now
    now=$(network_state)
    [ "$now" = "$2" ] || fail "$1 left something behind: $(diff <(echo "$2") <(echo "$now") || true)"
    echo "$1: the network is as it was before, in $(wc -l <<<"$now") lines"
}

# Whether a run has put so many segments on disk.
segments_done() { # LOG COUNT
    [ -f "$1" ] && [ "$(grep -c '"event":"segment"' "$1")" -ge "$2" ]
}

sent_by() { # NAMESPACE: bytes that the server's interface has sent, as its kernel counts them
    ip -n "$1" -j -s link show dev eth0 | jq '.[0].stats64.tx.bytes'
}

# Runs a command that must fail, keeping what it prints in $KEEP/NAME.out and .err.
must_fail() { # NAME COMMAND...
    local name=$1 code=0
    shift
    timeout 60 "$@" >"$KEEP/$name.out" 2>"$KEEP/$name.err" || code=$?
    expect "$name: exit code" "$code" -eq 1
}

names() { # NAME WORDS: the error, which people read on stderr, holds WORDS
    grep -qF -- "$2" "$KEEP/$1.err" || fail "$1: the error does not say '$2': $(cat "$KEEP/$1.err")"
    echo "$1 names: $2"
}

# --- what runs in the client's namespace ---

whole_job() { # SCHEDULE
    local schedule=$1 log=$KEEP/$1.jsonl out=$KEEP/files before a_sent b_sent
    before=$(network_state)
    a_sent=$(sent_by "$TWINLINK_NS_A") b_sent=$(sent_by "$TWINLINK_NS_B")
    "$TWINLINK_BIN" client --schedule "$schedule" "${SHAPED[@]}" --out "$out" --log "$log" "${SERVERS[@]}" >"$KEEP/stdout"
    a_sent=$(($(sent_by "$TWINLINK_NS_A") - a_sent)) b_sent=$(($(sent_by "$TWINLINK_NS_B") - b_sent))
    unchanged "$schedule" "$before"
    (cd "$out" && sha256sum --check --quiet "$DATA/SHA256SUMS") || fail "$schedule: a file on disk has another digest"
    expect "$schedule: files in the folder" "$(find "$out" -type f | wc -l)" -eq 160
    rm -rf "$out"

    expect "$schedule: segment records" "$(records segment "$log" | wc -l)" -eq 160
    expect "$schedule: segments whose digest is right" "$(records segment "$log" | jq -s '[.[] | select(.digest_ok == true) | .name] | unique | length')" -eq 160
    expect "$schedule: the last record" "$(tail -n 1 "$log" | jq -r .event)" = run_end
    expect "$schedule: faults" "$(records fault "$log" | wc -l)" -eq 0
    local end
    end=$(records run_end "$log")
    jq -r '"\(.summary)"' <<<"$end"
    expect "$schedule: exit" "$(jq -r .exit <<<"$end")" = ok
    expect "$schedule: files in run_end" "$(jq .files <<<"$end")" -eq 160
    expect "$schedule: efficiency" "$(jq .efficiency <<<"$end")" -le 1.0
    # This only tells a run over shaped links from one that stalled; how fast it is, the benchmark says.
    expect "$schedule: efficiency" "$(jq .efficiency <<<"$end")" -gt 0.5
    expect "$schedule: stdout without samples" "$(jq -r .event "$KEEP/stdout" | grep -c '^sample$' || true)" -eq 0
    expect "$schedule: segment records on stdout" "$(records segment "$KEEP/stdout" | wc -l)" -eq 0
    check_order "$schedule" "$log"
    check_links "$schedule" "$log"
    check_bytes "$schedule" a "$a_sent" "$log"
    check_bytes "$schedule" b "$b_sent" "$log"
}

# With 1:4, a gets s001, b the next four, and so on; greedy has only to use both links.
check_order() { # SCHEDULE LOG
    local from_a
    from_a=$(records segment "$2" | jq -r 'select(.link == "a") | .name' | sort | xargs)
    case $1 in
    ratio=1:4) expect "$1: segments from a" "$from_a" = "$(printf 's%03d.m4s ' $(seq 1 5 160) | xargs)" ;;
    *)
        expect "$1: segments from a" "$(wc -w <<<"$from_a")" -gt 0
        expect "$1: segments from a" "$(wc -w <<<"$from_a")" -lt 160
        ;;
    esac
}

check_links() { # SCHEDULE LOG
    expect "$1: link records" "$(records link "$2" | jq -s -r '[.[] | "\(.link) \(.direction) \(.backend) \(.profile) \(.action)"] | sort | join(", ")')" \
        = "a down netem rate-20 set, a up netem rate-20 set, b down netem rate-80 set, b up netem rate-80 set"
    local link
    for link in a b; do
        records sample "$2" | jq -c --arg link "$link" 'select(.link == $link)' >"$KEEP/samples"
        # Ten a second over several seconds, were the machine ever so busy.
        expect "$1: samples of link $link" "$(wc -l <"$KEEP/samples")" -gt 10
        expect "$1: samples of $link with a round trip of TCP's" "$(jq -s '[.[] | select(.tcp.rtt_ms > 0)] | length' "$KEEP/samples")" -gt 10
        expect "$1: samples of $link without the state of a queue" "$(jq -s '[.[] | select(.down.queue_bytes == null or .up.queue_bytes == null)] | length' "$KEEP/samples")" -eq 0
        # A bottleneck that is kept busy has packets waiting before it.
        expect "$1: largest queue of $link, bytes" "$(jq -s '[.[].down.queue_bytes] | max' "$KEEP/samples")" -gt 0
    done
    expect "$1: rate of a in its samples" "$(records sample "$2" | jq -s '[.[] | select(.link == "a") | .down.rate_kbit] | unique | .[]')" -eq 20000
    expect "$1: rate of b in its samples" "$(records sample "$2" | jq -s '[.[] | select(.link == "b") | .down.rate_kbit] | unique | .[]')" -eq 80000
}

# Payload against what two kernels counted: the server's interface over the whole run, and the
# shaper of the link up to the last sample. Heads of packets and answers are 4.6 % at wire size.
check_bytes() { # SCHEDULE LINK SENT LOG
    local payload shaped
    payload=$(records run_end "$4" | jq ".links.$2.bytes")
    expect "$1: bytes that server-$2 sent, for $payload of payload" "$3" -gt "$payload"
    expect "$1: bytes that server-$2 sent" "$3" -lt "$(jq -n "$payload * 1.15")"
    shaped=$(records sample "$4" | jq -s --arg link "$2" '[.[] | select(.link == $link and .bytes > 2000000)] | last | .down.bytes / .bytes')
    expect "$1: bytes through the shaper of $2 for each of payload" "$shaped" -gt 1
    expect "$1: bytes through the shaper of $2 for each of payload" "$shaped" -lt 1.15
}

stopped() { # SIGNAL: in the middle of a run
    local log=$KEEP/stopped-$1.jsonl before code=0 client
    before=$(network_state)
    "$TWINLINK_BIN" client "${SHAPED[@]}" --log "$log" "${SERVERS[@]}" >"$KEEP/stdout" 2>"$KEEP/stopped.err" &
    client=$!
    eventually 30 segments_done "$log" 10
    # Unless the state is another one while it runs, finding it unchanged later shows nothing.
    [ "$(network_state)" != "$before" ] || fail "$1: the network is the same during the run as before it"
    kill -s "$1" "$client"
    wait "$client" || code=$?
    if [ "$1" = KILL ]; then
        expect "KILL: exit code" "$code" -eq 137
        expect "KILL: devices left" "$(network_state | grep -c '^twl')" -eq 4
        "$TWINLINK_BIN" client "${SHAPED[@]}" --log "$KEEP/after-kill.jsonl" "${SERVERS[@]}" >"$KEEP/stdout" 2>"$KEEP/after-kill.err"
        expect "the run after a killed one: exit" "$(records run_end "$KEEP/after-kill.jsonl" | jq -r .exit)" = ok
        grep -q 'earlier run' "$KEEP/after-kill.err" || fail "the run after a killed one does not say that it repaired: $(cat "$KEEP/after-kill.err")"
    else
        expect "$1: exit code" "$code" -eq 1
        expect "$1: exit" "$(records run_end "$log" | jq -r .exit)" = interrupted
        expect "$1: files in run_end" "$(records run_end "$log" | jq .files)" -ge 10
        expect "$1: elapsed of a run that did not end" "$(records run_end "$log" | jq .elapsed_ms)" = null
    fi
    unchanged "$1" "$before"
}

# One run that meets a second one, then a change of its link a.
changed() {
    local log=$KEEP/changed.jsonl client
    "$TWINLINK_BIN" client "${SHAPED[@]}" --log "$log" "${SERVERS[@]}" >"$KEEP/stdout" &
    client=$!
    eventually 30 segments_done "$log" 10

    TWINLINK_CONTROL=$KEEP/second.sock must_fail second "$TWINLINK_BIN" client "${SHAPED[@]}" "${SERVERS[@]}"
    names second "another twinlink process ($client)"
    expect "second: exit" "$(records run_end "$KEEP/second.out" | jq -r .exit)" = link

    "$TWINLINK_BIN" link set a rate-80 >"$KEEP/set"
    local asked shown
    asked=$(date +%s)
    shown=$("$TWINLINK_BIN" link show --json | jq -r '[.. | objects | select(.link? == "a" and .direction? == "down") | .profile] | first')
    expect "link show: profile of a" "$shown" = rate-80
    wait "$client" || fail "the run whose link was changed failed"
    echo "the run ended $(($(date +%s) - asked)) s after the change"

    expect "changed: exit" "$(records run_end "$log" | jq -r .exit)" = ok
    expect "changed: segments whose digest is right" "$(records segment "$log" | jq -s 'map(select(.digest_ok == true)) | length')" -eq 160
    expect "changed: link records of the change" "$(records link "$log" | jq -s -r '[.[] | select(.action == "changed") | "\(.link) \(.direction) \(.profile)"] | sort | join(", ")')" = "a down rate-80, a up rate-80"
    expect "changed: rates of a in its samples" "$(records sample "$log" | jq -s -r '[.[] | select(.link == "a") | .down.rate_kbit] | unique | join(" ")')" = "20000 80000"
    # More than 20 Mbit/s can let through, even counted with all heads.
    expect "changed: goodput of a after the change, kbit/s" "$(records sample "$log" | jq -s '[.[] | select(.link == "a" and .down.rate_kbit == 80000) | .goodput_kbit] | max')" -gt 30000
    expect "changed: efficiency" "$(records run_end "$log" | jq .efficiency)" -le 1.0
}

no_privilege() {
    must_fail no-net-admin setpriv --bounding-set -net_admin --inh-caps -net_admin \
        "$TWINLINK_BIN" client "${SHAPED[@]}" "${SERVERS[@]}"
    names no-net-admin NET_ADMIN
    expect "no-net-admin: exit" "$(records run_end "$KEEP/no-net-admin.out" | jq -r .exit)" = link
    # Who shapes nothing needs no privilege.
    setpriv --bounding-set -net_admin --inh-caps -net_admin \
        "$TWINLINK_BIN" client "${SERVERS[@]}" >"$KEEP/stdout"
    expect "unshaped without NET_ADMIN: exit" "$(records run_end "$KEEP/stdout" | jq -r .exit)" = ok
}

# The client also looks into the folders where tc usually is, so in a mount namespace of its own
# those are replaced: by one with ip alone, and by none.
no_tc() {
    mkdir "$KEEP/sbin"
    cp "$(command -v ip)" "$KEEP/sbin/ip"
    # shellcheck disable=SC2016
    must_fail no-tc unshare --mount bash -c '
        export PATH=$1 TWINLINK_BIN=$2
        shift 2
        for folder in /usr/local/sbin /usr/sbin /sbin; do
            [ -L "$folder" ] || [ ! -d "$folder" ] || /bin/mount --bind "$KEEP/sbin" "$folder"
        done
        exec "$TWINLINK_BIN" client "$@"' no-tc "$KEEP/sbin" "$TWINLINK_BIN" "${SHAPED[@]}" "${SERVERS[@]}"
    names no-tc 'tc not found'
    names no-tc iproute2
}

# A file system of 2 MB, in a mount namespace that nobody else sees, holds four segments at most.
full_folder() {
    mkdir "$KEEP/full"
    # shellcheck disable=SC2016
    must_fail full unshare --mount bash -c '
        mount -t tmpfs -o size=2m none "$KEEP/full"
        exec "$@"' full "$TWINLINK_BIN" client "${SHAPED[@]}" --out "$KEEP/full" --log "$KEEP/full.jsonl" "${SERVERS[@]}"
    grep -qE "$KEEP/full/\.twinlink/parts/s[0-9]{3}\.m4s" "$KEEP/full.err" || fail "full: the error does not name the file: $(cat "$KEEP/full.err")"
    names full 'No space left'
    expect "full: exit" "$(records run_end "$KEEP/full.jsonl" | jq -r .exit)" = store
    expect "full: files in run_end" "$(records run_end "$KEEP/full.jsonl" | jq .files)" -lt 5
}

closed_folder() {
    mkdir -m 755 "$KEEP/closed"
    chmod 755 "$KEEP"
    must_fail closed setpriv --reuid 65534 --regid 65534 --clear-groups \
        "$TWINLINK_BIN" client --out "$KEEP/closed" "${SERVERS[@]}"
    names closed "$KEEP/closed"
    names closed 'Permission denied'
    expect "closed: exit" "$(records run_end "$KEEP/closed.out" | jq -r .exit)" = store
    expect "closed: files in the folder" "$(find "$KEEP/closed" -type f | wc -l)" -eq 0
}

bad_settings() {
    local before
    before=$(network_state)
    no_privilege
    no_tc
    full_folder
    closed_folder
    unchanged "bad settings" "$before"
}

if [ -n "${KEEP:-}" ]; then
    "$@"
    exit
fi

DATA=$WORK/data
export DATA
"$TWINLINK_BIN" segments "$DATA" >"$WORK/segments.out"
chmod 755 "$WORK" "$DATA"
LAB=(--data "$DATA")
in_lab whole_job greedy
in_lab whole_job ratio=1:4
in_lab stopped INT
in_lab stopped TERM
in_lab stopped KILL
in_lab changed
in_lab bad_settings
