# `make demo` and `make test` need Python 3.10 or newer and nothing else; the rest they install.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
OLDEST := $(VENV)-oldest

.PHONY: demo test oldest bench gpu docs install clean

# What `make bench` measures on: labelled photographs, a trunk's weights, a model trained on them.
DATA ?= ../shared/voc2007-mini/VOCdevkit/VOC2007
WEIGHTS ?= ../shared/weights/resnet18_conv1_layer3.safetensors
RUN ?= runs/bench
# In how many processes of one thread the tests run, a module's in one of them.
JOBS ?= 2
BENCH := results/benchmarks

demo: install
	$(BIN)/spp-detect demo --out runs/demo

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) \
		--dist loadscope --no-loadscope-reorder --durations 25

# The oldest versions that setup.cfg admits, in an environment of their own.
oldest:
	$(PYTHON) -m venv --clear $(OLDEST)
	sed -n 's/^    \([a-z-]*\)>=\([0-9.]*\)$$/\1==\2.*/p' setup.cfg > $(OLDEST)/versions.txt
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/versions.txt \
		--editable . pytest pytest-timeout pytest-xdist hypothesis
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest --numprocesses $(JOBS) \
		--dist loadscope --no-loadscope-reorder

docs: install
	$(BIN)/sphinx-build -W --keep-going -q docs runs/docs

bench: install $(RUN)/metrics.json
	$(BIN)/python benchmarks/window_pooling.py --out $(BENCH)/window_pooling.json
	$(BIN)/python benchmarks/batching.py --out $(BENCH)/batching.json
	$(BIN)/python benchmarks/normalisation.py --out $(BENCH)/normalisation.json
	$(BIN)/python benchmarks/nms.py --out $(BENCH)/nms.json
	$(BIN)/python benchmarks/svm_solver.py --out $(BENCH)/svm_solver.json
	$(BIN)/python benchmarks/selective_search.py $(DATA) --out $(BENCH)/selective_search.json
	$(BIN)/python benchmarks/finetuning.py $(DATA) $(WEIGHTS) --out $(BENCH)/finetuning.json
	$(BIN)/python benchmarks/pretraining.py $(DATA) --split train --out $(BENCH)/pretraining.json
	$(BIN)/python benchmarks/detection.py $(RUN) $(DATA) --out $(BENCH)/detection.json
	$(BIN)/python benchmarks/beside_other_work.py $(RUN) $(DATA) --out $(BENCH)/beside_other_work.json
	$(BIN)/spp-detect benchmark $(RUN) $(DATA) --images 5 --out $(BENCH)/rcnn

# With the Python that has torch on that machine: nothing of torch is installed or replaced.
gpu:
	$(PYTHON) benchmarks/on_gpu.py $(DATA) $(WEIGHTS) --out results/gpu

$(RUN)/metrics.json: | install
	$(BIN)/spp-detect train $(DATA) --weights $(WEIGHTS) --out $(RUN) \
		$(if $(wildcard $(RUN)/*),--resume)

install: $(INSTALLED)

# One step, marked at its end: an interrupted installation is begun anew.
$(INSTALLED): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) $(OLDEST) runs/demo runs/docs build *.egg-info
