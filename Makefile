.PHONY: setup check test format test-latest test-lowest upgrade

setup:
	python -m pip install -c constraints.txt -e ".[dev,quickstart]"

check:
	ruff format --check .
	ruff check .
	pyright
	lint-imports

test:
	python -m pytest

format:
	ruff format .
	ruff check --fix .

# All tests that need no GPU and no network, for other versions than those of constraints.txt.
ALL_TESTS = -m pytest -m "not gpu and not network" --timeout 900 --ignore tests/test_versions.py

# The newest of everything that pyproject.toml allows, in a virtual environment of its own; a warning is an error.
test-latest:
	python -m venv --clear .venv-latest
	.venv-latest/bin/python -m pip install -q -e ".[dev,quickstart]"
	PATH="$(CURDIR)/.venv-latest/bin:$$PATH" .venv-latest/bin/python $(ALL_TESTS) -W error

# Run test-latest, then write its versions to constraints.txt.
upgrade: test-latest
	{ echo "# Versions that pass all tests together; written by 'make upgrade'. Of torch it names no build, so that CPU and"; \
	  echo "# CUDA builds both fit; each build pins its own CUDA packages."; \
	  .venv-latest/bin/python -m pip freeze --all --exclude-editable --exclude pip \
	  | sed 's/+[a-z0-9.]*$$//' | grep -vE '^(nvidia|cuda|triton|rankers)'; } > .constraints.txt
	mv .constraints.txt constraints.txt

# The lowest version of everything that pyproject.toml names.
test-lowest:
	python -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install -q uv
	.venv-lowest/bin/uv pip compile -q --python .venv-lowest/bin/python --resolution lowest-direct --extra dev --extra quickstart pyproject.toml \
		-o .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install -q -r .venv-lowest/lowest.txt -e ".[dev,quickstart]"
	PATH="$(CURDIR)/.venv-lowest/bin:$$PATH" .venv-lowest/bin/python $(ALL_TESTS)
