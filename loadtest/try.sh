#!/usr/bin/env bash
# The harness against Tidegate (tcp, tls, ws) and mosquitto with 2,000 connections: every
# promise is kept, on both codecs.
#
#   loadtest/try.sh TIDEGATE LOADTEST [MOSQUITTO]
set -euo pipefail
tidegate=$1 loadtest=$2 mosquitto=${3:-/usr/sbin/mosquitto}
work=$(mktemp -d) pids=()
over() {
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
  said=$("$loadtest" "$scenario" "127.0.0.1:$port" --live off "$@") || status=$?
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
