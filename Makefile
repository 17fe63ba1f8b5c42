# Every verb of this project. `make` alone lists them; the logic is in scripts/.

## PYTHON      a Python from 3.10 on, to make the environment with
PYTHON ?= python3
## DOCKER      the Docker client
DOCKER ?= docker
## PROJECT     first part of the names of images and repositories
PROJECT ?= surface-normals
## MODEL_PACKAGE  folder under container/ that holds the model; put your own here
MODEL_PACKAGE ?= surface_normals
## CUDA        of the images: 12 (12.8, any driver from 525 on) or 13 (13.0, from 580 on)
CUDA ?= 12
## FLAVOR      cpu: a serving image without torch and CUDA, for models trained with export=onnx
FLAVOR ?=
## SLIM        1: a serving image without its libraries' symbol tables
SLIM ?=
## COMPILE     1: a training image with what compile=true needs on a GPU: triton and a C compiler
COMPILE ?=
## BASE_IMAGE  what the images are built on; empty: as the Dockerfiles say
BASE_IMAGE ?=
## BUILD_ARGS  more words for `docker build`, as in --network=host
BUILD_ARGS ?=
## LOCAL_DIR   its opt/ml is the /opt/ml of train-local and serve-local
LOCAL_DIR ?= .local
## PORT        where serve-local listens
PORT ?= 8080
## IMAGE_FILE  the picture for invoke-local
IMAGE_FILE ?=
## REGISTRY    where push goes; empty: ECR of your AWS account
REGISTRY ?=
## QUICK       not empty: chaos takes seconds for each of its experiments
QUICK ?=
## AWS_REGION  of that ECR; empty: as your AWS profile says
AWS_REGION ?=
## ALLOW_DIRTY 1: push images of uncommitted changes, tagged so
ALLOW_DIRTY ?=

VENV := .venv
INSTALLED := $(VENV)/installed
RUN := $(VENV)/bin/python
OPT_ML := $(LOCAL_DIR)/opt/ml

export PROJECT DOCKER MODEL_PACKAGE CUDA FLAVOR SLIM COMPILE BASE_IMAGE BUILD_ARGS LOCAL_DIR PORT IMAGE_FILE

.DEFAULT_GOAL := help
.PHONY: $(shell sed -nE 's/^([a-z-]+):.*## .*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## print this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16
	@echo
	@echo 'Variables, as in `make serve-local PORT=8081`:'
	@sed -nE 's/^## ([A-Z_]+) +(.*)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: $(INSTALLED) ## make .venv from the lock; every other verb does this itself when it needs to

$(INSTALLED): container/requirements/dev.lock
	@scripts/make_venv.sh $(PYTHON) $(VENV) $<
	@touch $@

demo: $(INSTALLED) ## train on generated pictures, serve, invoke: .demo/demo.png, without Docker
	@$(RUN) scripts/demo.py

test: $(INSTALLED) ## all tests that this machine can run, and why the others cannot
	@$(RUN) -m pytest

test-sdks: $(INSTALLED) ## SageMaker's own SDKs, versions 2 and 3, in local mode with both images; installs them first
	@$(RUN) -m pytest -m long tests/images/test_sdks.py

# DL3008 wants exact Debian versions: the newest patch of the base's own release is better.
lint: $(INSTALLED) ## ruff, mypy, hadolint, and the syntax of the shell scripts
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(VENV)/bin/hadolint --ignore DL3008 Dockerfile.train Dockerfile.serve
	for script in scripts/*.sh .ci/*; do bash -n $$script || exit 1; done

lock: $(INSTALLED) ## re-make the hashed locks from container/requirements/*.in
	@PATH="$(abspath $(VENV))/bin:$$PATH" scripts/lock.sh

sample-data: $(INSTALLED) ## a small job for train-local, under LOCAL_DIR: generated pictures, hyperparameters
	@$(RUN) scripts/sample_job.py $(OPT_ML)

build: build-train build-serve ## build both images, and write what is in them to ROLE-FLAVOUR.cdx.json

build-train: ## build PROJECT-train:local
	@scripts/build_image.sh train

build-serve: ## build PROJECT-serve:local
	@scripts/build_image.sh serve

image-report: $(INSTALLED) ## sizes beside their aims, layers and the largest folders of both images
	@$(RUN) scripts/image_report.py --docker '$(DOCKER)' $(PROJECT)-train:local $(PROJECT)-serve:local

pin-base: $(INSTALLED) ## write the digests of the base images into the Dockerfiles, from their registry
	@$(RUN) scripts/pin_base.py --docker '$(DOCKER)'

# A first run has no data: it gets the sample data.
train-local: build-train $(if $(wildcard $(OPT_ML)/input/data/train/*),,sample-data) ## train in the image, on LOCAL_DIR/opt/ml
	@scripts/run_local.sh train

serve-local: build-serve ## serve LOCAL_DIR/opt/ml/model in the image, on PORT, until Ctrl-C
	@scripts/run_local.sh serve

invoke-local: ## send IMAGE_FILE=photo.jpg to serve-local; the normal map goes to LOCAL_DIR
	@$(PYTHON) scripts/invoke.py --port $(PORT) --output-dir $(LOCAL_DIR) "$$IMAGE_FILE"

push: $(INSTALLED) ## push both images to ECR or REGISTRY, and write their digests
	@$(RUN) scripts/push.py --project $(PROJECT) --docker '$(DOCKER)' \
		$(if $(REGISTRY),--registry $(REGISTRY)) $(if $(AWS_REGION),--region $(AWS_REGION)) \
		$(if $(filter 1,$(ALLOW_DIRTY)),--allow-dirty)

bench-training: $(INSTALLED) ## speed of reading and of a training step, each beside something else
	@$(RUN) scripts/benchmark_training.py

bench-learning: $(INSTALLED) ## error of training beside a textbook loop, and what ImageNet weights bring, in 15 minutes
	@$(RUN) scripts/benchmark_learning.py

bench-serving: $(INSTALLED) ## speed of serving beside its limit and LitServe: .bench/serving.md, .png
	@$(RUN) scripts/benchmark_serving.py

bench-upload: $(INSTALLED) ## `launch.py upload` of 2,000 small files beside a loop of boto3's upload_file
	@$(RUN) scripts/benchmark_upload.py

bench-start: $(INSTALLED) ## seconds from `docker run` to the first answer of the serving image, and where they go
	@$(RUN) scripts/benchmark_start.py --docker '$(DOCKER)' $(PROJECT)-serve:local $(OPT_ML)/model

bench-metrics: $(INSTALLED) ## what the metrics cost a training step, a server and the processor, in 5 minutes
	@$(RUN) scripts/benchmark_metrics.py

chaos: $(INSTALLED) ## break a server in every way, and say what came of it; 12 minutes, QUICK=1 one
	@$(RUN) scripts/chaos.py $(if $(QUICK),--quick)

clean: ## remove the environment, the demo and the caches; your LOCAL_DIR stays
	rm -rf $(VENV) .demo .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find container scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
