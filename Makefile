SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup demo compare test test-long test-fast coverage lint typecheck format wheel bench attacks docs lock doctor clean

# What `make demo` runs; `make demo SEED=1` is another seed, `make demo ARM=absorb` another arm.
ARM ?= router
PRESET ?= nano
SEED ?= 0
# What `make compare` runs.
ARMS ?= none absorb absorb_whole router frozen random random_matched
SEEDS ?= 0 1 2

bin := .venv/bin
evil_moe := $(bin)/evil-moe
run := arm=$(ARM) preset=$(PRESET) seed=$(SEED)

help: ## List what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | while IFS='|' read -r name what; do printf '  make %-10s %s\n' "$$name" "$$what"; done

setup: ## Make .venv at the locked versions (CPU); instant when it is there
	@scripts/setup.sh

demo: setup ## Train, evaluate and report one nano run on the CPU; stops and resumes at any point
	@$(evil_moe) train $(run)
	@$(evil_moe) eval --reuse $(run)
	@$(evil_moe) report $(run)

comma := ,
compare: setup ## Train and evaluate all five arms on three seeds, then one report over all of them (two hours)
	@$(evil_moe) compare preset=$(PRESET) "arms=[$(subst $() ,$(comma),$(strip $(ARMS)))]" "seeds=[$(subst $() ,$(comma),$(strip $(SEEDS)))]"

test: setup ## Run all tests that need no GPU, real verl, Ray and vLLM runs among them (about 20 minutes)
	@$(bin)/python -m pytest -n 2 --dist loadgroup -m "not gpu and not long"

test-long: setup ## Run what `make test` leaves out: every graded reference case, a real run of every arm (two hours)
	@$(bin)/python -m pytest -m long

test-fast: setup ## Run the tests that start neither Ray nor vLLM
	@$(bin)/python -m pytest -m "not slow and not gpu and not long"

coverage: setup ## Run those tests and see that they run enough of evil_moe/ and reward/
	@$(bin)/python -m pytest -n 2 --dist loadgroup -m "not slow and not gpu and not long" --cov --cov-report=term

lint: setup typecheck ## Check style, format and types
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .

typecheck: setup ## Check the types, strictly in evil_moe/ and reward/
	@$(bin)/mypy

format: setup ## Format the code and mend what ruff can mend
	@$(bin)/ruff format .
	@$(bin)/ruff check --fix .

bench: setup ## Measure the hot paths: sandbox, adapter, LoRA of the rollout, gradients, rows of a micro-batch
	@for script in scripts/bench/*.py; do echo "== $$script"; $(bin)/python $$script || exit 1; done

attacks: setup ## Print what each family of attacks on the grader gained and harmed
	@PYTHONPATH=. $(bin)/python scripts/attack_table.py

docs: setup ## Build the documentation in site/, its links checked
	@$(bin)/pip install --quiet --no-deps --disable-pip-version-check -r requirements/docs.lock
	@$(bin)/python scripts/site/build.py
	@NO_MKDOCS_2_WARNING=1 $(bin)/python -m mkdocs build --strict --quiet && echo "docs: site/index.html"

wheel: setup ## Build the wheel in dist/
	@rm -rf build *.egg-info # a module that is gone would be in the wheel still
	@$(bin)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . && ls dist/*.whl

lock: setup ## Compile requirements/cpu.lock and docs.lock anew
	@scripts/lock.sh

doctor: setup ## Check this machine against a preset, and plan the memory: make doctor PRESET=qwen3_4b_1x96gb
	@$(evil_moe) doctor $(run)

clean: ## Remove .venv, caches and build files; runs/ stays
	@rm -rf .venv build dist cache site *.egg-info .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +
	@if [ -d runs ]; then echo "runs/ is left as it is ($$(du -sh runs | cut -f1)); remove it yourself if you want it gone"; fi
