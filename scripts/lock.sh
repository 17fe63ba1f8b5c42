#!/usr/bin/env bash
# Re-make the hashed locks. One universal lock serves Python 3.10 to 3.14 on Linux; the image
# locks are cut from the same resolution as dev.lock, so what is tested is what is shipped.
set -euo pipefail
cd "$(dirname "$0")/../container/requirements"

compile() {
    uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" "$@"
}

compile dev.in -o dev.lock
compile train.in -c dev.lock -o train-cu128.lock
# triton (1 GB) only serves torch.compile on a GPU, which serving does not use.
compile serve.in -c dev.lock --no-emit-package triton -o serve-cu128.lock
