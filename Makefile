# The one door. Every target sets up what it needs: Python >= 3.11 and make are enough.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
BENCH  := $(VENV)/.bench
ARGS   ?=
SECONDS ?= 60
TIMES  ?= 20
SEED   ?=

.PHONY: demo test chaos chaos-celery sim fuzz parity check up bench failover isolation scale clean help

help:
	@echo "make demo    watch a scheduled job run once while its worker, beat and store leader are killed"
	@echo "             (ARGS=--exit plays the scene by itself and says whether it held)"
	@echo "make test    run the tests (ARGS=tests/raft for a part)"
	@echo "make chaos   store nodes killed, stopped, cut off and replaced under load, and judged by what clients were told"
	@echo "             (SECONDS=600 for longer; ARGS=--seed=N repeats the faults of a run)"
	@echo "make chaos-celery"
	@echo "             beats and workers of two hosts killed, stopped and sent the same messages again, their broker and store as well;"
	@echo "             a fenced outbox says that each effect happened once (SECONDS, ARGS=--seed=N as above)"
	@echo "make sim     simulate clusters in trouble for SECONDS=60, and count histories per minute (SEED=N replays one)"
	@echo "make fuzz    garbage for every decoder, for SECONDS=60, each round other garbage (SEED=N repeats a round)"
	@echo "make parity  more generated requests to ours and to a real etcd (TIMES=20 as many as in make test; SEED=N for others)"
	@echo "make check   formatting, lint and types"
	@echo "make up      the whole system on this machine, by the Procfile"
	@echo "make bench   ours beside a real etcd, other locks and plain Celery: writes benchmarks/RESULTS.md in about 25 minutes"
	@echo "             (ARGS=\"--only put --rounds 3\" for a part; nothing is written then)"
	@echo "make failover"
	@echo "             how long nobody is served when the leader dies, hangs, is cut off or stops, beside a real etcd"
	@echo "make isolation"
	@echo "             what puts cost while another client hangs, asks for 100,000 keys or sends half a request"
	@echo "make scale   a node with a million keys: its start, its memory, and another that catches up with it"
	@echo "             (ARGS=\"--revisions 10000000 --folder DIR\" gives it a past, and keeps the file)"

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): jobguard with its extras, a broker and the test tools (about half a minute, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jobguard needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@
	@echo "Ready"

$(BENCH): $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
	@touch $@

demo: $(READY)
	@$(BIN)/jobguard demo $(ARGS)

test: $(READY)
	@$(BIN)/python -m tests.debian
	@echo "Running the tests (about a quarter of an hour: real nodes, workers and brokers are started and killed)"
	@# Bytecode is kept, whatever the shell says: each of hundreds of processes would compile our code again.
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: $(READY)
	@$(BIN)/python -m tests.processes.chaos --seconds $(SECONDS) $(ARGS)

chaos-celery: $(READY)
	@$(BIN)/python -m tests.plugin.ledger --seconds $(SECONDS) $(ARGS)

sim: $(READY)
	@$(BIN)/python -m tests.simulation --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

fuzz: $(READY)
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

parity: $(READY)
	@JOBGUARD_TEST_FACTOR=$(TIMES) $(if $(SEED),JOBGUARD_TEST_SEED=$(SEED)) $(BIN)/python -m pytest tests/parity/test_generated.py tests/parity/test_concurrent.py tests/parity/test_streams.py --timeout 0 $(ARGS)

check: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

up: $(READY)
	@mkdir -p .demo
	@PYTHONUNBUFFERED=1 $(BIN)/honcho start

bench: $(BENCH)
	@command -v wrk >/dev/null || apt-get install -qq -y wrk || sudo -n apt-get install -qq -y wrk \
		|| { echo "wrk, which makes the load, is missing and could not be installed: apt-get install wrk"; exit 1; }
	@$(BIN)/python -m benchmarks $(ARGS)

failover: $(READY)
	@$(BIN)/python -m benchmarks.failover $(ARGS)

isolation: $(READY)
	@$(BIN)/python -m benchmarks.isolation $(ARGS)

scale: $(READY)
	@$(BIN)/python -m benchmarks.scale $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
