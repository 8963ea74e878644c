# Needs only make and Python 3.11 or newer. To choose a Python: make PYTHON=python3.13 up
PYTHON ?= python3
# A test process that dies ends the run. If it were replaced, xdist could wait for ever for its tests (pytest-xdist#1378).
PARALLEL := -n 5 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
# A `$` in NAME=value on our command line is a part of the value, as for any other program.
$(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(eval override export $(name) := $$(value $(name)))))
# With it, each of the many processes of the tests compiles all sources anew, which takes a tenth of the time of `make test`.
unexport PYTHONDONTWRITEBYTECODE
# With these pip would install elsewhere than into .venv, or not at all.
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_DRY_RUN
# In .env as the settings read it: in any case, after `export` or a byte order mark, in quotes, with spaces, as a default.
IS_OPENSTACK := LC_ALL=C grep -isqE "^[^!-~]*(export[[:space:]]+)?'?COMPUTE_BACKEND'?[[:space:]]*=[^\#]*openstack" .env
BACKEND := $(or $(COMPUTE_BACKEND),$(compute_backend),$(shell $(IS_OPENSTACK) && echo openstack))
# These tests have targets of their own, and `make slices` runs a part of each.
SLOWER := tests/races tests/faults tests/clients
# `make check` runs these: they read files.
CHECKED := tests/meta/test_code.py tests/meta/test_docs.py tests/meta/test_env_example.py
SOURCES := api workflows activities domain vmctl worker.py local.py migrations tests bench

.PHONY: up test rewritten test-openstack coverage races soak faults slices clients fuzz mutants bench bench-short check format lock sbom audit compose-upgrade clean

up: .venv/vmctl $(if $(filter openstack,$(BACKEND)),.venv/openstack)  ## Run the whole service on this machine until Ctrl-C
	@exec .venv/bin/python -E local.py

test: .venv/dev  ## Check, then run every test but those that have a target of their own
	@$(MAKE) --no-print-directory --jobs 2 check rewritten
	.venv/bin/python -m pytest $(PARALLEL) $(addprefix --ignore ,$(SLOWER) $(CHECKED))

# pytest rewrites the asserts of a test file once. Test processes that start at the same time would each do it anew.
rewritten: .venv/dev
	@.venv/bin/python -m pytest --collect-only -qq $(addprefix --ignore ,$(SLOWER)) > /dev/null || true

test-openstack: .venv/dev  ## Run the tests of a real OpenStack: on OS_CLOUD, or on a cloud of its own that it starts and stops
	.venv/bin/python -m tests.openstack

coverage: .venv/dev  ## Run every test and report which lines and branches they reach (slower)
	.venv/bin/python -m pytest $(PARALLEL) --cov --cov-report=term-missing:skip-covered

races: .venv/dev  ## Run fifty of every race that ends a resize, and of every pair of requests for one resource (about ten minutes)
	RACES=50 .venv/bin/python -m pytest tests/races/test_resize_races.py tests/races/test_pairs.py

soak: .venv/dev  ## Run random requests in any order, compared with a model (about a quarter of an hour)
	SOAK=80 .venv/bin/python -m pytest -s tests/races/test_random_requests.py

faults: .venv/dev  ## Run a hundred schedules of faults on real processes, a thousand in one process, and every failpoint
	SCHEDULES=100 INPROCESS=1000 FAILPOINTS=all .venv/bin/python -m pytest -s tests/faults

slices: .venv/dev  ## Run a slice of races, soak, faults and clients, and kills and outages of each process (some minutes; CI does it, too)
	.venv/bin/python -m pytest $(PARALLEL) $(SLOWER)

clients: .venv/dev  ## Lint the OpenAPI document, make and run clients for Python and TypeScript, run a real identity provider (needs npm)
	npm --prefix tests/clients/typescript ci
	npm --prefix tests/clients/oidc ci
	.venv/bin/python -m pytest tests/clients

fuzz: .venv/dev  ## Send generated requests to every endpoint for FUZZ seconds (a quarter of an hour), drawn by SEED
	FUZZ=$(or $(FUZZ),900) .venv/bin/python -m pytest -s tests/contract/test_schemathesis.py

mutants: .venv/dev  ## Put MUTANTS small mistakes into the rules, drawn by SEED, and print those that no fast test notices (half a minute each, a survivor some minutes)
	.venv/bin/python -m tests.mutants

bench: .venv/dev  ## Measure requests and operations beside their floors, and write docs/performance.md (a quarter of an hour; needs wrk)
	.venv/bin/python -m bench $(ROUNDS)

bench-short: .venv/dev  ## Fail if a request costs over a third more than recorded, compared with its floor (about a minute)
	.venv/bin/python -m bench.short

check: .venv/dev  ## Check lint, formatting, types, import rules, lengths, documents, and that no client of the last release breaks
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --strict $(SOURCES)
	.venv/bin/lint-imports
	.venv/bin/python -m domain.rules.diagram --check
	.venv/bin/python -m api.web.problem_document --check
	.venv/bin/python -m tests.contract.compatibility
	.venv/bin/python -m pytest -q $(CHECKED)

format: .venv/dev  ## Fix lint and formatting
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# Each target below is a stamp file, touched only after a successful install: an interrupted install is repeated.
.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or newer is needed and '$(PYTHON)' is not: try make PYTHON=python3.13 up" >&2; exit 1; }
	@echo "Preparing .venv (first run, about a minute)"
	@$(ALONE) 'test -e $@ || { $(PYTHON) -m venv --clear .venv && touch $@; }'

# `make up` and `make test` may start at the same time, so a lock on this file lets only one of them prepare .venv.
# Under root, PostgreSQL runs as another user; the umask lets that user read its programs.
ALONE = $(PYTHON) -c 'import fcntl, os, subprocess as s, sys; os.umask(0o022); lock = open("Makefile"); \
	fcntl.flock(lock, fcntl.LOCK_EX); sys.exit(s.call(["sh", "-c", sys.argv[1]]))'
# Python compiles what is used when it is first imported, which takes half the time of compiling everything here.
INSTALL = $(ALONE) '.venv/bin/python -E -m pip install -qq --disable-pip-version-check --no-user --no-compile --require-hashes -r $< && touch $@'

.venv/local: requirements-local.txt .venv/created
	@$(INSTALL)

.venv/openstack: requirements-openstack.txt .venv/local
	@$(INSTALL)

# The command `vmctl`. It is the code of this checkout, not a copy.
.venv/vmctl: pyproject.toml .venv/local
	@$(ALONE) '.venv/bin/python -E -m pip install -qq --disable-pip-version-check --no-user --no-deps --no-build-isolation \
		--editable . && touch $@'

.venv/dev: requirements-dev.txt .venv/vmctl
	@$(INSTALL)

# Versions in the lock files are kept; make lock LOCK_FLAGS=--upgrade renews them.
# The largest set is resolved first and constrains the others, so that all files agree. requirements-openstack.txt is
# requirements.txt with what the OpenStack backend needs. It is installed instead of that or beside requirements-local.txt.
COMPILE = "$$venv/bin/uv" --quiet pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-strip-extras --custom-compile-command "make lock" $(LOCK_FLAGS)

lock:  ## Write the lock files anew
	@venv=$$(mktemp -d) && trap 'rm -rf "$$venv"' EXIT && \
	$(PYTHON) -m venv "$$venv" && "$$venv/bin/python" -m pip install -qq --disable-pip-version-check uv && \
	$(COMPILE) --extra local --extra vmctl --extra openstack --extra dev --output-file requirements-dev.txt && \
	$(COMPILE) --extra local --extra vmctl --constraint requirements-dev.txt --output-file requirements-local.txt && \
	$(COMPILE) --extra openstack --constraint requirements-dev.txt --output-file requirements-openstack.txt && \
	$(COMPILE) --constraint requirements-dev.txt --output-file requirements.txt
	@! grep -nE 'https?://|file:|find-links|index-url' requirements*.txt

# These tools run on demand, in an environment of their own, so that what we ship and test with does not depend on them.
TOOL = venv=$$(mktemp -d) && trap 'rm -rf "$$venv"' EXIT && $(PYTHON) -m venv "$$venv" && \
	{ "$$venv/bin/python" -m pip install -qq --disable-pip-version-check

sbom:  ## Write sbom.json: the packages of the lock file LOCK (requirements.txt), as CycloneDX
	@$(TOOL) 'cyclonedx-bom>=7.5' || { echo "cyclonedx-bom could not be installed" >&2; exit 1; }; } && \
	"$$venv/bin/python" -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file sbom.json $(or $(LOCK),requirements.txt) && echo "Wrote sbom.json"

# The lock file of the largest set has all packages of the others. A database that cannot be reached is a failure, too.
audit:  ## Look for known vulnerabilities of all locked packages (asks api.osv.dev)
	@$(TOOL) 'pip-audit>=2.10' || { echo "Nothing was checked: pip-audit could not be installed" >&2; exit 1; }; } && \
	if "$$venv/bin/pip-audit" --requirement requirements-dev.txt --require-hashes --disable-pip --vulnerability-service osv \
		--progress-spinner off 2> "$$venv/log"; then cat "$$venv/log"; exit; fi; \
	if grep -q '^Traceback' "$$venv/log"; then echo "Nothing was checked: $$(tail -n 1 "$$venv/log" | cut -c 1-200)" >&2; \
	else cat "$$venv/log" >&2; fi; exit 1

compose-upgrade:  ## Upgrade the Docker Compose installation to this checkout; an API process is away for about three seconds
	docker compose build
	@# The old version goes on serving while these run, and if one fails. `up` alone would have stopped it before.
	docker compose run --rm --no-deps settings
	docker compose run --rm --no-deps migrate
	docker compose up --detach --no-deps --wait api-more
	docker compose up --detach --no-deps --wait api
	docker compose up --detach --no-deps --wait worker
	@# Renews the containers of the jobs. Otherwise the next `up` would do it, and stop the API for it.
	docker compose up --detach migrate

clean:  ## Remove the environment and the caches, but not .data (databases, logins, logs)
	rm -rf .venv .coverage htmlcov .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
