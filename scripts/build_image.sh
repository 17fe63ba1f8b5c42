#!/usr/bin/env bash
# `make build-train`, `make build-serve`: one image from its Dockerfile, as SageMaker can take it.
# usage: build_image.sh train|serve     (reads PROJECT, DOCKER, BASE_IMAGE, BUILD_ARGS, MODEL_PACKAGE)
set -euo pipefail
cd "$(dirname "$0")/.."
role=$1

fail() {
    echo "build: $*" >&2
    exit 1
}

command -v "${DOCKER%% *}" >/dev/null ||
    fail "no program '${DOCKER%% *}': install Docker, or name the client, as in: make build DOCKER=podman"
[ -f "container/$MODEL_PACKAGE/predictor.py" ] ||
    fail "no container/$MODEL_PACKAGE/predictor.py: MODEL_PACKAGE names the folder of the model's code"

revision=$(git rev-parse HEAD 2>/dev/null || true)
[ -z "$(git status --porcelain 2>/dev/null || true)" ] || revision+=-dirty
# Only a public address, and never the password that a remote may carry.
source=$(git remote get-url origin 2>/dev/null | sed -nE 's#^https://([^/@]*@)?#https://#p' || true)

options=(
    --platform linux/amd64 --file "Dockerfile.$role" --tag "$PROJECT-$role:local"
    --build-arg "MODEL_PACKAGE=$MODEL_PACKAGE" --build-arg "REVISION=$revision" --build-arg "SOURCE=$source"
)
[ -z "$BASE_IMAGE" ] || options+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
# SageMaker's CreateModel refuses OCI manifests and attestations, which buildx makes by default.
if $DOCKER buildx version >/dev/null 2>&1; then
    options+=(--provenance=false --output type=docker,oci-mediatypes=false)
fi

# BUILD_ARGS is split into words on purpose.
# shellcheck disable=SC2086
DOCKER_BUILDKIT=1 $DOCKER build "${options[@]}" $BUILD_ARGS .
