#!/usr/bin/env sh
# Writes lock.txt and lock-cuda.txt: every package that the programs need, in the versions of constraints.txt, with the
# hashes of all its files on PyPI. pip then takes no others. boto3 is what a head on AWS asks for workers with.
set -eu
cd "$(dirname "$0")/.."
needs=$(mktemp)
trap 'rm -f "$needs"' EXIT
python3 -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], "boto3", sep="\n")' >"$needs"
uv pip compile -q --no-config --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    -c constraints.txt "$needs" | awk '
    BEGIN {
        print "# What the programs import but torch, in the versions of constraints.txt, by hash; `make lock` writes it." \
            > "clusters/lock.txt"
        print "# torch with CUDA and all that it brings of it, by hash; `make lock` writes it." > "clusters/lock-cuda.txt"
    }
    /^[a-z0-9]/ { file = /^(torch|triton|nvidia-|cuda-)/ ? "clusters/lock-cuda.txt" : "clusters/lock.txt" }
    { print > file }'
