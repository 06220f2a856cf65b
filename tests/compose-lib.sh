# Sourced by the tests that use docker compose as a newcomer does, in place of lib.sh: goes into a fresh copy of
# the tree that belongs to uid 1000, as a project whose name and image no other lab on this machine has.
# shellcheck shell=bash

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
needs_root
have docker || cannot_run "docker not found"

DOCKER_CONFIG=$("$ROOT/tests/setup/compose.sh")
export DOCKER_CONFIG
"$ROOT/tests/setup/images.sh"

# The copy holds what a commit of the present state would.
tree=$WORK/tree
mkdir "$tree"
cd "$ROOT"
git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do
        [ ! -e "$file" ] || cp --parents -p "$file" "$tree"
    done
chown -R 1000:1000 "$tree"
chmod 755 "$WORK"
cd "$tree"

project=twinlink-$(basename "$0" .sh)-$$
export TWINLINK_IMAGE=$project
# Labs of other tests are not this one's.
export TWINLINK_LABS=$WORK/labs
compose() { docker compose --ansi never --progress plain -p "$project" "$@" </dev/null; }
at_exit "docker image rm -f $project >/dev/null 2>&1 || true"
