#!/usr/bin/env bash
# Makes a virtual environment of what the programs import: the files of lock.txt and lock-cuda.txt, by their hashes. It
# does nothing where that has been done already, so that a node that is started again is ready at once.
#
#     bash clusters/install.sh FOLDER [cpu|cuda|auto]
#
# cpu takes torch's build without CUDA, which is some gigabytes smaller; auto takes it where no GPU answers. It is of
# torch's own index, pinned by its version of constraints.txt alone.
# It takes the machine's python3 where that is new enough, else a newer one; PYTHON names another. All nodes of a cluster
# need the same one.
set -euo pipefail

folder=${1:?usage: install.sh FOLDER [cpu|cuda|auto]}
device=${2:-auto}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ "$device" = auto ]; then
    if nvidia-smi >/dev/null 2>&1; then device=cuda; else device=cpu; fi
fi
case $device in
    cpu | cuda) ;;
    *) echo "error: $device: is not cpu, cuda or auto" >&2; exit 2 ;;
esac

if [ -z "${PYTHON:-}" ]; then
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            PYTHON=$candidate
            break
        fi
    done
fi
[ -n "${PYTHON:-}" ] || { echo "error: no Python >= 3.11 with venv on this machine" >&2; exit 2; }

wanted=$(cat "$root/constraints.txt" "$root/clusters/lock.txt" "$root/clusters/lock-cuda.txt" \
    <(echo "$device $("$PYTHON" --version)") | sha256sum)
if [ "$(cat "$folder/.installed" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

"$PYTHON" -m venv --clear "$folder"
install=("$folder/bin/python" -m pip install --disable-pip-version-check --no-cache-dir -q --no-deps)
locked=(--require-hashes -r "$root/clusters/lock.txt")
if [ "$device" = cuda ]; then
    locked+=(-r "$root/clusters/lock-cuda.txt")
else
    "${install[@]}" --extra-index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' "$root/constraints.txt")"
fi
"${install[@]}" "${locked[@]}"
"$folder/bin/python" -c 'import av, ray, s3fs, torch'
echo "$wanted" >"$folder/.installed"
