#!/usr/bin/env bash
# Everything that needs a real accelerator, in one run: bash benchmarks/on_device.sh [FOLDER]
# Takes the wheel in dist/ (python -m build --wheel) where accel is not installed. Logs go to FOLDER.
set -u
out=${1:-${OUT:-device-output}}
mkdir -p "$out"
if ! python3 -c 'import accel' 2>/dev/null || compgen -G 'dist/accel_hal-*.whl' >/dev/null; then
    python3 -m pip install -q --no-index --no-deps --upgrade --target /tmp/accel-site \
        dist/accel_hal-*.whl || exit 1
    export PYTHONPATH=/tmp/accel-site${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONUNBUFFERED=1
# With it modules would be compiled anew by every interpreter: 100 ms at each start-up.
unset PYTHONDONTWRITEBYTECODE
export ACCEL_CACHE_DIR=${ACCEL_CACHE_DIR:-$(mktemp -d)}
cd "$(dirname "$0")/.." || exit 1
root=$PWD
cd / || exit 1 # the installed accel, not the checkout

step() {
    local name=$1
    shift
    echo "== $name"
    "$@" >"$out/$name.log" 2>&1
    local code=$?
    tail -n "${TAIL:-25}" "$out/$name.log"
    echo "== $name: exit $code"
}

step devices python3 -m accel devices
step record python3 -m accel record --output "$out/record.json"
TAIL=60 step explain-cold python3 -m accel explain --probe
step explain-warm python3 -m accel explain --probe --json
step gpu-tests python3 -m pytest "$root/tests/gpu" -c "$root/pyproject.toml" --rootdir "$root" -p no:cacheprovider -q
plugin=$(python3 -c 'import accel
print(next((d.owner for d in accel.devices() if d.kind != "cpu" and d.usable), "cpu"))')
TAIL=80 step conformance python3 -m accel conformance "$plugin" --save "$out/$plugin.json" --junit "$out/conformance.xml"
step startup python3 "$root/benchmarks/startup.py" --json "$out/startup.json"
