#!/usr/bin/env bash
# Takes the shaping away from one link (netem/clear.sh a) or from both, in the running compose lab.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec docker compose exec -T client twinlink link clear "$@"
