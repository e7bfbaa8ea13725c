#!/usr/bin/env bash
# Make the virtual environment named by $1 and install the locked packages and this project's two into it.
# The interpreter is the first of $PYTHON, python3 and python3.N that is 3.11 or later and can make environments.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${1:-.venv}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# An environment that was moved or copied, or whose interpreter is gone, still points to where it was made.
is_usable() {
    is_new_enough "$venv/bin/python" &&
        "$venv/bin/python" -m pip --version >/dev/null 2>&1 &&
        grep -qF "$(pwd -P)/$venv/bin/python" "$venv/bin/pip"
}

find_python() {
    local candidate seen=""
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
        seen="$seen $candidate ($("$candidate" --version 2>&1 | head -n 1))"
    done
    echo "Dunwell needs Python 3.11 or later. Found:${seen:- no python3 on PATH}." >&2
    echo "Install one, or name it: make setup PYTHON=/path/to/python3" >&2
    exit 1
}

if ! is_usable; then
    python=$(find_python)
    echo "Making $venv with $("$python" --version)"
    rm -rf "$venv"
    if ! "$python" -m venv "$venv"; then
        rm -rf "$venv"
        echo "$python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2
        exit 1
    fi
fi

echo "Installing the packages of requirements-dev.lock"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$venv/bin/python" -m pip install --quiet --require-hashes --no-deps --requirement requirements-dev.lock
# The lock has brought the build tool, so this needs no network.
"$venv/bin/python" -m pip install --quiet --no-index --no-deps --no-build-isolation \
    --editable . --editable clients/python
echo "Ready"
