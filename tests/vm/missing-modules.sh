#!/usr/bin/env bash
# Kernels that lack what a profile needs: each refusal names the module, before anything is changed,
# and `auto` takes what is left. Modules are hidden by binding an empty file over theirs.
. "$(dirname "$0")/../lib.sh"
needs_root
needs_binary

hold() { "$TWINLINK_BIN" link hold --link-a wifi-near --link-b lte-medium "$@" -- "$TWINLINK_BIN" doctor --json; }
netem_found() { jq -r '.checks[] | select(.name == "netem") | .ok' "$WORK/found.json"; }
refused() { # BACKEND WORDS...
    local said words backend=$1
    shift
    if said=$(hold --backend "$backend" 2>&1 >/dev/null); then fail "backend $backend was not refused"; fi
    echo "refused: $said"
    for words; do
        grep -q -- "$words" <<<"$said" || fail "'$words' is not in it"
    done
    expect "devices of links" "$(ip -o link show type ifb | grep -c twl || true)" -eq 0
}

everything_there() {
    hold --backend netem >"$WORK/found.json" || fail "netem is refused with all modules there"
    expect "doctor on netem" "$(netem_found)" = true
}
no_netem() {
    refused netem sch_netem
    hold --backend auto >"$WORK/found.json" || fail "auto does not take userspace"
    expect "doctor on netem" "$(netem_found)" = false
}
no_tbf() {
    local said
    local -x TWINLINK_CONTROL=$WORK/control.sock
    # A rate and a queue need tbf, if nothing else.
    rates() { "$TWINLINK_BIN" link hold --link-a rate-20 --link-b rate-80 "$@"; }
    if said=$(rates --backend netem -- true 2>&1); then fail "netem was not refused without tbf"; fi
    echo "refused: $said"
    grep -q "sch_tbf" <<<"$said" || fail "'sch_tbf' is not in it"
    said=$(rates --backend auto -- "$TWINLINK_BIN" link show --json) || fail "auto does not take userspace"
    expect "what carries rates without tbf" "$(jq -r '[.links[].backend] | unique | join(" ")' <<<"$said")" = userspace
    grep -q "sch_tbf" <<<"$said" || fail "link show does not say why: $said"
}
neither() {
    refused userspace NFQUEUE
    refused auto sch_netem NFQUEUE
}

if [ -n "${TWINLINK_NS_CLIENT:-}" ]; then
    "$1"
    exit
fi

# The kernel loads modules from where the machine's first process looks, so they are hidden out here.
hide() {
    local module file
    for module; do
        ! grep -q "^$module " /proc/modules || modprobe -r "$module" || fail "$module is in use"
        file=$(find -L "/lib/modules/$(uname -r)" -name "$module.ko*" | head -n 1)
        [ -n "$file" ] || fail "no file of the module $module"
        mount --bind /dev/null "$file"
        at_exit "umount $(printf %q "$file")"
    done
}
in_lab() {
    echo "== $1"
    "$ROOT/netem/lab.sh" --servers none --exec bash "$0" "$1"
}
in_lab everything_there
hide sch_netem
in_lab no_netem
hide sch_tbf
in_lab no_tbf
hide xt_NFQUEUE nfnetlink_queue
in_lab neither
