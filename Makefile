# On a fresh machine, `make run` and `make test` do all the set-up.
PYTHON ?= python3
BIN := .venv/bin
UV := $(shell command -v uv || echo .uv/bin/uv)
SMALL := test_resnet test_vit

.PHONY: run test test-long test-slurm check bench install constraints
install: .venv/installed

# uv resolves in seconds and, unlike pip, can override the pins of mmpose that cannot be met.
.venv/installed: pyproject.toml constraints.txt
	@test -x "$(UV)" || $(PYTHON) -m pip install --quiet --target .uv uv
	$(UV) venv --quiet --clear --python $(PYTHON) .venv
	MMCV_WITH_OPS=0 $(UV) pip install --python $(BIN)/python --requirements pyproject.toml --group dev --constraints constraints.txt
	@touch $@

# The embedded world, timm's smallest ResNet and ViT fine-tuned from scratch in every family, then the
# leaderboard.
run: install
	$(BIN)/python -m bench.run --backbone $(SMALL) --task all
	$(BIN)/python -m leaderboards.render --results results --out runs/leaderboard --print

# Everything that guards a promise and takes no minutes. One thread a process: two processes fill two cores.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not long"

# Kill and resume, two ranks, overfitting, real weights, a real browser, fuzzing.
test-long: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m long

# On the machine's Slurm, or a private one (docs/cluster.md); fails where there is neither.
test-slurm: install
	OMP_NUM_THREADS=1 BENCH_TEST_SLURM=1 $(BIN)/python -m pytest --numprocesses 6 tests/slurm

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_imports.py
	$(BIN)/python -m leaderboards.render --check --extract README.md

# Paired timings: command line, training step, COCO's metric, loading of weights, frozen features, analyses,
# tracking, a step of pretraining. Then ten thousand runs, a hundred thousand records, a data set of 1.3 million
# files, and what one gets without looking.
bench: install
	PYTHONPATH=. $(BIN)/python benchmarks/start_up.py
	PYTHONPATH=. $(BIN)/python benchmarks/step_time.py
	PYTHONPATH=. $(BIN)/python benchmarks/coco_evaluation.py
	PYTHONPATH=. $(BIN)/python benchmarks/checkpoint_loading.py
	PYTHONPATH=. $(BIN)/python benchmarks/frozen_features.py
	PYTHONPATH=. $(BIN)/python benchmarks/analyses.py
	PYTHONPATH=. $(BIN)/python benchmarks/tracking_speed.py
	PYTHONPATH=. $(BIN)/python benchmarks/pretraining.py
	PYTHONPATH=. $(BIN)/python benchmarks/cluster_scale.py
	PYTHONPATH=. $(BIN)/python benchmarks/leaderboard_scale.py
	PYTHONPATH=. $(BIN)/python benchmarks/dataset_check.py
	PYTHONPATH=. $(BIN)/python benchmarks/constant_predictors.py

# Exact versions for Python 3.10 to 3.12, without any address.
constraints: install
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.10 --no-annotate --no-header --group dev --output-file constraints.txt pyproject.toml
