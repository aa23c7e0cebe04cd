# `make` sets everything up and runs the pipeline; `make test` passes the tests. README says the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONDONTWRITEBYTECODE := 1

STAGES := ingest select filter annotate caption base cache-latents train merge references generate-base generate-merged evaluate-CCIP report
NAME ?= sample

.PHONY: all setup setup-remotes run $(STAGES) recipe plan fetch inputs recipe-lock check test test-all lint format fingerprint verify verify-recipe verify-cpu attest check-model change remote \
	sample sample-models ccip taggers cost plots lock clean

all: run

setup: $(READY)

$(READY): requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@

setup-remotes: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-remotes.lock

# Validates params.yaml before any work: a stage that need not run would not notice a typing error.
check: $(READY)
	@python stages/check_params.py
	@python stages/mend_dvc.py

run: check
	dvc repro

$(STAGES): check
	dvc repro $@

recipe: $(READY)
	@python stages/put_recipe.py $(NAME)

# What the run in place would be, before any data is there; RATE is images a second, where they are known.
plan: $(READY)
	@python stages/plan_run.py $(if $(RATE),--images-per-second $(RATE))

# All that the recipe in place reads and the repository does not hold; only these targets reach the network.
fetch: $(READY)
	@failed=0; for what in inputs ccip taggers; do python stages/fetch_$$what.py || failed=1; done; exit $$failed

inputs: $(READY)
	@python stages/fetch_inputs.py

# Runs a recipe in a clone of its own, beside the run in place, and renews the lock file that is committed for it.
recipe-lock: $(READY)
	python stages/run_recipe.py $(NAME)

# One worker a core; the tests of a file share what it makes once.
test: $(READY)
	python -m pytest -m "not slow" -n auto --dist loadfile

test-all: $(READY)
	python -m pytest

lint: $(READY)
	ruff check .
	ruff format --check .

format: $(READY)
	ruff check --fix .
	ruff format .

fingerprint: $(READY)
	python stages/fingerprint.py

verify: $(READY)
	python stages/verify_clone.py

verify-recipe: $(READY)
	python stages/verify_clone.py --recipe $(NAME)

verify-cpu: $(READY)
	python stages/verify_cpu.py

# What made the finished model, in one JSON; and whether FILE is the model of an ATTESTATION.
attest: $(READY)
	@python stages/attest_model.py

check-model: $(READY)
	@python stages/check_model.py "$(FILE)" "$(ATTESTATION)"

# What a change did to the run, as Markdown, against the run committed at BASE.
BASE ?= origin/main
change: $(READY)
	@python stages/report_change.py $(BASE)

# Where DVC keeps what the stages made for other machines: s3://bucket/path (ENDPOINT=... for what is not Amazon's),
# ssh://host/path, or a folder. Kept in .dvc/config.local, which is not committed.
remote: setup-remotes
	dvc remote add --local --default --force storage $(URL)
	dvc remote modify --local storage verify true
	$(if $(ENDPOINT),dvc remote modify --local storage endpointurl $(ENDPOINT))

# Frozen stages' commands as dvc.yaml has them, run directly: of a frozen stage `dvc repro --force` only checks the outputs.
frozen_command = $$(python -c 'import yaml; print(yaml.safe_load(open("dvc.yaml"))["stages"]["$(1)"]["cmd"])')

sample: $(READY)
	sh -c "$(call frozen_command,sample-data)"
	git diff --stat --exit-code -- data/sample

sample-models: $(READY)
	sh -c "$(call frozen_command,sample-ccip)"
	sh -c "$(call frozen_command,sample-taggers)"
	sh -c "$(call frozen_command,sample-base)"
	sh -c "$(call frozen_command,sample-cascade-base)"
	git diff --stat --exit-code -- models/sample-base models/sample-cascade-base models/sample-ccip models/sample-taggers

# The CCIP encoder that evaluate.ccip names.
ccip: $(READY)
	python stages/fetch_ccip.py

# The models that annotate names.
taggers: $(READY)
	python stages/fetch_taggers.py

# What training and the other long stages took on this machine, ready for report.cost.
cost: $(READY)
	python stages/show_cost.py

plots: $(READY)
	dvc plots show -o reports/plots

# Renews the pins: all that pyproject.toml asks for, resolved in a fresh environment. torch brings its own CUDA packages
# where its build has them, so they are not pinned here and no line names a build.
lock:
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  extras = p["optional-dependencies"]; \
	  print("\n".join(p["dependencies"] + extras["sample"] + extras["dev"])); \
	  open("$(VENV)-lock/remotes", "w").write("\n".join(extras["remotes"]))' > $(VENV)-lock/wanted
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check -r $(VENV)-lock/wanted
	echo '# Made by `make lock` from pyproject.toml.' > requirements.lock
	$(VENV)-lock/bin/python -m pip freeze | sed 's/+cpu$$//' | grep -v -E '^(nvidia|cuda|triton)' >> requirements.lock
	$(VENV)-lock/bin/python -m pip freeze > $(VENV)-lock/before
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check -c $(VENV)-lock/before -r $(VENV)-lock/remotes
	echo "# Made by \`make lock\` from pyproject.toml: what DVC's S3 and SSH remotes and their tests need beside requirements.lock." \
	  > requirements-remotes.lock
	$(VENV)-lock/bin/python -m pip freeze | grep -v -x -F -f $(VENV)-lock/before >> requirements-remotes.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf state
