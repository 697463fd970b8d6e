# Thin: every target is a Python command that works without make. bash, Linux and macOS.
PYTHON ?= python3

.PHONY: demo test bench lint demo-model

demo:
	$(PYTHON) scripts/demo.py

test:
	$(PYTHON) scripts/test.py

# Speed, memory and accuracy on this machine; have nothing else running.
bench:
	$(PYTHON) scripts/bench.py

lint:
	$(PYTHON) scripts/test.py --lint

# The demo model from nothing: corpus, three trainings, evaluation, in a budget of 90 minutes.
demo-model:
	$(PYTHON) scripts/train_demo.py --install
