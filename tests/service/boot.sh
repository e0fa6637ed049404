#!/bin/sh
# A machine of its own for a systemd: `unshare --mount sh boot.sh WORK ENGINE CHECKOUT`, as root.
#
# Prints the process id of its PID 1, as this host sees it. The machine ends when our standard input does, so that it
# outlives nobody, however they end; then its cgroups, the one thing of it that no namespace holds, are removed.
# WORK is an empty directory, ENGINE the Docker Engine's socket, CHECKOUT what is installed from.
set -eu
trap : HUP INT TERM
work=$1 here=$(dirname "$0")
cgroups=$work/cgroups own=$work/cgroups/conversationd-tests-$$
mkdir "$cgroups" "$work/stage" "$work/root"
mount -t cgroup2 cgroup2 "$cgroups"
mkdir "$own"
sh -c 'echo 0 >"$1/cgroup.procs" && shift && exec setpriv --pdeathsig KILL \
    unshare --cgroup --fork --ipc --kill-child --mount --pid --uts /usr/bin/python3 "$@"' \
    sh "$own" "$here/unchroot.py" "$work/root" sh "$here/init.sh" "$@" &
machine=$!
exec >&2
cat >/dev/null || true
[ ! -e "$work/pid" ] || kill -9 "$(cat "$work/pid")" || true
wait "$machine" || true
find "$own" -depth -type d -exec rmdir {} +
