#!/usr/bin/env bash
# Gives a link of the running compose lab another profile, in the middle of a run:
#   netem/set.sh a wifi-far
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ $# -lt 2 ]; then
    echo "usage: netem/set.sh a|b PROFILE    (netem/show.sh shows what is in force)" >&2
    exit 2
fi
exec docker compose exec -T client twinlink link set "$@"
