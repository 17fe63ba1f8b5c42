#!/usr/bin/env bash
# Re-make the hashed locks. One universal lock serves Python 3.10 to 3.14 on Linux; the image
# locks are cut from the same resolution as dev.lock, so what is tested is what is shipped; those
# of CUDA 13 differ in torch and what it brings.
set -euo pipefail
cd "$(dirname "$0")/../container/requirements"

compile() {
    uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" "$@"
}

tested=tested.txt whole=whole.txt
trap 'rm -f "$tested" "$whole"' EXIT

# What only torch.compile on a GPU uses (0.7 GB) is in a lock of its own, for `make build-train COMPILE=1`.
without_compiler=(--no-emit-package triton --no-emit-package cuda-bindings --no-emit-package cuda-pathfinder)

compile_train() { # compile_train FLAVOR CONSTRAINTS: the two locks of one resolution
    cat "train-$1.lock" "compile-$1.lock" > "$whole" # what is locked stays, where it still fits
    compile train.in -c "$1.txt" -c "$2" -o "$whole"
    compile train.in -c "$whole" "${without_compiler[@]}" -o "train-$1.lock"
    compile compile.in -c "$whole" --no-deps -o "compile-$1.lock"
    rm "$whole"
}

compile_serve() { # compile_serve FLAVOR CONSTRAINTS
    compile serve.in -c "$1.txt" -c "$2" "${without_compiler[@]}" --no-emit-package setuptools -o "serve-$1.lock"
}

compile dev.in -o dev.lock
compile_train cu128 dev.lock
compile_serve cu128 dev.lock
# sympy (90 MB) only serves onnxruntime's tools.
compile serve-cpu.in -c dev.lock --no-emit-package sympy --no-emit-package mpmath -o serve-cpu.lock

grep -E '^[a-z0-9]' dev.lock | grep -vE '^(torch|torchvision|triton|cuda-.*|nvidia-.*-cu12)==' | sed 's/ \\$//' > "$tested"
compile_train cu130 "$tested"
compile_serve cu130 "$tested"
