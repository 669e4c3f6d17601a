#!/bin/bash
# Installs, runs, upgrades, removes and purges the Debian package in a copy of
# this machine's files that is thrown away (an overlay in a mount namespace).
#   sudo manifests/try-deb.sh target/dist/tidegate_0.1.0-1_amd64.deb
# Nothing is started as a service: there is no systemd in there.
set -euo pipefail
package=$(realpath "${1:?the package}")
if [[ -z ${2:-} ]]; then
  top=$(mktemp -d)
  trap 'rmdir "$top"' EXIT
  unshare --mount --propagation private "$0" "$package" "$top"
  exit
fi

top=$2
mount -t tmpfs none "$top"
mkdir "$top"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$top/root"
mount -t proc proc "$top/root/proc"
mount --rbind /dev "$top/root/dev"
cp "$package" "$top/root/package.deb"

chroot "$top/root" bash -euo pipefail <<'INSIDE'
export DEBIAN_FRONTEND=noninteractive
config=/etc/tidegate/tidegate.toml
expect() { # WHAT WANTED GOT
  [[ $2 == "$3" ]] || { printf '%s: %s instead of %s\n' "$1" "$3" "$2" >&2; exit 1; }
}
as() { setpriv --reuid="$1" --regid="$2" --clear-groups --no-new-privs "${@:3}"; }

dpkg --install /package.deb
dpkg --verify tidegate
expect 'owner of the config' 'root:tidegate 640' "$(stat -c '%U:%G %a' $config)"
expect 'owner of its directory' 'root:tidegate 750' "$(stat -c '%U:%G %a' /etc/tidegate)"
test -L /etc/systemd/system/multi-user.target.wants/tidegate.service
if command -v systemd-analyze >/dev/null; then
  systemd-analyze verify --man=no tidegate.service
fi

# As the unit would, without systemd.
install --directory --owner tidegate --group tidegate /var/lib/tidegate
cd /var/lib/tidegate
export TIDEGATE__LISTENER__DEFAULT__BIND=127.0.0.1:0 TIDEGATE__ADMIN__BIND=127.0.0.1:0
as tidegate tidegate timeout --foreground 1 tidegate run --config $config >/tmp/said || true
grep -qx ready /tmp/said
grep -q 'stopped$' /tmp/said
if as nobody nogroup tidegate check $config 2>/dev/null; then
  echo 'anybody can read the config' >&2
  exit 1
fi

echo '# mine' >>$config
dpkg --install /package.deb
expect 'the config after an upgrade' '# mine' "$(tail -n 1 $config)"
expect 'its owner after an upgrade' 'root:tidegate 640' "$(stat -c '%U:%G %a' $config)"
dpkg --remove tidegate
test -e $config
dpkg --purge tidegate
test ! -e /etc/tidegate
test ! -e /var/lib/tidegate
INSIDE
echo "installed, ran, upgraded, removed, purged"
