#!/usr/bin/env bash
# A step of a CI job: it builds the files of a recipe and fails where they are not as good as their reference.
#
#     examples/ci.sh RECIPE OUT
set -uo pipefail
recipe=$1
out=$2

# A wrong recipe, a broken file or a runtime that is missing shows here, in seconds and before any work.
epmq run --dry-run "$recipe" || exit

# What an earlier, interrupted run of the job has left in OUT is not done again.
epmq run "$recipe" -o "$out" --resume
code=$?
case $code in
    0) echo "the files may be shipped" ;;
    1) echo "the files are written, and not as good as their reference" ;;
    2) echo "the recipe is wrong" ;;
    3) echo "a file is broken, or OUT cannot be written" ;;
    4) echo "a runtime that verifies the files is not installed" ;;
    *) echo "ended with $code" ;;
esac

# What a script wants to know is in report.json. Nothing has to be read out of the text that people see.
if [ -f "$out/report.json" ]; then
    python3 - "$out/report.json" <<'PYTHON'
import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    report = json.load(file)
print("verdict:", report["verdict"])
for file in report["files"]:
    print(f"{file['path']}: {file['bytes']} bytes, {file['runtime']}, sha256 {file['sha256']}")
PYTHON
fi
exit "$code"
