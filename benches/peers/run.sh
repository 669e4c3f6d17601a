#!/bin/sh
# Measures Tidegate beside mosquitto and the floor and, when all rows are run,
# writes the table into docs/benchmarks.md. Arguments go to `peers run`:
#   benches/peers/run.sh --rows qos0-w16,qos1-w16 --reps 1
# Wants two cores with nothing else on them, and 20,000 open files.
set -eu
cd "$(dirname "$0")/../.."
exec cargo xtask bench peers "$@"
