#!/usr/bin/env bash
# Check a GPU on a bare machine with torch, transformers, onnx and onnxruntime, and no network:
#
#     benchmarks/gpu/check.sh [--wheels FOLDER] [--out FOLDER] [--seconds N] [--cpu] [--tiny]
#
# It installs what is missing from --wheels (by default .wheels; benchmarks/gpu/wheels.sh fills it), runs the tests
# marked `gpu`, and then `python -m benchmarks.gpu`. tests.txt, log.txt and table.md go into --out, by default
# gpu-check. --seconds is the time for all but the installation, by default 450. --cpu --tiny tries the script itself.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
wheels=.wheels out=gpu-check device=cuda seconds=450 tiny=() minilm=()
while [ $# -gt 0 ]; do
    case $1 in
    --wheels) wheels=$2 && shift ;;
    --out) out=$2 && shift ;;
    --seconds) seconds=$2 && shift ;;
    --cpu) device=cpu ;;
    --tiny) tiny=(--tiny) ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" && exit 2 ;;
    esac
    shift
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
python3 benchmarks/gpu/install.py "$wheels" "$work/site" || exit
export PYTHONPATH=$work/site:$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
if [ -d "$wheels/minilm" ]; then minilm=(--minilm "$wheels/minilm"); fi
if [ $device = cuda ] && ! python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "torch finds no CUDA: --cpu tries the script without" >&2
    exit 1
fi
SECONDS=0
# Other versions of packages warn of other things than the project's own, so that here a warning is no failure.
timeout 150 python3 -m pytest -q -m gpu -W default -p no:cacheprovider \
    tests/models tests/calibration tests/families 2>&1 | tee "$out/tests.txt"
tests=${PIPESTATUS[0]}
left=$((seconds - SECONDS))
timeout $left python3 -W ignore -m benchmarks.gpu --device $device --seconds $left --work "$work/runs" \
    --out "$out/table.md" "${tiny[@]}" "${minilm[@]}" 2>&1 | tee "$out/log.txt"
checks=${PIPESTATUS[0]}
echo "tests: exit code $tests, checks: exit code $checks, $SECONDS s; the table is $out/table.md"
[ "$tests" = 0 ] && [ "$checks" = 0 ]
