#!/usr/bin/env bash
# `make train-local`, `make serve-local`: `docker run` as SageMaker calls it, LOCAL_DIR/opt/ml as /opt/ml.
# usage: run_local.sh train|serve     (reads PROJECT, DOCKER, LOCAL_DIR, PORT)
set -euo pipefail
cd "$(dirname "$0")/.."
role=$1
mkdir -p "$LOCAL_DIR/opt/ml/model"
opt_ml=$(cd "$LOCAL_DIR/opt/ml" && pwd)

gpu_options() {
    if $DOCKER info --format '{{json .Runtimes}}' | grep -q '"nvidia"'; then
        echo --gpus all
    fi
}

train() {
    code=0
    # shellcheck disable=SC2046
    $DOCKER run --rm $(gpu_options) -v "$opt_ml:/opt/ml" "$PROJECT-train:local" train || code=$?
    # The container is root and so are its files: give them to whoever called. A rootless engine has
    # done so already.
    if [ "$(id -u)" != 0 ] && ! $DOCKER info --format '{{.SecurityOptions}}' | grep -q rootless; then
        $DOCKER run --rm -v "$opt_ml:/opt/ml" --entrypoint chown "$PROJECT-train:local" \
            -R "$(id -u):$(id -g)" /opt/ml
    fi
    [ "$code" != 0 ] || echo "train-local: the model is in $LOCAL_DIR/opt/ml/model; next: make serve-local"
    exit "$code"
}

serve() {
    if [ -z "$(ls -A "$opt_ml/model")" ]; then
        echo "serve-local: no model in $LOCAL_DIR/opt/ml/model: run 'make train-local' first," \
            "or unpack a model.tar.gz there" >&2
        exit 1
    fi
    if (: <"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; then
        echo "serve-local: port $PORT is taken; choose another, as in: make serve-local PORT=$((PORT + 1))" >&2
        exit 1
    fi
    echo "serve-local: http://localhost:$PORT until Ctrl-C; in another terminal:" \
        "make invoke-local PORT=$PORT IMAGE_FILE=photo.jpg"
    # shellcheck disable=SC2046
    exec $DOCKER run --rm $(gpu_options) -p "127.0.0.1:$PORT:8080" -v "$opt_ml/model:/opt/ml/model:ro" \
        "$PROJECT-serve:local" serve
}

"$role"
