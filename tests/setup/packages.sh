#!/usr/bin/env bash
# Installs, with apt, what the tests need: packages.sh TIER..., where a tier is one of
#   base      build and run the tests that need no root, the lab of an ordinary user among them
#   root      the lab in network namespaces
#   peers     the programs that stand in for our server or client in tests
#   compose   docker compose for real
#   players   what plays video over the lab's links
#   browser   what opens the report's pages
#   images    stand-ins for base images that cannot be pulled
#   vm        the lab under a kernel with sch_netem
#   lint      what make lint uses beyond cargo
# Does nothing, and asks nobody, where every program is there already.
set -euo pipefail
. "$(dirname "$0")/common.sh"

# Each word is PROGRAM=PACKAGE[,PACKAGE...]: the packages are installed if the program is missing.
programs_of() {
    case $1 in
    base) echo git=git make=make cc=gcc,libc6-dev go=golang-go curl=curl,ca-certificates jq=jq python3=python3 \
        ip=iproute2 tc=iproute2 iptables=iptables ping=iputils-ping script=bsdutils ;;
    root) echo ip=iproute2 tc=iproute2 iptables=iptables ping=iputils-ping ethtool=ethtool tcpdump=tcpdump jq=jq ;;
    peers) echo ffmpeg=ffmpeg aria2c=aria2 wget2=wget2 lftp=lftp nginx=nginx-light iperf3=iperf3 curl=curl python3=python3 ;;
    compose) echo curl=curl jq=jq python3=python3 busybox=busybox-static ;;
    players) echo ffmpeg=ffmpeg mpv=mpv python3=python3 pip3=python3-pip,python3-setuptools \
        gst-launch-1.0=gstreamer1.0-tools,gstreamer1.0-plugins-base,gstreamer1.0-plugins-good,gstreamer1.0-plugins-bad,gstreamer1.0-libav ;;
    browser) echo chromium=chromium,fonts-dejavu-core tshark=tshark pdftotext=poppler-utils jq=jq python3=python3 ;;
    images) echo mmdebstrap=mmdebstrap ;;
    vm) echo depmod=kmod ping=iputils-ping ;;
    lint) echo shellcheck=shellcheck ;;
    *) die "cannot install for '$1': no such tier; expected base, root, peers, compose, players, browser, images, vm or lint" ;;
    esac
}

# Debian starts a service when its package is installed. The tests start nginx themselves, on
# ports of their own, so for the length of the installation starting services is refused.
without_services() {
    local policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    # shellcheck disable=SC2064
    trap "rm -f $policy" EXIT
    "$@"
    rm -f "$policy"
    trap - EXIT
}

[ $# -gt 0 ] || die "cannot install anything: name at least one tier (base, root, peers, compose, players, browser, images, vm, lint)"

missing=()
for tier in "$@"; do
    programs=$(programs_of "$tier")
    for pair in $programs; do
        have "${pair%%=*}" || missing+=("${pair#*=}")
    done
done
[ ${#missing[@]} -gt 0 ] || exit 0

mapfile -t missing < <(printf '%s\n' "${missing[@]}" | tr , '\n' | sort -u)
have apt-get || die "cannot install for $*: apt-get not found; install what these packages hold: ${missing[*]}"
is_root || die "cannot install for $*: not root; run: sudo apt-get install ${missing[*]}"

say "installing for $*: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update >&2
log=$(mktemp)
without_services apt-get -qq install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1 ||
    die "cannot install ${missing[*]}: $(tail -n 5 "$log")"
rm -f "$log"

for tier in "$@"; do
    for pair in $(programs_of "$tier"); do
        have "${pair%%=*}" || die "cannot find ${pair%%=*} after installing ${pair#*=}"
    done
done
