#!/usr/bin/env bash
# Builds the image with buildah, without a registry, and runs what is in it for real: in a
# chroot of its root file system, read-only, first as uid 0 with BPF, PERFMON and NET_ADMIN
# alone, then as uid 65532 without any capability.
#
#   sudo manifests/try-image.sh [BINARY]      a static binary; else `cargo xtask dist` makes one
#
# Wants root, buildah, capsh (libcap2-bin), curl and mosquitto-clients. Leaves nothing behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { printf 'try-image: %s\n' "$*" >&2; exit 1; }
say() { printf '== %s\n' "$*"; }

((EUID == 0)) || die 'needs root for mounts and capabilities'
for tool in buildah capsh curl mosquitto_pub unshare; do
  command -v "$tool" >/dev/null || die "$tool is missing (packages buildah libcap2-bin curl mosquitto-clients)"
done

binary=${1:-}
if [[ -z $binary ]]; then
  cargo xtask dist --profile dev
  binary=$(find "${CARGO_TARGET_DIR:-target}/dist" -type f -name 'tidegate-*-gnu' | head -n 1)
fi
[[ -x $binary ]] || die "$binary is no program"
! readelf --program-headers "$binary" | grep -q INTERP || die "$binary is not static"

work=$(mktemp -d) pid=''
inside() { # what a namespace of mounts of our own ends with
  [[ -z $pid ]] || kill -KILL "$pid" 2>/dev/null || true
  rm -rf "$work"
}
trap inside EXIT

say 'build'
mkdir "$work/context"
cp "$binary" "$work/context/tidegate"
image() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
image build --quiet --isolation chroot --file manifests/Containerfile --tag localhost/tidegate:try \
  --build-arg "VERSION=$("$binary" --version | cut -d' ' -f2)" "$work/context" >/dev/null
container=$(image from localhost/tidegate:try)
mounted=$(image mount "$container")
found=$(cd "$mounted" && find . -type f | sort)
[[ $found == ./tidegate ]] || die "the image holds more than the binary: $found"
user=$(image inspect --format '{{.OCIv1.Config.User}}' localhost/tidegate:try)
[[ $user == 65532:65532 ]] || die "the image's user is $user"
printf 'image: %s bytes, one file, user %s\n' "$(stat -c %s "$mounted/tidegate")" "$user"

# What a container runtime mounts.
root=$work/root
mkdir -p "$root"/{proc,sys,dev,etc/tidegate,var/lib/tidegate}
cp "$mounted/tidegate" "$root/tidegate"
image umount "$container" >/dev/null
chown 65532:65532 "$root/var/lib/tidegate"
cat >"$root/etc/tidegate/tidegate.toml" <<'TOML'
[listener.mqtt]
bind = "127.0.0.1:21883"
[admin]
bind = "127.0.0.1:28888"
[node]
data_dir = "/var/lib/tidegate"
drain_seconds = 5
TOML

run() { # NAME UID STEERING CAPSH-ARGUMENTS...
  local name=$1 uid=$2 steering=$3 status=0
  shift 3
  say "$name"
  # What an earlier run left there is whose node it is now.
  chown -R "$uid:$uid" "$root/var/lib/tidegate"
  # The mounts go with their namespace.
  unshare --mount --propagation private bash -c '
    set -e
    root=$1; shift
    mount --bind "$root" "$root"
    mount --bind "$root/var/lib/tidegate" "$root/var/lib/tidegate"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount -o remount,bind,ro "$root"
    exec capsh --chroot="$root" "$@" --no-new-privs --shell=/tidegate -- run --config /etc/tidegate/tidegate.toml
  ' try "$root" "$@" >"$work/log" 2>&1 &
  pid=$!
  for _ in {1..100}; do
    ! curl -fs http://127.0.0.1:28888/readyz >/dev/null || break
    kill -0 "$pid" 2>/dev/null || { cat "$work/log"; die "$name: it ended"; }
    sleep 0.1
  done
  curl -fs http://127.0.0.1:28888/readyz >/dev/null || { cat "$work/log"; die "$name: not ready within 10 s"; }
  mosquitto_pub -p 21883 -q 2 -t try/image -m "$name"
  local state
  state=$(awk '/^(Uid|CapEff|CapBnd|NoNewPrivs):/ {printf "%s %s  ", $1, $2}' "/proc/$pid/status")
  printf '%s\n' "$state"
  [[ $state == *"Uid: $uid "* && $state == *'CapEff: 0000000000000000'* && $state == *'NoNewPrivs: 1'* ]] ||
    die "$name: wrong privileges"
  local told
  told=$("$binary" bpf status --socket "$root/var/lib/tidegate/tidegate.sock" | head -n 1)
  printf '%s\n' "$told"
  [[ $told == "steer      $steering "* ]] || die "$name: steering should be $steering"
  kill -TERM "$pid"
  wait "$pid" || status=$?
  pid=''
  ((status == 0)) || { cat "$work/log"; die "$name: SIGTERM ended it with $status"; }
}

three=cap_bpf,cap_perfmon,cap_net_admin
# All but the three, from the bounding set: what `drop: [ALL], add: [...]` comes to.
others=$(capsh --print | sed -n 's/^Bounding set =//p' | tr ',' '\n' | grep -vxE "${three//,/|}" | paste -sd,)
run 'uid 0 with three capabilities' 0 on "--drop=$others"
run 'uid 65532 without any' 65532 off --gid=65532 --uid=65532
say 'both ran, served and drained'
