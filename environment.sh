# shellcheck shell=bash
# Sourced by the shell scripts, and by you before calling the Python scripts one by one: `source environment.sh`.
#
# Makes `python` one that has what requirements.txt pins. An active environment that has it is used as it is;
# otherwise a virtual environment in .venv is made, or completed. More requirement files may be given as arguments.

kws_root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

kws_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

kws_complete() {  # kws_complete PYTHON FILE...: whether PYTHON has every package that the files pin
    kws_supported "$1" && "$1" - "${@:2}" 2>/dev/null <<'EOF'
import importlib.metadata
import sys

for file in sys.argv[1:]:
    for line in open(file):
        name, _, version = line.partition("#")[0].strip().partition("==")
        if name and importlib.metadata.version(name) != version:
            sys.exit(1)
EOF
}

kws_set_up() {
    local files=("$kws_root/requirements.txt" "$@") arguments=() file candidate
    if kws_complete python "${files[@]}"; then
        return
    fi
    export VIRTUAL_ENV="$kws_root/.venv" PATH="$kws_root/.venv/bin:$PATH"
    hash -r
    if [ -x "$kws_root/.venv/bin/python" ] && kws_complete "$kws_root/.venv/bin/python" "${files[@]}"; then
        return
    fi
    echo "setting up $kws_root/.venv (once; 2.5 GB, and two minutes or more without a word)" >&2
    if ! kws_supported "$kws_root/.venv/bin/python"; then
        for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
            kws_supported "$candidate" && break
        done
        if ! kws_supported "$candidate"; then
            echo "error: no Python from 3.10 to 3.13 found; install one (Debian: apt-get install python3-venv)" >&2
            return 2
        fi
        if ! "$candidate" -m venv --clear "$kws_root/.venv"; then
            echo "error: $candidate cannot make a virtual environment (Debian: apt-get install python3-venv)" >&2
            return 2
        fi
    fi
    for file in "${files[@]}"; do
        arguments+=(-r "$file")
    done
    if ! "$kws_root/.venv/bin/python" -m pip install -qq --disable-pip-version-check "${arguments[@]}"; then
        echo "error: the packages could not be installed; the same command tries again" >&2
        return 2
    fi
}

kws_set_up "$@"
