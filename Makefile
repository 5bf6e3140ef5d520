# make demo       install what the Space needs and open it at http://127.0.0.1:7860 (PORT=8000 for another port)
# make test       install everything, then lint, type check and test (about 12 minutes on two cores)
# make test-all   the same with the slow tests
# Every target makes .venv where it is missing and installs only when the lists of packages changed.
PYTHON ?= python3
PORT ?= 7860
HOST = 127.0.0.1

PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST = OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -4

demo: .venv/demo.stamp
	GRADIO_SERVER_NAME=$(HOST) GRADIO_SERVER_PORT=$(PORT) .venv/bin/python app.py

test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	$(PYTEST)

lint: .venv/test.stamp
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: requirements.txt constraints.txt | .venv/bin/pip
	@echo "Installing what the Space needs into .venv (a few minutes the first time) ..."
	$(PIP) -r requirements.txt
	@touch $@

.venv/test.stamp: pyproject.toml requirements.txt constraints.txt | .venv/bin/pip
	@echo "Installing everything into .venv (a few minutes the first time) ..."
	$(PIP) -e ".[train,test]"
	@touch $@
