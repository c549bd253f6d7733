#!/bin/sh
# Debian and Ubuntu packages that the demo and the tests need. Silent when all are there.
# As root it installs them; otherwise it prints the line to run, and fails.
set -eu

packages="quantum-espresso quantum-espresso-data lammps lammps-data openmpi-bin
slurm-wlm munge libpmix-dev slurmdbd mariadb-server python3-venv"
# libpmix-dev: `srun --mpi=pmix` opens the unversioned libpmix.so that only this package has.
# slurmdbd, mariadb-server: the history `sacct` shows.

missing=""
if command -v dpkg-query >/dev/null 2>&1; then
    for package in $packages; do
        status=$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null) || status=""
        [ "$status" = installed ] || missing="$missing $package"
    done
else
    echo "this machine has no Debian packages; install by other means:" $packages >&2
    exit 1
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "Debian packages are missing. Run this line, then try again:" >&2
    echo "sudo apt-get install --no-install-recommends$missing"
    exit 1
fi

# Nothing of what we install shall run as a system service: a service that can't start (Slurm
# without a configuration) would fail the installation, and our own are started per project.
policy=${POLICY_RC_D:-/usr/sbin/policy-rc.d}
log=$(mktemp)
made_policy=no
cleanup() {
    [ "$made_policy" = no ] || rm -f "$policy"
    rm -f "$log"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    made_policy=yes
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
echo "installing$missing" >&2
run() {
    if ! "$@" >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        echo "failed: $*" >&2
        exit 1
    fi
}
run apt-get -qq -o DPkg::Lock::Timeout=600 update
# shellcheck disable=SC2086  # names of packages are words
run apt-get -qq -y -o DPkg::Lock::Timeout=600 install --no-install-recommends $missing

# On a machine with systemd they would start at the next boot.
disable() {
    [ ! -d /run/systemd/system ] || systemctl disable --quiet "$@" 2>/dev/null || true
}
for package in $missing; do
    case $package in
        slurm-wlm) disable slurmctld slurmd ;;
        slurmdbd) disable slurmdbd ;;
        munge) disable munge ;;
        mariadb-server) disable mariadb ;;
    esac
done
