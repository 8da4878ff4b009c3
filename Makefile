# Everything a contributor or CI runs. The virtual environment is made when something needs it.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: help setup check test test-long test-versions benchmarks bench-store rehearse soak mutants coverage demo lock clean-demo

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## Make .venv and install what constraints.txt says.

$(STAMP): pyproject.toml constraints.txt
	@echo "making $(VENV): about 180 packages, 7.4 GB; a minute if they are cached, else as long as the download takes"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || test -x $(VENV)/bin/uv || $(PY) -m pip install --quiet --disable-pip-version-check uv
	@uv=$$(command -v uv || echo $(VENV)/bin/uv); \
	  $$uv pip install --quiet --compile-bytecode --python $(PY) --requirement pyproject.toml --extra dev --constraint constraints.txt
	@touch $@

check: $(STAMP) ## Lint, formatting, types, and who may import whom.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: $(STAMP) ## The default suite.
	$(PY) -m pytest -n 2 --dist loadfile

test-long: $(STAMP) ## What the default suite leaves out: several processes, a browser, a compiler; kills at every step, damage, full disks.
	$(PY) -m pytest -m "slow or fault" -n 3 --dist worksteal --timeout 600

test-versions: $(STAMP) ## Write a store under Python 3.11, read it under 3.12, and the reverse.
	$(PY) -m tests.store.cross_version

benchmarks: $(STAMP) ## Measure all of docs/benchmarks.md on a quiet machine, and write it; goes on where it was stopped. ONLY="NAME ...", PEERS=PYTHON, AGAIN=1, BUSY=1.
	$(PY) -m tests.benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(PEERS),--peers $(PEERS)) $(if $(AGAIN),--again) $(if $(BUSY),--busy)

bench-store: $(STAMP) ## Of these, reading and writing a store, on a disk and on object storage; PEERS=PYTHON of an environment with the peers.
	$(MAKE) benchmarks AGAIN=1 ONLY="store-speed object-storage"

rehearse: $(STAMP) ## The life of a synthetic store of ROWS pairs and nine teachers in OUT, FEATURES=float16 or int8; deleted; figures in OUT.json.
	$(PY) -m tests.benchmarks.store.rehearse --rows $(or $(ROWS),2900000) --features $(or $(FEATURES),float16) --out $(or $(OUT),runs/rehearsal)

soak: $(STAMP) ## All at work at once for MINUTES under an adversary of a SEED, in a folder or STORAGE=s3; log in runs/soak (docs/testing.md).
	$(PY) -m tests.soak --minutes $(or $(MINUTES),30) --seed $(or $(SEED),0) --storage $(or $(STORAGE),folder) --out $(or $(OUT),runs/soak)

mutants: $(STAMP) ## Mistakes put one at a time into the code that claims rest on; at least 95 % must fail a test (docs/testing.md).
	$(PY) -m tests.mutation --out $(or $(OUT),runs/mutation)

coverage: $(STAMP) ## Lines of the four packages that all suites run, programs that tests start included; at least 92 %.
	rm -rf runs/coverage
	-$(PY) -m coverage run -m pytest -n 2 --dist loadfile
	-$(PY) -m coverage run -m pytest -m "slow or fault" -n 3 --dist worksteal --timeout 1200
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

demo: $(STAMP) ## The main job on a CPU: corpus, teachers, extraction, distillation, evaluation; QUICK=1 does a small part of it.
	$(PY) -m evaluate demo --pipeline $(if $(filter-out 0,$(QUICK)),quick,demo)

clean-demo: ## Remove what the demo and the quick one made.
	rm -rf runs/demo runs/quick

lock: ## Resolve constraints.txt anew from pyproject.toml.
	$$(command -v uv || echo $(VENV)/bin/uv) pip compile --quiet --universal --python-version 3.11 --all-extras --no-header --no-annotate \
	  --no-emit-index-url --upgrade pyproject.toml --output-file constraints.txt
