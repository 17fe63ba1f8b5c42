#!/usr/bin/env bash
# `make setup`: a virtual environment with exactly what the lock names.
# usage: make_venv.sh PYTHON VENV LOCK
set -euo pipefail
python=$1 venv=$2 lock=$3

fail() {
    echo "setup: $*" >&2
    exit 1
}

command -v "$python" >/dev/null ||
    fail "no program '$python': install Python 3.10 or newer, or name one, as in: make setup PYTHON=python3.12"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$python" --version 2>&1) is too old, 3.10 is the oldest: name a newer one, as in: make setup PYTHON=python3.12"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$("$python" --version) cannot make a virtual environment: install its venv (Debian, Ubuntu: apt install python3-venv)"

# A folder left by an interrupted run or by a Python that is gone is made anew.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv"
echo "setup: installing $lock into $venv (about 4 GB the first time)"
"$venv/bin/python" -m pip install --disable-pip-version-check \
    --require-hashes --no-deps --only-binary :all: -r "$lock"
