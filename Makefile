# `make` alone lists the targets. Everything runs in .venv, which is built from requirements.lock when it is missing.
PROFILE ?= quick
WORKERS ?= 2
STYLE ?= cartoonset
MINUTES ?= 20
FACES ?= embedded_faces
export PHOTO STYLE CARTOONS FACES MINUTES
PYTHON ?= python3
BIN := .venv/bin
# Settings of this user for other projects: pip would install elsewhere, Jupyter take another project's kernel.
export PIP_USER := 0
export JUPYTER_PREFER_ENV_PATH := 1
unexport PIP_TARGET PIP_PREFIX PIP_ROOT JUPYTER_PATH CDPATH
# The report's own, and no copies that were made of them.
NOTEBOOKS = $(shell ls notebooks | LC_ALL=C grep -xE '[0-9][0-9]_[a-z_]+\.ipynb' | sed 's|^|notebooks/|')
.DEFAULT_GOAL := help
.PHONY: help reproduce test cartoonize style demo page bench ablations lab report readme verify soak audit outputs lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

reproduce: .venv/ready ## run all notebooks in order and regenerate every figure: make reproduce PROFILE=quick
	@$(BIN)/python -m cartoonlib.report reproduce $(PROFILE)

test: .venv/ready ## unit tests and, beside them, the notebooks under nbval, on the processor, which gives the same bits twice; then those of a GPU
	@$(BIN)/python tests/side_by_side.py $(NOTEBOOKS)
	@if nvidia-smi -L > /dev/null 2>&1; then $(BIN)/python -m pytest tests -m gpu; fi

cartoonize: .venv/ready ## turn a photo, or a folder of photos, into cartoons: make cartoonize PHOTO=photo.jpg STYLE=anime
	@$(if $(PHOTO),,$(error Say which photo: make cartoonize PHOTO=photo.jpg))$(BIN)/python -m cartoonlib "$$PHOTO" --style "$$STYLE"

style: .venv/ready ## a generator in the style of your own drawings or film: make style CARTOONS=~/comics MINUTES=20
	@$(if $(CARTOONS),,$(error Say whose style: make style CARTOONS=~/comics))$(BIN)/python -m cartoonlib.runs.style "$$CARTOONS" --faces "$$FACES" --minutes "$$MINUTES"

demo: .venv/ready ## the same in a browser: notebook 08 as a page, for this machine alone, at the address that it prints
	@bin="$$(cd "$(BIN)" && pwd)" && cd notebooks && "$$bin/voila" 08_your_photo.ipynb

page: .venv/ready ## the generators as a page that draws in its reader's browser: the folder web/, for any web server
	@$(BIN)/python -m cartoonlib.web

bench: .venv/ready ## time a training step beside the original's, its parts, its growth and its floor (notebook 07 at 128 px)
	@$(BIN)/python -m cartoonlib.bench

ablations: .venv/ready ## train the styles and the rows of notebook 05 side by side, on a GPU too: make ablations PROFILE=reference WORKERS=10
	@$(BIN)/python -m cartoonlib.runs ablations $(PROFILE) --workers $(WORKERS)

lab: .venv/ready ## open JupyterLab on the notebooks
	@$(BIN)/jupyter lab --ip=127.0.0.1 --allow-root --notebook-dir=notebooks

report: .venv/ready ## join executed notebooks into results/PROFILE/report.html
	@$(BIN)/python -m cartoonlib.report join $(PROFILE)

readme: .venv/ready ## render README.md, the pages of results/ and the generators' cards anew from the result files
	@$(BIN)/python -m cartoonlib.report readme

verify: .venv/ready ## render them too, say where the files in git differ, and how the numbers of PROFILE lie to those in git
	@$(BIN)/python -m cartoonlib.report verify $(PROFILE)

soak: .venv/ready ## the long tests: kill -9 at random moments, films and pictures of all kinds, other numbers of threads (an hour)
	@$(BIN)/python tests/soak.py

audit: .venv/ready ## known weaknesses of the locked packages, where the network can say; reports, never fails
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --target "$$tools" pip-audit==2.10.1 && \
		PYTHONPATH="$$tools" $(BIN)/python -m pip_audit -r requirements.lock --no-deps --disable-pip --progress-spinner off \
		|| echo "The audit found something, or could not ask: see above."

outputs: .venv/ready ## renew the kept outputs of the notebooks' checked cells (after a change that should change them)
	@results=$$(mktemp -d) && trap 'rm -rf "$$results"' EXIT && CARTOONLIB_RESULTS=$$results \
		$(BIN)/jupyter nbconvert --to notebook --inplace --execute $(NOTEBOOKS)
	@$(BIN)/nbstripout --keep-id --keep-count $(NOTEBOOKS)

lock: ## renew requirements.lock and environment.yml from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --extra development --universal --generate-hashes --no-header --no-emit-index-url \
		--override overrides.txt -o requirements.lock
	$(PYTHON) tests/test_environment.py > environment.yml

clean: ## delete the runs, notebooks and page of PROFILE (figures, numbers, prepared data and .venv stay)
	rm -rf results/$(PROFILE)/runs results/$(PROFILE)/notebooks results/$(PROFILE)/report.html

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": set PYTHON=/path/to/a/newer/python3")'
	@echo "building .venv from requirements.lock (once; some 3 GB of downloads)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@
