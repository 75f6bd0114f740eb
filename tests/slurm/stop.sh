#!/bin/sh
# Cancel all jobs, and stop the daemons that start.sh has started in a folder, which stays. Usage: stop.sh FOLDER
set -u
folder=$(cd "$1" && pwd) || exit 1
[ "$(readlink /etc/slurm/slurm.conf)" = "$folder/slurm.conf" ] && timeout 20 scancel --user="$(id -un)" 2>/dev/null
left=0
for daemon in slurmd slurmctld munged; do
    [ -s "$folder/$daemon.pid" ] || continue
    pid=$(cat "$folder/$daemon.pid")
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 40); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.25
    done
    if kill -0 "$pid" 2>/dev/null; then
        echo "$daemon ($pid) is still running after ten seconds" >&2
        left=1
    fi
done
for file in slurm.conf gres.conf; do
    [ "$(readlink "/etc/slurm/$file")" = "$folder/$file" ] && rm "/etc/slurm/$file"
done
exit $left
