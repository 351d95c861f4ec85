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

# Every test of other versions than those of constraints.txt that needs no GPU and no network.
OTHERS = -m pytest -m "not gpu and not network" --ignore tests/test_versions.py

# The newest of everything that pyproject.toml allows, in a virtual environment of its own; a warning is an error.
test-latest:
	python -m venv --clear .venv-latest
	.venv-latest/bin/python -m pip install -q -e ".[dev,quickstart]"
	PATH="$(CURDIR)/.venv-latest/bin:$$PATH" .venv-latest/bin/python $(OTHERS) -W error

# The same, and what passed becomes constraints.txt.
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
	.venv-lowest/bin/uv pip compile -q --resolution lowest-direct --extra dev --extra quickstart pyproject.toml \
		-o .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install -q -r .venv-lowest/lowest.txt -e ".[dev,quickstart]"
	PATH="$(CURDIR)/.venv-lowest/bin:$$PATH" .venv-lowest/bin/python $(OTHERS)
