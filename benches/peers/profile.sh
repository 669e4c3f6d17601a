#!/bin/sh
# Where the CPU time of a row goes: the top symbols, and the system calls an
# event. Both by perf: strace would slow the broker until it batches otherwise.
#   benches/peers/profile.sh ROW [SECONDS] [PROGRAM]
# ROW as in `peers rows`; PROGRAM is the tidegate binary.
set -eu
cd "$(dirname "$0")/../.."
row=$1
seconds=${2:-4}
target=${CARGO_TARGET_DIR:-target}
program=${3:-$target/release/tidegate}
peers=$target/quick/peers
port=21883
folder=$(mktemp -d)

ulimit -n "$(ulimit -Hn)"
taskset -c 0 "$program" run --listen 127.0.0.1:$port --admin 127.0.0.1:0 \
    --data-dir "$folder/data" --shards 1 >"$folder/out" 2>"$folder/err" &
broker=$!
trap 'kill $broker; wait $broker 2>/dev/null || true; rm -r "$folder"' EXIT
tries=0
until grep -qx ready "$folder/out"; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { cat "$folder/out" "$folder/err"; exit 1; }
    sleep 0.1
done

load() {
    taskset -c 1 "$peers" load --row "$row" --addr 127.0.0.1:$port --pid $broker --seconds "$1"
}

echo "== perf: $row"
load "$seconds" >"$folder/load" &
load=$!
sleep 1.5
perf record -q -F 2000 -g -o "$folder/perf" -p $broker -- sleep $((seconds - 2)) 2>/dev/null
wait $load
cat "$folder/load"
perf report -i "$folder/perf" --no-children -g none --percent-limit 0.7 --stdio 2>/dev/null |
    grep -v '^#' | grep -v '^$' || true

echo "== system calls an event: $row"
calls="recvfrom read readv recvmsg sendto write writev sendmsg epoll_wait epoll_pwait epoll_pwait2
    epoll_ctl accept4 setsockopt futex poll"
events=$(for call in $calls; do printf 'syscalls:sys_enter_%s,' "$call"; done)
load "$seconds" >"$folder/load" &
load=$!
sleep 1.5
perf stat -x ' ' -e "$events"raw_syscalls:sys_enter -o "$folder/calls" -p $broker \
    -- sleep $((seconds - 2))
wait $load
rate=$(awk '$2 == "Rate" { print $3 }' "$folder/load")
cat "$folder/load"
awk -v events="$(awk "BEGIN { print $rate * ($seconds - 2) }")" '
    $1 > 0 && $2 ~ /sys_enter/ || $3 ~ /sys_enter/ {
        name = $2 ~ /sys_enter/ ? $2 : $3
        sub(/.*sys_enter_?/, "", name)
        if ($1 / events >= 0.0005) printf "%-14s %8.3f\n", name == "" ? "all" : name, $1 / events
    }' "$folder/calls"
