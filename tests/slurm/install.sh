#!/bin/sh
# Install what a whole SLURM on one machine consists of, from Debian's or Ubuntu's packages. Nothing is started.
# Where that is not possible, it says why, and fails.
set -eu
packages="slurmctld slurmd slurm-client munge"

refuse() {
    echo "SLURM cannot be set up here: $*" >&2
    exit 1
}

# The executor's inner `srun` reads /etc/slurm/slurm.conf and nothing else: it must be ours, and writing it takes root.
[ "$(id -u)" = 0 ] || refuse "that takes root, and this is user $(id -un)"
[ ! -e /etc/slurm/slurm.conf ] || [ -L /etc/slurm/slurm.conf ] ||
    refuse "/etc/slurm/slurm.conf is there already: this machine belongs to another cluster, which is left alone"
if command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null; then
    exit 0
fi
command -v apt-get >/dev/null || refuse "there is no apt-get to install $packages with"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null 2>&1 || echo "apt-get update failed: going on with the package lists that there are" >&2
# RUNLEVEL=1: the packages' own services are not started.
# shellcheck disable=SC2086
RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $packages >/dev/null ||
    refuse "apt-get could not install $packages (its messages are above)"
