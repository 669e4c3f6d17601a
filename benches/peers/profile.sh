#!/bin/sh
# Where the CPU time of a row goes: the top symbols by perf, and the system
# calls a message by strace.
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
until grep -q ready "$folder/out"; do
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

echo "== strace: $row (the traced rate is far below the true one; see calls a message)"
load "$seconds" >"$folder/load" &
load=$!
sleep 1.5
timeout -s INT $((seconds - 2)) strace -c -f -p $broker 2>"$folder/strace" || true
wait $load
cat "$folder/load"
grep -v -E 'strace: Process' "$folder/strace" | head -20
