#!/usr/bin/env bash
# Download the wheels that check.sh installs on a machine without a network: wheels.sh [FOLDER [PYTHON]]
# FOLDER is .wheels by default, PYTHON the version of Python there, 3.12. The wheels are for Linux on x86-64.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-.wheels}
python=${2:-3.12}
platforms=(--platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64)
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
grep -v '^#' benchmarks/gpu/wheels.txt | cut -d' ' -f1 |
    xargs python3 -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
        --python-version "$python" "${platforms[@]}" --dest "$folder"
du -sh "$folder"
