#!/usr/bin/env bash
# The harness against Tidegate (tcp, tls, ws) and mosquitto with 2,000 connections: every
# promise is kept, on both codecs. Then every other scenario for a few seconds, and nodes that
# are ended and started again while the load goes on.
#
#   loadtest/try.sh TIDEGATE LOADTEST [MOSQUITTO]
set -euo pipefail
tidegate=$1 loadtest=$2 mosquitto=${3:-/usr/sbin/mosquitto}
work=$(mktemp -d) pids=()
here=$(cd "$(dirname "$0")" && pwd)
over() {
  [[ ! -s $work/rolled ]] || mapfile -t -O "${#pids[@]}" pids <"$work/rolled"
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap over EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
  -keyout "$work/tls.key" -out "$work/tls.crt" 2>/dev/null
cat >"$work/tidegate.toml" <<TOML
[node]
data_dir = "$work/data"
[admin]
bind = "127.0.0.1:28788"
[listener.tcp]
bind = "127.0.0.1:21783"
[listener.tls]
bind = "127.0.0.1:21784"
transport = "tls"
tls_certificate = "$work/tls.crt"
tls_key = "$work/tls.key"
[listener.ws]
bind = "127.0.0.1:21785"
transport = "ws"
TOML
# Two that are ended and started again.
cat >"$work/rolled.toml" <<TOML
[node]
data_dir = "$work/data2"
[admin]
bind = "127.0.0.1:28789"
[listener.tcp]
bind = "127.0.0.1:21788"
TOML
cat >"$work/rolled.conf" <<CONF
listener 21787 127.0.0.1
allow_anonymous true
persistence true
persistence_location $work/
max_queued_messages 100000
user $(id -un)
CONF
printf 'listener 21786 127.0.0.1\nallow_anonymous true\npersistence false\n' >"$work/mosquitto.conf"
"$tidegate" run --config "$work/tidegate.toml" >"$work/tidegate.log" 2>&1 &
pids+=($!)
"$mosquitto" -c "$work/mosquitto.conf" >"$work/mosquitto.log" 2>&1 &
pids+=($!)
for port in 21783 21784 21785 21786; do
  for _ in {1..100}; do
    ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || continue 2
    sleep 0.1
  done
  printf 'nobody listens on %s\n' "$port" >&2
  exit 1
done

run() { # WHAT PORT ARGUMENTS...
  local what=$1 port=$2 scenario=$3
  shift 3
  local said status=0
  printf -- '-- %s\n' "$what"
  [[ $port == */* ]] || port=127.0.0.1:$port
  said=$("$loadtest" "$scenario" "$port" --live off "$@" 2>&1) || status=$?
  printf '%s\n' "$said"
  ((status == 0)) && return
  # A machine with other work makes the harness late, which it says; the promises were
  # looked at all the same.
  grep -q '^INVALID' <<<"$said" && grep -qE '^verdict +(every promise was kept|no message)' <<<"$said" && return
  printf 'FAILED with %s: %s\n' "$status" "$what" >&2
  exit 1
}
run 'tidegate: 2,000 idle' 21783 connect --clients 2000 --hold-ms 2000
run 'tidegate: 1,000 pairs, QoS 1' 21783 pairs --pairs 1000 --rate 2000 --duration-ms 3000 --protocol 5.0
run 'tidegate: QoS 2, the other codec' 21783 pairs --pairs 1000 --qos 2 --rate 1000 --duration-ms 3000 --codec mqttbytes
run 'tidegate: TLS' 21784 pairs --pairs 1000 --transport tls --rate 1000 --duration-ms 3000
run 'tidegate: WebSocket' 21785 pairs --pairs 1000 --transport ws --rate 1000 --duration-ms 3000
run 'tidegate: fan-out' 21783 fan-out --rate 50 --duration-ms 3000
run 'mosquitto: 2,000 idle' 21786 connect --clients 2000 --hold-ms 2000
run 'mosquitto: 1,000 pairs, QoS 1' 21786 pairs --pairs 1000 --rate 2000 --duration-ms 3000

short=(--duration-ms 2500 --drain-ms 2000)
scenarios() { # WHO PORT
  run "$1: shared" "$2" shared --groups 5 --members 4 --qos 1 "${short[@]}"
  run "$1: shared, QoS 2, 5.0" "$2" shared --members 4 --qos 2 --protocol 5.0 "${short[@]}"
  run "$1: 3,000 wildcard filters" "$2" wildcard --filters 3000 --rate 2000 "${short[@]}"
  run "$1: retained" "$2" retained --rate 200 --protocol 5.0 "${short[@]}"
  run "$1: takeover, QoS 2" "$2" takeover --takeovers 40 --qos 2 "${short[@]}"
  run "$1: closed loop, QoS 0" "$2" fan-in --publishers 10 --rate 0 --qos 0 --duration-ms 500
}
scenarios tidegate 21783
# mosquitto 2.0 says no 0x8E to those of 5.0: 3.1.1 above.
scenarios mosquitto 21786
run 'tidegate: takeover, 5.0' 21783 takeover --takeovers 40 --protocol 5.0 "${short[@]}"
for port in 21783 21786; do
  run "mixed fleet at $port" "$here/examples/mixed.toml" mixed "127.0.0.1:$port" "${short[@]}"
done

# A node that is ended and started again; mosquitto keeps its sessions on disk, Tidegate does not
# yet.
cat >"$work/roll" <<'SH'
set -eu
if [ -s "$1" ]; then
  read -r pid <"$1"
  kill "$pid" 2>/dev/null && while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
fi
where=$1
shift
"$@" >/dev/null 2>&1 &
echo $! >"$where"
echo $! >>"$(dirname "$where")/rolled"
SH
again="sh $work/roll $work/mosquitto.pid $mosquitto -c $work/rolled.conf"
sh -c "$again"
sleep 1
roll=(--pairs 50 --rate 500 --backoff fixed --backoff-base-ms 200 --drain-ms 2000)
run 'mosquitto: upgrade, durable' 21787 upgrade --trigger "$again" "${roll[@]}"
run 'mosquitto: upgrade, durable, QoS 2' 21787 upgrade --qos 2 --protocol 5.0 --trigger "$again" "${roll[@]}"
again="sh $work/roll $work/tidegate.pid $tidegate run --config $work/rolled.toml"
sh -c "$again"
sleep 1
run 'tidegate: drain, clean sessions' 21788 drain --clean --protocol 5.0 --trigger "$again" "${roll[@]}"
