#!/usr/bin/env bash
# Holds the adaptive schedule against the bound, aria2c, the best ratio and greedy, on links of
# 160 and 40 Mbit/s (queue 100 ms, servers sending with reno) that are steady, far, or change under way.
# Each round runs every program once, in an order that turns with the round, on links that are shaped
# before any of them starts. Prints a table of medians, writes it as JSON, and keeps every single time
# under target/bench/. Needs root.
#
#   benches/adaptive.sh [--rounds N] [--files N] [CASE...]
#
# 5 rounds of 75 files of 3 MB (about 9 s each) unless given. Cases: steady far collapse blackhole loss.
set -euo pipefail
# The clock and the numbers below have points, whatever the user's language.
export LC_ALL=C
. "$(dirname "${BASH_SOURCE[0]}")/../tests/setup/common.sh"

SELF=$(realpath "${BASH_SOURCE[0]}")
BENCHES=$(dirname "$SELF")
TWINLINK_BIN=${TWINLINK_BIN:-$TARGET/release/twinlink}
export TWINLINK_BIN
CASES=(steady far collapse blackhole loss)
# When link b changes, in seconds from starting a program.
CHANGE_S=4

# --- inside the client's namespace ---

# What happens to link b while a program runs; the bound's steps in table form are in adaptive.py.
change() { # CASE
    sleep "$CHANGE_S"
    case $1 in
    collapse) "$TWINLINK_BIN" link set b "$BENCH/rate-2.toml" >>"$BENCH/words" ;;
    blackhole) iptables -I INPUT -s server-b -j DROP ;;
    esac
}

restore() { # CASE
    case $1 in
    collapse) "$TWINLINK_BIN" link set b "$BENCH/rate-40.toml" >>"$BENCH/words" ;;
    blackhole) iptables -D INPUT -s server-b -j DROP ;;
    esac
}

# Runs a program and adds a line to the table: CASE, NAME, ROUND, wall seconds, and for ours the log's
# elapsed_ms, first_request_ms and wasted_bytes.
timed() { # CASE NAME ROUND COMMAND...
    local case=$1 name=$2 round=$3 changer='' began ended own=,,
    shift 3
    rm -rf "$BENCH/log.jsonl" "${BENCH:?}/files/"*
    began=$EPOCHREALTIME
    if [[ $case = collapse || $case = blackhole ]]; then
        change "$case" &
        changer=$!
    fi
    "$@" >"$BENCH/output" 2>&1 </dev/null || die "$name failed: $(tail -n 3 "$BENCH/output")"
    ended=$EPOCHREALTIME
    if [ -n "$changer" ]; then
        wait "$changer" || die "link b could not be changed: $(tail -n 3 "$BENCH/words")"
        restore "$case"
    fi
    if [[ $name != *alone* ]]; then
        (cd "$BENCH/files" && sha256sum --check --quiet "$DATA/SHA256SUMS") || die "$name left a wrong file"
    fi
    if [ -f "$BENCH/log.jsonl" ]; then
        own=$(jq -r 'select(.event == "run_end") | .data | [.elapsed_ms, .first_request_ms, .wasted_bytes] | @csv' "$BENCH/log.jsonl")
        cp "$BENCH/log.jsonl" "$BENCH/logs/$case-${name//[^a-z0-9]/-}-$round.jsonl"
    fi
    awk -v OFS=, -v row="$case,$name,$round" -v took=$((${ended/./} - ${began/./})) -v own="$own" \
        'BEGIN { print row, sprintf("%.3f", took / 1e6), own }' >>"$BENCH/times.csv"
    # What the last program left in the queues is gone before the next one starts.
    sleep 0.3
}

ours() { # CASE NAME ROUND OPTIONS...
    local case=$1 name=$2 round=$3
    shift 3
    timed "$case" "$name" "$round" "$TWINLINK_BIN" client --congestion reno "$@" \
        --out "$BENCH/files" --log "$BENCH/log.jsonl" server-a server-b
}

aria2() { # CASE NAME ROUND OPTIONS...
    local case=$1 name=$2 round=$3
    shift 3
    timed "$case" "$name" "$round" aria2c --no-conf --quiet --file-allocation=none --header="Twinlink-Sender: cc=reno" \
        "$@" --input-file="$BENCH/aria2.txt" --dir="$BENCH/files"
}

entrant() { # NUMBER CASE ROUND
    case $1 in
    0) ours "$2" adaptive "$3" --schedule adaptive ;;
    1) ours "$2" ratio=4:1 "$3" --schedule ratio=4:1 ;;
    2) ours "$2" greedy "$3" --schedule greedy ;;
    3) aria2 "$2" aria2c "$3" ;;
    4) aria2 "$2" "aria2c -j16" "$3" -j16 ;;
    esac
}

rounds_of() { # CASE ROUNDS
    local round i
    mount -t tmpfs -o size=1g none "$BENCH/files"
    for ((round = 1; round <= $2; round++)); do
        for i in 0 1 2 3 4; do
            # On links that change, a schedule that leaves a server its share waits for minutes.
            if [[ $1 = @(collapse|blackhole|loss) && $(((i + round) % 5)) = 1 ]]; then continue; fi
            entrant $(((i + round) % 5)) "$1" "$round"
        done
        if [ "$1" = loss ]; then
            ours loss "a alone" "$round" --schedule ratio=1:0 --files "$ALONE_A"
            ours loss "b alone" "$round" --schedule ratio=0:1 --files "$ALONE_B"
        fi
    done
    umount "$BENCH/files"
}

profile() { # NAME MBIT DELAY LOSS
    printf 'description = "%s Mbit/s, %s each way, %s lost"\n' "$2" "$3" "$4"
    printf '[down]\nrate = "%smbit"\nqueue = "100ms"\ndelay = "%s"\nloss = "%s"\n' "$2" "$3" "$4"
    printf '[up]\nrate = "40mbit"\nqueue = "100ms"\ndelay = "%s"\n' "$3"
}

write_profiles() {
    profile rate-160 160 0ms 0% >"$BENCH/rate-160.toml"
    profile rate-40 40 0ms 0% >"$BENCH/rate-40.toml"
    profile rate-2 2 0ms 0% >"$BENCH/rate-2.toml"
    profile far-160 160 40ms 0% >"$BENCH/far-160.toml"
    profile far-40 40 40ms 0% >"$BENCH/far-40.toml"
    profile near-160 160 10ms 0% >"$BENCH/near-160.toml"
    profile lossy-40 40 10ms 1% >"$BENCH/lossy-40.toml"
}

hold() { # A B COMMAND...
    local a=$1 b=$2
    shift 2
    "$TWINLINK_BIN" link hold --link-a "$BENCH/$a.toml" --link-b "$BENCH/$b.toml" --backend userspace -- "$@" 2>>"$BENCH/words" ||
        die "the links could not be held: $(tail -n 3 "$BENCH/words")"
}

everything() { # ROUNDS CASES...
    local rounds=$1 case
    shift
    mkdir -p "$BENCH/files" "$BENCH/logs"
    write_profiles
    sed 's/^[0-9a-f]*  //; s#.*#http://server-a:4455/&\thttp://server-b:4455/&#' "$DATA/SHA256SUMS" >"$BENCH/aria2.txt"
    for case in "$@"; do
        case $case in
        far) hold far-160 far-40 bash "$SELF" rounds far "$rounds" ;;
        loss) hold near-160 lossy-40 bash "$SELF" rounds loss "$rounds" ;;
        *)
            "$TWINLINK_BIN" link set a "$BENCH/rate-160.toml" >>"$BENCH/words"
            "$TWINLINK_BIN" link set b "$BENCH/rate-40.toml" >>"$BENCH/words"
            rounds_of "$case" "$rounds"
            "$TWINLINK_BIN" link clear >>"$BENCH/words"
            ;;
        esac
    done
}

case ${1:-} in
inside)
    shift
    everything "$@"
    exit
    ;;
rounds)
    rounds_of "$2" "$3"
    exit
    ;;
esac

# --- outside ---

usage() {
    die "usage: adaptive.sh [--rounds N] [--files N] [${CASES[*]}]"
}

rounds=5 files=75 cases=()
while [ $# -gt 0 ]; do
    case $1 in
    --rounds | --files)
        [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || usage
        declare "${1#--}=$2"
        shift 2
        ;;
    *)
        [[ " ${CASES[*]} " = *" $1 "* ]] || usage
        cases+=("$1")
        shift
        ;;
    esac
done
[ ${#cases[@]} -gt 0 ] || cases=("${CASES[@]}")
is_root || die "could not make network namespaces: not root"
for program in aria2c jq python3 iptables; do
    have "$program" || die "there is no $program: run tests/setup/packages.sh root peers"
done

BENCH=$TARGET/bench/adaptive-$(date -u +%Y%m%dT%H%M%SZ)
DATA=$BENCH/data
ALONE_A="s{001..$(printf %03d $((files / 2)))}.m4s"
ALONE_B="s{001..$(printf %03d $((files / 15 + 1)))}.m4s"
export BENCH DATA ALONE_A ALONE_B CHANGE_S
mkdir -p "$BENCH"
"$TWINLINK_BIN" segments "$DATA" --count "$files" --mean-size 3MB >"$BENCH/output"
chmod 755 "$DATA"
"$ROOT/netem/lab.sh" --data "$DATA" --exec bash "$SELF" inside "$rounds" "${cases[@]}"
python3 "$BENCHES/adaptive.py" "$BENCH" "$CHANGE_S"
cd "$BENCH"
rm -rf data files log.jsonl output words aria2.txt ./*.toml
