# `make up` and `make test` are all a visitor needs. `make help` lists the rest.
PYTHON ?= python3
RUN := .venv/bin
PORT_BASE ?=
DETACH ?=
REPLICAS ?=
BACKEND ?=
SERVERS ?=
FLEET := memory,s3
STAGES ?=

.DEFAULT_GOAL := help
.PHONY: help up down test fmt proto lock bench test-storage test-spark chaos fleet chaos-stores infra-static infra-test pulumi-test clean server-set dev-set weed-set

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: server-set $(if $(filter-out 0,$(SERVERS)),$(if $(filter s3,$(or $(BACKEND),$(MILLRACE_STORAGE_BACKEND))),weed-set)) ## start the five services and the demo; PORT_BASE=7400 moves the ports, DETACH=1 returns; REPLICAS=2 BACKEND=s3 SERVERS=1 starts a fleet
	@exec $(RUN)/millrace up $(if $(PORT_BASE),--port-base $(PORT_BASE)) $(if $(filter-out 0,$(DETACH)),--detach) \
	  $(if $(REPLICAS),--replicas $(REPLICAS)) $(if $(BACKEND),--backend $(BACKEND)) $(if $(filter-out 0,$(SERVERS)),--servers)

down: ## stop what `make up` started
	@if [ -x $(RUN)/millrace ]; then exec $(RUN)/millrace down; else echo "nothing is installed here, so nothing runs"; fi

test: dev-set ## everything: format, lint, types, rules, tests, browser, chaos; STAGES=unit,e2e picks
	@exec $(RUN)/python tools/run_stages.py $(STAGES)

fmt: dev-set ## format, and repair what can be repaired
	@$(RUN)/ruff format . && $(RUN)/ruff check --fix . && $(RUN)/buf format -w protos

proto: dev-set ## write the stubs of protos/ again
	@$(RUN)/python tools/protogen.py && $(RUN)/buf lint

lock: ## resolve requirements/*.in again (needs uv); UPGRADE=1 takes the newest of everything
	@tools/lock.sh $(if $(UPGRADE),--upgrade)

bench: dev-set ## measure against peers (bench/README.md)
	@exec $(RUN)/python -m bench

test-storage: dev-set ## storage's contract suite on one store: BACKEND=memory|local|s3|cassandra|cassandra3
	@exec $(RUN)/python tools/test_storage.py $(BACKEND)

test-spark: dev-set ## Apache Spark reads our table and we read its; fetches Spark into build/spark, wants java and mvn
	@exec $(RUN)/python tools/test_spark.py

chaos: dev-set ## a hundred episodes of kills and faults
	@exec $(RUN)/python -m tests.chaos

chaos-stores: dev-set ## episodes over one store: BACKEND=memory|local|s3|cassandra|cassandra3; goes on where it stopped
	@exec $(RUN)/python -m tests.chaos.stores --backend $(or $(BACKEND),local)

fleet: dev-set ## two replicas over S3: kills, stops, 10,000 versions watched (100,000 in memory); BACKEND=cassandra too
	@FLEET_FULL=1 TEST_BACKENDS=$(or $(BACKEND),$(FLEET)) $(RUN)/python -m pytest tests/integration/fleet -q -s -p no:cacheprovider

infra-static: dev-set ## every overlay of manifests/ and istio/ against schemas and rules, without a cluster: seconds
	@exec $(RUN)/python tools/infra_static.py

pulumi-test: ## the AWS stacks of pulumi/ run without AWS: what they make, the policy pack, IAM; .venv-pulumi is its own
	@$(PYTHON) tools/install.py pulumi && exec .venv-pulumi/bin/python -m pytest -c pulumi/pytest.ini --rootdir . --confcutdir tests/infra/pulumi -q

infra-test: dev-set ## against real parts: Kubernetes' API, Istio, Envoy; builds them once, outside the tree (tools/infra_tools.py)
	@$(RUN)/python tools/infra_tools.py && $(RUN)/python -m pytest tests/infra/real -q -p no:cacheprovider

clean: down ## remove .venv and caches; data (.millrace) stays
	@rm -rf .venv .venv-pulumi build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@[ ! -d .millrace ] || echo "the data stays: remove it with \`rm -r .millrace\`"

server-set dev-set weed-set:
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) here: install Python 3.11, 3.12 or 3.13" >&2; exit 1; }
	@$(PYTHON) tools/install.py $(@:-set=)
