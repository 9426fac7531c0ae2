#!/bin/sh
# Makes .venv with the program and what it needs; `make setup` calls it, and so do the others.
# On Linux: BACKEND=cuda takes MLX's CUDA build instead of the CPU one.
set -eu

find_python() {
    for name in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "error: no Python 3.11 or newer found; install one, or name it: make setup PYTHON=…" >&2
    exit 1
}

has_openblas() {
    "$1" -c 'import ctypes; ctypes.CDLL("libopenblas.so.0")' 2>/dev/null
}

# MLX's Linux backend comes with a reference BLAS; a fast one makes it about 40 times faster.
install_blas() {
    has_openblas .venv/bin/python && return
    sh "$(dirname "$0")/debian.sh" libopenblas0-pthread || true
    has_openblas .venv/bin/python && return
    if [ "$(uname -m)" = x86_64 ]; then
        echo "installing mkl (a fast BLAS, 1.1 GB on disk) with pip…"
        .venv/bin/python -m pip install -qq --disable-pip-version-check -e '.[mkl]' && return
    fi
    echo "note: no fast BLAS could be installed; the program works, about 40 times slower"
}

python=$(find_python)
echo "setting up .venv with $("$python" --version)…"
"$python" -m venv .venv || {
    echo "error: $python cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2
    exit 1
}
extra="serve"
[ "$(uname -s)" = Linux ] && extra="serve,${BACKEND:-cpu}"
.venv/bin/python -m pip install -qq --disable-pip-version-check -e ".[$extra]"
[ "$(uname -s)" = Linux ] && [ "${BACKEND:-cpu}" = cpu ] && install_blas
touch .venv/.ready
