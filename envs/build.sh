#!/bin/sh
# Build .venv from envs/cpu.txt or update it; do nothing if it is up to date. Run from the repository's root.
set -eu
python=${PYTHON:-}
[ -n "$python" ] || python=python3
requirements=envs/cpu.txt
built=.venv/built-from.txt
needed_mib=3000

fail() {
    echo "error: $*" >&2
    exit 1
}

command -v "$python" >/dev/null || fail "no $python found: install Python 3.11 or later, or set PYTHON=/path/to/it"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is Python $version, but 3.11 or later is required: set PYTHON=/path/to/a/newer/python"
if [ -f "$built" ] && cmp -s "$requirements" "$built"; then
    exit 0
fi
free_mib=$(df -Pm . | awk 'NR == 2 {print $4}')
[ "$free_mib" -ge "$needed_mib" ] ||
    fail "the disk of $(pwd) has $free_mib MiB free, but the environment needs $needed_mib MiB"
echo "building the environment in .venv (Python $version), once; this takes a minute or two"
[ -x .venv/bin/python ] || "$python" -m venv .venv ||
    fail "$python cannot make a virtual environment (on Debian: install python3-venv)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements" ||
    fail "pip could not install $requirements (see its messages above); fix the problem and run the same command again"
cp "$requirements" "$built"
