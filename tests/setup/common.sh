# Sourced by the scripts of this folder and by the test runner: where things are, and how to fail.
# It changes nothing on the machine.
# shellcheck shell=bash

# A clean PATH lacks the folders of the network tools and of cargo.
PATH="$PATH:/usr/local/bin:/usr/local/sbin:/usr/sbin:/sbin:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"
export PATH

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
TARGET=$ROOT/target
export ROOT TARGET

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$(basename "$0"): $*"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

is_root() { [ "$(id -u)" -eq 0 ]; }

# Debian's name of this release, or nothing on another system.
debian_codename() {
    # shellcheck disable=SC1091
    (. /etc/os-release 2>/dev/null && [ "${ID:-}" = debian ] && printf '%s' "${VERSION_CODENAME:-}") || true
}

# debian_sources SUITE DIR: writes the machine's own Debian sources into DIR, with SUITE in the
# place of the installed release, so that whatever mirror this machine uses is used again.
debian_sources() {
    local suite=$1 dir=$2 own file found=
    own=$(debian_codename)
    [ -n "$own" ] || die "cannot derive a source list for Debian $suite: this is not a Debian system"
    mkdir -p "$dir"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        if [ -f "$file" ] && grep -q "$own" "$file"; then
            sed "s/\b$own\b/$suite/g" "$file" >"$dir/$(basename "$file")"
            found=yes
        fi
    done
    [ -n "$found" ] || die "cannot derive a source list for Debian $suite: no file in /etc/apt names $own"
}

# debian_download SUITE DIR PACKAGE...: fetches packages of another release into DIR, with a source
# list and a state directory of its own, so that the machine's apt never learns of that release.
debian_download() {
    local suite=$1 dir=$2
    shift 2
    local state=$dir/apt
    rm -rf "$state"
    mkdir -p "$state/state/lists/partial" "$state/cache/archives/partial"
    debian_sources "$suite" "$state/sources"
    local apt=(apt-get -qq
        -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$state/sources"
        -o Dir::State="$state/state" -o Dir::State::status=/var/lib/dpkg/status
        -o Dir::Cache="$state/cache" -o Acquire::Languages=none -o APT::Sandbox::User=)
    "${apt[@]}" update >&2 || die "cannot read the package lists of Debian $suite: see apt's words above"
    (cd "$dir" && "${apt[@]}" download "$@" >&2) ||
        die "cannot fetch $* of Debian $suite: see apt's words above"
    rm -rf "$state"
}
