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

tested=tested.txt
trap 'rm -f "$tested"' EXIT

# triton (1 GB) and cuda-bindings (0.1 GB) only serve torch.compile on a GPU, which serving does not use.
without_compiler=(--no-emit-package triton --no-emit-package cuda-bindings --no-emit-package cuda-pathfinder)

compile dev.in -o dev.lock
compile train.in -c cu128.txt -c dev.lock -o train-cu128.lock
compile serve.in -c cu128.txt -c dev.lock "${without_compiler[@]}" -o serve-cu128.lock

grep -E '^[a-z0-9]' dev.lock | grep -vE '^(torch|torchvision|triton|cuda-.*|nvidia-.*-cu12)==' | sed 's/ \\$//' > "$tested"
compile train.in -c cu130.txt -c "$tested" -o train-cu130.lock
compile serve.in -c cu130.txt -c "$tested" "${without_compiler[@]}" -o serve-cu130.lock
