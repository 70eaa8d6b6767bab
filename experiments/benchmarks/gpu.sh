#!/usr/bin/env bash
# Everything that this project wants to know of an accelerator, in one call without a network: at most 8 minutes on one GPU of the
# H100's class. Seconds of the step and its parts, MFU, bandwidth, memory and compile time at three sizes in two precisions, KL at
# the first step, and the oracle's tests on the device. What is not reached in time is left out, and said.
#
#   bash experiments/benchmarks/gpu.sh [OUT]
#
# OUT (runs/benchmark_gpu) gets figures.jsonl, table.txt, tests.txt. Set from outside, if at all:
#   PYTHON=…              (.venv/bin/python where there is one, else python3) with jax, flax and the rest of pyproject.toml's dependencies
#   WHEELS=DIR            a folder of wheels for those of them that PYTHON lacks; installed into OUT/site
#   LIMIT=480             seconds for all of it
#   SIZES="xs s m gpu"    DTYPES="bfloat16 float32"    STEPS=5    OVERRIDES="model.layers=1 …"
set -uo pipefail
cd "$(dirname "$0")/../.."
OUT=${1:-runs/benchmark_gpu}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
LIMIT=${LIMIT:-480}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
rm -f "$OUT"/figures.jsonl "$OUT"/table.txt "$OUT"/tests.txt
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

missing() {
  "$PYTHON" - <<'PY'
import importlib.util
needed = "jax flax optax orbax datasets transformers jinja2 safetensors huggingface_hub hydra pydantic jaxtyping yaml tensorboardX rich matplotlib pytest"
print(" ".join(name for name in needed.split() if importlib.util.find_spec(name) is None))
PY
}

command -v "$PYTHON" > /dev/null || { echo "gpu.sh: PYTHON=$PYTHON is no program." >&2; exit 2; }
if [ -n "${WHEELS:-}" ]; then
  "$PYTHON" -m pip install --quiet --no-index --no-deps --upgrade --target "$OUT/site" "$WHEELS"/*.whl || exit 1
  export PYTHONPATH="$PYTHONPATH:$OUT/site"
fi
if lacking=$(missing) && [ -n "$lacking" ]; then
  echo "gpu.sh: $PYTHON lacks $lacking; install them, or name a folder of their wheels: WHEELS=DIR." >&2
  exit 2
fi

left() { echo $((LIMIT - SECONDS)); }

measure() { # size dtype
  if [ "$(left)" -lt 30 ]; then
    echo "left out for want of time: $1 $2" | tee -a "$OUT/table.txt"
    return
  fi
  # shellcheck disable=SC2086  # several overrides
  timeout "$(left)" "$PYTHON" -m experiments.benchmarks.gpu --size "$1" --steps "${STEPS:-5}" --out "$OUT/figures.jsonl" \
    "model.dtype=$2" ${OVERRIDES:-} || echo "failed, or out of time: $1 $2" | tee -a "$OUT/table.txt"
}

oracle() {
  if [ "$(left)" -lt 30 ]; then
    echo "left out for want of time: the oracle's tests" > "$OUT/tests.txt"
    return
  fi
  # float64 and float32 on the device; products in full float32, as the tests' tolerances ask. Plugins that may be absent are off.
  JAX_DEFAULT_MATMUL_PRECISION=highest timeout "$(left)" "$PYTHON" -m pytest -q -o addopts="--import-mode=importlib" \
    -o filterwarnings=default -p no:cacheprovider tests/kl tests/policy tests/models/ops/test_vocabulary.py > "$OUT/tests.txt" 2>&1 ||
    echo "the oracle's tests ended with exit code $?: $OUT/tests.txt" >> "$OUT/tests.txt"
  tail -n 1 "$OUT/tests.txt"
}

for size in ${SIZES:-xs s m gpu}; do
  for dtype in ${DTYPES:-bfloat16 float32}; do
    [ "$size $dtype" = "xs bfloat16" ] || measure "$size" "$dtype"
  done
  [ "$size" != s ] || oracle # in the middle: of more interest than the largest size in a second precision
done
[ -s "$OUT/figures.jsonl" ] && "$PYTHON" -m experiments.benchmarks.gpu --table "$OUT/figures.jsonl" | tee -a "$OUT/table.txt"
[ -e "$OUT/tests.txt" ] && tail -n 1 "$OUT/tests.txt" | tee -a "$OUT/table.txt"
echo "$SECONDS s in all; figures in $OUT"
[ -s "$OUT/figures.jsonl" ]
