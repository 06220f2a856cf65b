#!/usr/bin/env bash
# Shows what is in force on the links of what runs; --json for programs (--lab NAME: in that lab).
exec "$(dirname "${BASH_SOURCE[0]}")/link.sh" show "$@"
