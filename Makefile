# Each target is a thin call: the work, and what it does, is in scripts/dev.py.
PYTHON ?= python3
.DEFAULT_GOAL := help
TARGETS := help run test test-faults test-deploy test-all coverage fuzz check generate bench bench-usage bench-mixed bench-models bench-engines chaos rows cluster test-cluster pictures setup train-demo report-demo lock

.PHONY: $(TARGETS)
$(TARGETS):
	@$(PYTHON) scripts/dev.py $@ $(ARGS)
