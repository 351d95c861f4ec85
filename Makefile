.PHONY: setup check test format

setup:
	python -m pip install -e ".[dev,quickstart]"

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
