#!/bin/busybox sh
# The first process of a guest. The kernel's command line says what the guest does with the disk:
#
#   mode=verify  checks every file against the list of checksums, and switches itself off
#   mode=write   does so too, then writes more files until somebody presses the power button
#   mode=agent   runs Lifeboat itself, with its data on the disk, and a client of its exports
#   mode=failover  does so too, and fails over first
#
# A file counts once its line in `sums` is synced. Progress goes to the serial port: GUEST <word> ...

/bin/busybox mkdir -p /proc /sys /dev /mnt
/bin/busybox --install -s /bin
# Lifeboat's programs come on the disk.
export PATH=/bin:/mnt/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/ttyS0 2>&1

say() { echo "GUEST $*"; }

end() {
    cd /
    umount /mnt && say UNMOUNTED
    poweroff -f
}

fail() {
    say "FAILED $*"
    end
}

# In this order: each needs those before it.
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk \
    evdev button; do
    insmod "/modules/$module.ko" || fail "load $module"
done
# Makes the file /off, by /etc/acpi/PWRF/00000080.
acpid -l /acpid.log -p /acpid.pid || fail acpid
say BOOTED

mount -t ext4 /dev/vda /mnt || fail mount
# shellcheck disable=SC2164 # what is not there fails below
cd /mnt
dmesg | grep -q 'EXT4-fs (vda): recovery complete' && say REPLAYED the journal

# Writes past the page cache without ever syncing: whenever an agent is killed, there are writes that are
# acknowledged and nothing more.
write_directly() {
    while [ ! -e /off ]; do
        pass=$((pass % 96 + 1))
        dd if=/dev/urandom of="direct-$pass" bs=4k count=64 conv=notrunc oflag=direct 2>/dev/null ||
            fail "write directly"
    done
}

write_files() {
    write_directly &
    number=$listed
    while [ ! -e /off ]; do
        number=$((number + 1))
        dd if=/dev/urandom of="file-$number" bs=4k count=$((number * 7 % 24 + 1)) conv=fsync 2>/dev/null &&
            sha256sum "file-$number" >>sums && sync sums || fail "write file $number"
        say WROTE $number
    done
    wait $!
}

# A last line without an end was not synced.
verify_files() {
    touch sums
    listed=$(wc -l <sums)
    head -n "$listed" sums | sha256sum -c >/checked 2>&1
    grep -v ': OK$' /checked
    say VERIFIED "$(grep -c ': OK$' /checked)" of "$listed"
}

# The first argument and what follows serve the exports.
run_agent() {
    "$@" &
    agent=$!
    client guest::power_loss::write_and_flush --exact --nocapture || fail client
    kill -TERM $agent
    wait $agent || fail agent
}

case $mode in
verify) verify_files ;;
write) verify_files && write_files ;;
agent) run_agent lifeboat serve --config /etc/lifeboat.toml ;;
failover) run_agent client guest::failover::fail_over_and_serve_until_killed --exact --nocapture ;;
*) fail "do $mode" ;;
esac
end
