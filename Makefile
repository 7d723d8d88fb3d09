# Two commands are all the set-up: `make demo` installs and runs the demo, `make test` installs and passes the tests.
PYTHON ?= python3
BIN := .venv/bin
# Some more workers than processors (tests/conftest.py); a worker without tests takes some of another's.
TESTS := $(BIN)/python -m pytest -n auto --dist worksteal
# Of full scale, for `make long`; 0.01 takes minutes instead of hours.
SHARE ?= 1
# apsw; cbor2; PyNaCl; zeroconf; uvloop and all of them together; rich, segno and h11.
SAMPLE := tests/sync/capture tests/sync/merge tests/sync/storage tests/sync/sqlite \
  tests/sync/test_codec.py tests/sync/wire tests/mesh/test_wire.py tests/mesh/test_messages.py \
  tests/mesh/session tests/mesh/membership tests/mesh/io \
  tests/mesh/node/test_daemon.py tests/integration/test_two_machines.py tests/tools/test_demo.py \
  tests/tools/test_views.py tests/tools/top tests/tools/web/test_http.py \
  --ignore tests/mesh/io/test_nats_links.py

.PHONY: demo quick test static check lowest long bench sim crash soak dist install clean web
demo: .venv/core
	$(BIN)/mycomesh demo
# For all day: no real processes and no slow tests, and of each other test the first row of parameters. Within a minute on two cores.
quick: .venv/dev
	MYCOMESH_TEST_QUICK=1 $(TESTS)
test: .venv/dev
	$(TESTS)
static: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.rooms
check: static test
# A sample of the tests with the lowest version of each dependency, and without what is compiled: every test of a room that calls one of them,
# with two rows of parameters but where the rows are messages and vectors. Some minutes.
lowest: .venv-lowest/done
	MYCOMESH_PURE=1 MYCOMESH_TEST_ROWS=2 .venv-lowest/bin/python -m pytest -n auto --dist worksteal $(SAMPLE)
# Sweeps, fuzzing, crash points and kill rounds at full scale: hours. Results go to docs/bench/long.md.
long: .venv/dev
	$(BIN)/python -m tests.long --share $(SHARE)
bench: .venv/core
	$(BIN)/python -m tools.bench --compare docs/bench/history.jsonl
# Larger than what the tests run: 24 nodes through the splits, some minutes on two cores.
sim: .venv/core
	$(BIN)/mycomesh simulate split-brain --nodes 24 --seeds 1..4 --jobs 2
# The node goes on from every crash point of the recorded lives; in the tests once from each file that SQLite recovers. Some minutes.
crash: .venv/dev
	MYCOMESH_TEST_SCALE=8 $(BIN)/python -m pytest tests/stories/test_crash.py -rP --timeout 900
# Real machines in bad weather, drawn at random each time; some minutes.
soak: .venv/dev
	MYCOMESH_TEST_SCALE=20 $(BIN)/python -m pytest tests/integration/test_soak.py -rP
# A tarball and a .deb that bring their own Python, into dist/.
# It is built from the wheels in .ci/release.txt, each known by its hash; `python -m tools.release.lock` brings that list up to date.
dist:
	$(PYTHON) -m venv --clear .venv-release
	.venv-release/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r .ci/release.txt
	.venv-release/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	.venv-release/bin/python -m tools.release
install: .venv/core
# The page of the web console, from tools/web/page and what npm brings by its lock file. The build of a wheel does this too.
web:
	$(PYTHON) -m tools.release.page
clean:
	rm -rf .venv .venv-lowest .venv-release .venv-taky .web tools/web/static

.venv/core: pyproject.toml
	@command -v uv >/dev/null && uv venv -q --seed --allow-existing .venv || $(PYTHON) -m venv .venv
	@command -v uv >/dev/null && uv pip install -q -p .venv -e '.[web]' || $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[web]'
	@touch $@
.venv/dev: .venv/core
	@command -v uv >/dev/null && uv pip install -q -p .venv -e '.[dev]' || $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@
# A TAK server that the tests connect to. It has an environment of its own, because it installs a package named tests.
.venv-taky/done:
	$(PYTHON) -m venv --clear .venv-taky
	.venv-taky/bin/python -m pip install -q --disable-pip-version-check taky==0.10 'setuptools<81'
	@touch $@
.venv-lowest/done: pyproject.toml .ci/lowest.txt
	$(PYTHON) -m venv --clear .venv-lowest
	PIP_CONSTRAINT=.ci/lowest.txt .venv-lowest/bin/python -m pip install -q --disable-pip-version-check -e . -r .ci/lowest.txt
	@touch $@
