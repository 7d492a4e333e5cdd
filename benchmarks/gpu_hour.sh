#!/usr/bin/env bash
# All that is worth knowing of a GPU, in one call of less than ten minutes: benchmarks/gpu_hour.py says what.
# Needs torch and numpy alone; the GPU's tests run first where pytest is there. Rows go to $OUT, by default runs/gpu_hour.
set -uo pipefail
cd "$(dirname "$0")/.."
if python -c "import pytest, sys, torch; sys.exit(not torch.cuda.is_available())" 2>/dev/null; then
    timeout 150 python -m pytest -q -m gpu -p no:cacheprovider tests/learner/test_gpu.py
    set -- --minutes 6 "$@"
fi
exec python -m benchmarks.gpu_hour --out "${OUT:-runs/gpu_hour}" "$@"
