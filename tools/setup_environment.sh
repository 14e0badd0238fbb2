#!/bin/sh
# Makes the environment in $1: a virtual environment with tinyport, its server and what tests and checks need.
# PYTHON names the interpreter; else the newest of 3.13 to 3.10 that works is taken.
set -eu

venv=$1

fail() {
    echo "setup: error: $1" >&2
    echo "setup: hint: $2" >&2
    exit 1
}

# A pyenv shim is on the PATH even when its version is not active, so ask each candidate whether it runs.
suitable() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

python=${PYTHON:-}
if [ -z "$python" ]; then
    # The system's python3 first: it is the one that people have, and that gets security updates.
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if suitable "$candidate"; then
            python=$candidate
            break
        fi
    done
fi
[ -n "$python" ] || fail "no Python from 3.10 to 3.13 was found" "apt-get install python3 python3-venv"
suitable "$python" || fail "$python is not a Python from 3.10 to 3.13" "choose another with PYTHON=..."
"$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    fail "$python cannot make virtual environments" "apt-get install python3-venv"

echo "setup: $("$python" --version) in $venv"
# A half-made environment from an interrupted run must not be taken for a whole one.
"$python" -m venv --clear "$venv"

# Downloads fail now and then; three tries are cheaper than a person's.
try=1
until "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[server,test,dev]'; do
    [ "$try" -lt 3 ] || fail "the packages could not be installed" "see pip's message above; is there a network?"
    try=$((try + 1))
    sleep "$try"
done
"$venv/bin/python" -m compileall -q tinyport
