#!/usr/bin/env bash
# Figures of a GPU on a bare machine: CUDA 13, Python 3.12 with PyTorch, sentence-transformers, pyarrow and numpy; no
# Airflow, no network. See README.md beside this file.
#
#   run.sh [--wheels DIR] [--output DIR] [--only FIGURE]... [--dry-run] [--minilm DIR]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
wheels=$here/wheels
output=$here/results
models=${TMPDIR:-/tmp}/airflow-mullama-gpu-models
passed=()
while (($#)); do
    case $1 in
        --wheels) wheels=$2; shift 2 ;;
        --output) output=$2; shift 2 ;;
        --models) models=$2; shift 2 ;;
        *) passed+=("$1"); shift ;;
    esac
done

# What was carried along, into a folder of its own: the machine's packages stay as they are.
if compgen -G "$wheels/*.whl" >/dev/null; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$wheels"/*.whl
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
# Where PyTorch for CUDA 13 is installed, the libraries that the engine's wheel needs lie in its environment.
cuda=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia/cu13/lib
if [[ -d $cuda ]]; then export LD_LIBRARY_PATH=$cuda${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}; fi

export PYTHONPATH=$(cd "$here/../.." && pwd)${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
"$python" "$here/measure.py" --models "$models" --output "$output" ${passed[@]+"${passed[@]}"}
