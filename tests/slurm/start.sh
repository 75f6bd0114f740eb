#!/bin/sh
# Start munged, slurmctld and slurmd on the loopback interface, with all their files in a new folder.
# Usage: start.sh FOLDER. Environment: SLURM_TEST_CPUS (default 8) and SLURM_TEST_MEMORY (MiB, default 16000), which the
# node says that it has.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/state" "$1/spool"
folder=$(cd "$1" && pwd)

[ ! -e /etc/slurm/slurm.conf ] || [ -L /etc/slurm/slurm.conf ] ||
    { echo "/etc/slurm/slurm.conf belongs to another cluster" >&2; exit 1; }
umask 022
sed -e "s|@FOLDER@|$folder|g" -e "s|@CPUS@|${SLURM_TEST_CPUS:-8}|g" -e "s|@MEMORY@|${SLURM_TEST_MEMORY:-16000}|g" \
    "$here/slurm.conf.in" >"$folder/slurm.conf"
# A GPU is a character device: here, a copy of /dev/null. CUDA_VISIBLE_DEVICES is set for what claims to be NVIDIA's.
for index in 0 1; do
    [ -c "$folder/gpu$index" ] || mknod "$folder/gpu$index" c 1 3
done
echo "NodeName=localhost Name=gpu Type=fake File=$folder/gpu[0-1] Flags=nvidia_gpu_env" >"$folder/gres.conf"
mkdir -p /etc/slurm
for file in slurm.conf gres.conf; do
    ln -sfn "$folder/$file" "/etc/slurm/$file"
done

dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 2>/dev/null
chmod 600 "$folder/munge.key"
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" 2>>"$folder/munged.log"
slurmctld -f "$folder/slurm.conf"
slurmd -f "$folder/slurm.conf"

for _ in $(seq 60); do
    if timeout 5 sinfo --noheader --Format=statelong 2>/dev/null | grep -q idle; then
        exit 0
    fi
    sleep 0.5
done
echo "SLURM did not come up within 30 seconds; the ends of its logs:" >&2
tail -n 8 "$folder"/*.log >&2
exit 1
