# Thin: every target is a Python command that works without make. bash, Linux and macOS.
PYTHON ?= python3

.PHONY: demo test lint

demo:
	$(PYTHON) scripts/demo.py

test:
	$(PYTHON) scripts/test.py

lint:
	$(PYTHON) scripts/test.py --lint
