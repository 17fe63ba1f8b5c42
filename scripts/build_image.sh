#!/usr/bin/env bash
# `make build-train`, `make build-serve`: one image from its Dockerfile, as SageMaker can take it.
# usage: build_image.sh train|serve     (reads PROJECT, DOCKER, CUDA, FLAVOR, SLIM, COMPILE, BASE_IMAGE, BUILD_ARGS, MODEL_PACKAGE)
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

case $FLAVOR:$CUDA in
    cpu:*) flavor=cpu ;;
    :12 | :12.8) flavor=cu128 ;;
    :13 | :13.0) flavor=cu130 ;;
    :*) fail "CUDA=$CUDA: 12 or 13" ;;
    *) fail "FLAVOR=$FLAVOR: cpu, or empty for CUDA" ;;
esac
lock=container/requirements/$role-$flavor.lock
[ -f "$lock" ] || fail "FLAVOR=$flavor is for serving only: make build-serve FLAVOR=$flavor"

# The same commit gives the same image, to the byte: it was created when it was committed.
revision=$(git rev-parse HEAD 2>/dev/null || true)
created=$(git log -1 --format=%cI 2>/dev/null || date --utc +%FT%TZ)
if [ -n "$(git status --porcelain 2>/dev/null || true)" ]; then
    revision+=-dirty
    created=$(date --utc +%FT%TZ)
fi
# Only a public address, and never the password that a remote may carry.
source=$(git remote get-url origin 2>/dev/null | sed -nE 's#^https://([^/@]*@)?#https://#p' || true)

locked() { # locked PACKAGE: its version
    sed -nE "/^$1==/s/^[^=]+==([0-9.]+).*/\1/p" "$lock"
}
cuda_version=$(locked 'nvidia-cuda-runtime(-cu12)?' | cut -d. -f1,2)
base=${BASE_IMAGE:-$(sed -nE "s/^FROM (.*) AS $flavor\$/\1/p" "Dockerfile.$role")}

options=(
    --platform linux/amd64 --file "Dockerfile.$role" --tag "$PROJECT-$role:local"
    --build-arg "FLAVOR=$flavor" --build-arg "MODEL_PACKAGE=$MODEL_PACKAGE"
    --build-arg "SOURCE=$source" --build-arg "REVISION=$revision" --build-arg "CREATED=$created"
    --build-arg "BASE_NAME=$base" --build-arg "CUDA_VERSION=$cuda_version" --build-arg "TORCH_VERSION=$(locked torch)"
)
case $role in
    serve) options+=(--build-arg "SLIM=$SLIM") ;;
    train) options+=(--build-arg "COMPILE=$COMPILE") ;;
esac
[ -z "$BASE_IMAGE" ] || options+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
# SageMaker's CreateModel refuses OCI manifests and attestations, which buildx makes by default.
if $DOCKER buildx version >/dev/null 2>&1; then
    options+=(--provenance=false --output type=docker,oci-mediatypes=false)
fi

# BUILD_ARGS is split into words on purpose.
# shellcheck disable=SC2086
DOCKER_BUILDKIT=1 $DOCKER build "${options[@]}" $BUILD_ARGS .

# SageMaker takes no attestations in the image: the list of what is in it stands beside.
bill=$role-$flavor.cdx.json
$DOCKER run --rm --interactive --network none --entrypoint python3 "$PROJECT-$role:local" \
    - "$PROJECT-$role" "$revision" <scripts/bill_of_materials.py >"$bill.tmp"
mv "$bill.tmp" "$bill"
echo "$bill: $(grep -c '"purl"' "$bill") packages"
