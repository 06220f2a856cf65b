#!/usr/bin/env bash
# Shows what is in force on the links of the running compose lab; --json for programs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec docker compose exec -T client twinlink link show "$@"
