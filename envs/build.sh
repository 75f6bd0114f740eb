#!/bin/sh
# Build .venv from envs/cpu.txt or update it; do nothing if it is up to date. Run from the repository's root.
set -eu
python=${PYTHON:-}
[ -n "$python" ] || python=python3
requirements=envs/cpu.txt
built=.venv/built-from.txt
cpu_builds=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}

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

# PyPI's torch for Linux brings gigabytes of GPU libraries. Without an NVIDIA GPU, the CPU build is enough; it is on
# PyTorch's own index. If pip is configured with an index or a folder of packages, that is used unchanged.
needed_mib=3000
torch_from=
if [ "$(uname -s)" = Linux ] && ! "$python" -m pip config list 2>/dev/null | grep -Eq 'index|find-links' &&
    [ -z "${PIP_INDEX_URL:-}${PIP_EXTRA_INDEX_URL:-}${PIP_FIND_LINKS:-}${PIP_NO_INDEX:-}" ]; then
    reachable='import sys, urllib.request; urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=20)'
    if [ -e /dev/nvidiactl ]; then
        needed_mib=12000
    elif "$python" -c "$reachable" "$cpu_builds" 2>/dev/null; then
        torch_from="--extra-index-url $cpu_builds"
    else
        needed_mib=12000
        echo "$cpu_builds cannot be reached: torch comes from PyPI, with GPU libraries that nothing here needs"
    fi
fi
free_mib=$(df -Pm . | awk 'NR == 2 {print $4}')
[ "$free_mib" -ge "$needed_mib" ] ||
    fail "the disk of $(pwd) has $free_mib MiB free, but the environment needs $needed_mib MiB"
echo "building the environment in .venv (Python $version), once; this takes a minute or two"
[ -x .venv/bin/python ] || "$python" -m venv .venv ||
    fail "$python cannot make a virtual environment (on Debian: install python3-venv)"
# shellcheck disable=SC2086  # two words, or none
.venv/bin/python -m pip install --quiet --disable-pip-version-check $torch_from -r "$requirements" ||
    fail "pip could not install $requirements (see its messages above); fix the problem and run the same command again"
cp "$requirements" "$built"
