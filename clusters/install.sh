#!/usr/bin/env bash
# Makes a virtual environment of what the programs import, in the versions of constraints.txt. It does nothing where
# that has been done already, so that a node that is started again is ready at once.
#
#     bash clusters/install.sh FOLDER [cpu|cuda|auto]
#
# cpu takes torch's builds without CUDA, which are some gigabytes smaller; auto takes them where no GPU answers.
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
    # The number of such a build, 2.13.0+cpu, counts as higher than the plain one's.
    cpu) index=(--extra-index-url https://download.pytorch.org/whl/cpu) ;;
    cuda) index=() ;;
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

wanted=$(cat "$root/constraints.txt" "$root/pyproject.toml" <(echo "$device $("$PYTHON" --version)") | sha256sum)
if [ "$(cat "$folder/.installed" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

"$PYTHON" -m venv --clear "$folder"
needs=$folder/needs.txt
"$folder/bin/python" - "$root/pyproject.toml" >"$needs" <<'END'
import sys
import tomllib

with open(sys.argv[1], "rb") as file:
    print(*tomllib.load(file)["project"]["dependencies"], sep="\n")
END
install=("$folder/bin/python" -m pip install --disable-pip-version-check --no-cache-dir -q -c "$root/constraints.txt")
"${install[@]}" "${index[@]}" "$(grep '^torch==' "$root/constraints.txt")"
"${install[@]}" -r "$needs"
echo "$wanted" >"$folder/.installed"
