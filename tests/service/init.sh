#!/bin/sh
# PID 1 of a machine of its own, until it becomes systemd: `init.sh WORK ENGINE CHECKOUT`, in namespaces of its own.
#
# The host's /usr is used as it is; what is written to /etc, /opt, /var, /run and /tmp is gone with the machine, and
# /sys and /proc/sys are read-only, since a systemd sets what it finds there.
set -eu
work=$1 engine=$2 checkout=$3
read -r pid _ </proc/self/stat
echo "$pid" | tee "$work/pid"
exec >"$work/boot.log" 2>&1
set -x

mount -t tmpfs tmpfs "$work/stage"
cd "$work/stage"
mkdir run run/checkout run/units dev dev/pts dev/shm up up/etc up/opt work work/etc work/opt
for part in supervisor config systemd pyproject.toml README.md; do
    cp -R "$checkout/$part" run/checkout/
done
touch run/docker.sock dev/kmsg "$work/systemd.log"
mount --bind "$engine" run/docker.sock
mount --bind "$work/systemd.log" dev/kmsg
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd

# What resolves names may be mounted over the file, or a link to below /run.
[ ! -e /etc/resolv.conf ] || cp -L /etc/resolv.conf up/etc/
for tree in etc opt; do
    mount -t overlay -o "lowerdir=/$tree,upperdir=$PWD/up/$tree,workdir=$PWD/work/$tree" overlay "/$tree"
done
# The host may have a conversationd of its own, and has units of its own.
rm -rf /etc/conversationd /etc/sysusers.d/conversationd.conf /opt/conversationd /etc/systemd/system /etc/fstab
sed -i '/^conversationd:/d; /^docker:/d' /etc/passwd /etc/group
echo "docker:x:$(stat -c %g run/docker.sock):" >>/etc/group
mkdir /etc/systemd/system /etc/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\n' >/etc/systemd/journald.conf.d/machine.conf
for unit in sysinit.target basic.target network.target multi-user.target shutdown.target sockets.target slices.target \
    systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket; do
    ln -s "/lib/systemd/system/$unit" run/units/
done
mkdir run/units/sysinit.target.wants
ln -s /lib/systemd/system/systemd-journald.service run/units/sysinit.target.wants/

mount -t proc proc /proc
for kernel in /proc/sys /sys; do
    mount --rbind "$kernel" "$kernel"
    mount -o remount,bind,ro "$kernel"
done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --rbind dev /dev
mount -t tmpfs -o mode=0755 tmpfs /var
mkdir /var/lib /var/log /var/cache
mkdir -m 1777 /var/tmp
ln -s /run /var/run
mount --rbind run /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
cd /
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=test \
    SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units SYSTEMD_GENERATOR_PATH=/run/units/generators \
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=kmsg --show-status=0
