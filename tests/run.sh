#!/usr/bin/env bash
# Run the tests: `bash tests/run.sh`. Arguments go to pytest: `bash tests/run.sh -k mfcc`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source ./environment.sh "$PWD/tests/requirements.txt"
exec python -m pytest -n auto --dist worksteal -q -rfEs tests "$@"
