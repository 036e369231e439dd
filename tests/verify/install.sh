#!/bin/sh
# Installs the published libraries that verify our signatures, outside the checkout, unless these very versions are
# there already. The last line that it prints is the directory. Safe to run many times at once.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tools=${POSTHASTE_TEST_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/posthaste-tests}
wanted=$(cat "$here/requirements.txt" "$here/package.json" "$here/install.sh" | cksum | tr ' ' -)
place=$tools/verify-$wanted

install_into() {
    mkdir "$1/node"
    cp "$here/package.json" "$1/node/"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$1/python" --requirement "$here/requirements.txt" >&2
    npm install --prefix "$1/node" --omit=dev --no-package-lock --no-audit --no-fund --loglevel=error >&2
}

mkdir -p "$tools"
# With flock, one installs and the others wait. Without it two may do the same work; moving the finished directory into
# its place is atomic either way.
if command -v flock >/dev/null; then
    exec 9>"$tools/lock"
    flock 9
fi
if [ ! -d "$place" ]; then
    fresh=$(mktemp -d "$tools/fresh-XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    install_into "$fresh"
    # Unlike mv, a rename never moves into a directory that is there already.
    python3 -c 'import os, sys; os.rename(*sys.argv[1:])' "$fresh" "$place" 2>/dev/null || [ -d "$place" ]
fi
echo "$place"
