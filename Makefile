# Everything is installed into .venv from the lock files; nothing but Python 3.11 and make is needed to begin.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
export UV_NO_PROGRESS = 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test check bench bench-call bench-verify bench-ledger bench-policy bench-http eval lock clean format screenshots browser
.PHONY: dist recording faults fault-table fuzz fuzz-cover conformance soak

demo: $(VENV)/.dev  ## two scenarios through a real guard, receipts, verification, tampering
	@$(BIN)/mcp-guard demo

dist: $(VENV)/.uv  ## the source distribution, and the wheel made from it
	@$(UV) build -q --clear --no-create-gitignore --out-dir dist

test: check $(VENV)/.node browser  ## everything that must hold
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report --format=total > .coverage-total || { $(BIN)/coverage report -m; exit 1; }
	@echo "coverage: $$(cat .coverage-total) %"

check: $(VENV)/.dev  ## style, types, and the direction of imports
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check -q
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo > .imports 2>&1 || { cat .imports; exit 1; }
	@rm -f .imports

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix -q
	@$(BIN)/ruff format -q

bench-verify: $(VENV)/.dev  ## how fast a ledger is verified, and in how much memory
	@$(BIN)/python benchmarks/verify.py $(ARGS)

BENCHES := bench-call bench-http bench-policy bench-ledger bench-verify
bench:  ## all the figures of docs/reference/performance.md, one after another: some minutes; fails if a budget is missed
	@missed=; for each in $(BENCHES); do echo; echo "== make $$each"; $(MAKE) -s $$each || missed="$$missed $$each"; done; \
	  test -z "$$missed" || { echo; echo "failed, or missed a budget:$$missed"; exit 1; }

bench-call: $(VENV)/.dev  ## the guard beside its peers, interleaved in one run
	@$(BIN)/python benchmarks/bench.py $(ARGS)

bench-policy: $(VENV)/.dev  ## one decision as the set of policies grows
	@$(BIN)/python benchmarks/policies.py

eval: .venv-eval/.done  ## the general policies on AgentDojo, with a hijacked agent; some minutes
	@PYTHONPATH=$(CURDIR) .venv-eval/bin/python -m benchmarks.agentdojo.evaluate $(ARGS)

.venv-eval/.done: $(VENV)/.uv requirements-eval.lock
	@echo "installing the environment of the evaluation into .venv-eval"
	@$(UV) venv -q --clear --python $(BIN)/python .venv-eval
	@VIRTUAL_ENV=$(CURDIR)/.venv-eval $(UV) pip sync -q --require-hashes requirements-eval.lock
	@touch $@

RUNS ?= 100
SEED ?= 1
faults: $(VENV)/.dev  ## kill guards under load, RUNS times, and check that nothing is lost and nothing runs twice
	@$(BIN)/python -m tests.faults.run --runs $(RUNS) --seed $(SEED)

fault-table: $(VENV)/.dev  ## every fault at every step of a call, a real run each; some minutes
	@$(BIN)/python -m tests.faults.table $(ARGS)

FRAMES ?= 100000
fuzz: $(VENV)/.dev  ## so many malformed frames to real guards, with good calls between them
	@$(BIN)/python -m tests.fuzz.run --frames $(FRAMES) --seed $(SEED)

SECONDS ?= 60
TARGETS ?= canonical framing config request credential note export
fuzz-cover: .venv-fuzz/.done  ## coverage-guided, so many seconds for each target; what it finds is left in .fuzz
	@mkdir -p .fuzz
	@for target in $(TARGETS); do echo "$$target:"; \
	  PYTHONPATH=$(CURDIR) .venv-fuzz/bin/python -m tests.fuzz.cover $$target --seconds $(SECONDS) --seed $(SEED) \
	    --findings .fuzz || exit 1; done

.venv-fuzz/.done: $(VENV)/.uv requirements-fuzz.lock
	@echo "installing the environment of the fuzzer into .venv-fuzz"
	@$(UV) venv -q --clear --python $(BIN)/python .venv-fuzz
	@VIRTUAL_ENV=$(CURDIR)/.venv-fuzz $(UV) pip sync -q --require-hashes requirements-fuzz.lock
	@touch $@

bench-ledger: $(VENV)/.dev  ## the same step in ledgers of 10 thousand, 100 thousand and a million receipts
	@$(BIN)/python benchmarks/ledger.py $(ARGS)

CALLS ?= 100000
soak: $(VENV)/.dev  ## 200 HTTP sessions at once and what they leave behind; then CALLS calls for one guard, and what grows
	@$(BIN)/python -m tests.soak.run $(ARGS)
	@$(BIN)/python -m tests.soak.long --calls $(CALLS)

bench-http: $(VENV)/.dev  ## the guard over HTTP beside a bare proxy on the SDK, interleaved
	@$(BIN)/python benchmarks/http_calls.py $(ARGS)

lock: $(VENV)/.uv  ## resolve anew; the files name no registry
	@$(UV) pip compile pyproject.toml --universal --generate-hashes --no-header --no-annotate --upgrade -q -o requirements.lock
	@$(UV) pip compile pyproject.toml --group dev --all-extras --universal --generate-hashes --no-header --no-annotate --upgrade -q -o requirements-dev.lock
	@$(UV) pip compile pyproject.toml --group eval --universal --generate-hashes --no-header --no-annotate --upgrade -q -o requirements-eval.lock
	@$(UV) pip compile pyproject.toml --group fuzz --universal --generate-hashes --no-header --no-annotate -c requirements.lock -q -o requirements-fuzz.lock

$(VENV)/.uv:
	@test -n "$(PYTHON)" || { echo "no python3 found: install Python 3.11 or newer" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install -q uv==$(UV_VERSION)
	@touch $@

$(VENV)/.dev: $(VENV)/.uv requirements-dev.lock pyproject.toml
	@echo "installing the development environment into $(VENV)"
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip sync -q --require-hashes requirements-dev.lock
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip install -q --no-deps --editable .
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || true
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q $(VENV)/lib mcp_guard > /dev/null || true
	@touch $@

$(VENV)/.node: $(VENV)/.dev tests/node/package-lock.json
	@cd tests/node && npm ci --silent --no-audit --no-fund
	@touch $@

conformance: $(VENV)/.conformance  ## the official MCP suite against the reference server, directly and through the guard
	@$(BIN)/python -m tests.conformance.run $(ARGS)

$(VENV)/.conformance: $(VENV)/.dev tests/conformance/package-lock.json
	@cd tests/conformance && npm ci --silent --no-audit --no-fund
	@touch $@

browser:  # the inbox is tested in Debian's Chromium
	@command -v chromium > /dev/null || { \
	  echo "installing chromium for the tests of the inbox"; \
	  (apt-get update -q && apt-get install -y -q --no-install-recommends chromium) > /dev/null 2>&1; } || \
	  { echo "no chromium: install it (apt-get install chromium), as root or by your system's means" >&2; exit 1; }

screenshots: $(VENV)/.dev browser  ## pictures of the inbox, into docs/images
	@$(BIN)/python -m tests.web.screenshots

recording: $(VENV)/.dev  ## the README's session as a picture, into docs/images
	@$(BIN)/python -m tests.docs.recording

clean:
	@rm -rf $(VENV) .venv-eval .venv-fuzz .fuzz dist .coverage .coverage.* .coverage-total .mypy_cache .ruff_cache .hypothesis
	@rm -rf tests/node/node_modules tests/conformance/node_modules
