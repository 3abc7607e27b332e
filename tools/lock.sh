#!/bin/sh
# Writes requirements/*.txt again from the .in files. Needs uv (any way it is installed) and a package index of your own
# configuration; no index address is written down. dev.txt is the whole set, the others are cut from it.
#   tools/lock.sh                       keep what is locked, add what is new
#   tools/lock.sh --upgrade             take the newest of everything
set -eu
cd "$(dirname "$0")/../requirements"
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
        --no-header --no-annotate --fork-strategy fewest "$@"
}
compile "$@" client.in server.in build.in weed.in dev.in -o dev.txt
compile client.in server.in build.in -c dev.txt -o server.txt
compile client.in -c dev.txt -o client.txt
compile weed.in -c dev.txt -o weed.txt
# Its own environment (protobuf < 7), so it is cut from nothing.
compile "$@" pulumi.in -o pulumi.txt
