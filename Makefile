# `make help` lists the targets.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-print-directory

# A fresh machine may have Go where its installer puts it, and daemons in sbin,
# without either in PATH.
export PATH := $(PATH):/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin

VERSION  ?= $(shell git describe --always --dirty --tags 2>/dev/null || echo unknown)
MODULES  := gen controlplane agent cli e2e
LINTED   := controlplane agent cli e2e
# Without the tag grpc's tracing, which nobody uses, keeps a sixth of each program: templates
# and whatever these may call.
TAGS     := grpcnotrace
PROGRAMS := ./controlplane/cmd/lb-controller ./agent/cmd/lb-agent ./cli/cmd/lbctl

# Pinned tools are built once into a directory that git ignores.
CACHE         := $(CURDIR)/.cache
GOLANGCI      := v2.15.0
GOLANGCI_LINT := $(CACHE)/golangci-lint-$(GOLANGCI)/golangci-lint
GOTESTSUM_AT  := v1.13.0
GOTESTSUM     := $(CACHE)/gotestsum-$(GOTESTSUM_AT)/gotestsum
BUF           := $(CACHE)/buf

# Network namespaces and VRRP need root.
AS_ROOT := $(if $(filter-out 0,$(shell id -u)),sudo -E)
# gotestsum closes with every skipped test and its reason.
GO_TEST := $(GOTESTSUM) --format pkgname --format-hide-empty-pkg --$(if $(AS_ROOT), -exec '$(AS_ROOT)')

##@ Use

.PHONY: build
build: check-go ## Build bin/lb-controller, bin/lb-agent and bin/lbctl
	CGO_ENABLED=0 go build -tags $(TAGS) -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' \
		-o bin/ $(PROGRAMS)

.PHONY: demo
demo: deps build ## Fail over a pair in a lab on this machine (HOLD=1: keep it up until Ctrl-C)
	@mkdir -p $(CACHE)
	go build -o $(CACHE)/ ./e2e/cmd/demo ./e2e/cmd/labhost
	$(AS_ROOT) $(CACHE)/demo $(if $(HOLD),--hold)

# Units find their programs by an absolute path.
PREFIX ?= /usr/local
UNITS  := $(DESTDIR)$(PREFIX)/lib/systemd/system
# Not where systemd looks: the agent links them once the machine is Tandem's.
DROPINS := $(DESTDIR)$(PREFIX)/lib/tandem
INSTALL_UNIT = sed -e 's|@bindir@|$(PREFIX)/bin|g' -e 's|@docdir@|$(PREFIX)/share/doc/tandem|g'

.PHONY: install
install: ## Install programs, units, drop-ins, sysctls and docs (PREFIX=/usr/local DESTDIR=)
	@for program in lb-controller lb-agent lbctl; do [ -x bin/$$program ] || { echo "install: bin/$$program is missing: run make build first" >&2; exit 1; }; done
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin bin/lb-controller bin/lb-agent bin/lbctl
	install -d $(UNITS) $(DROPINS)/haproxy.service.d $(DROPINS)/keepalived.service.d
	cd deploy/systemd && for unit in *.service; do $(INSTALL_UNIT) "$$unit" >$(UNITS)/"$$unit" || exit 1; done
	cd deploy/systemd && for part in *.d/*.conf; do $(INSTALL_UNIT) "$$part" >$(DROPINS)/"$$part" || exit 1; done
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/sysctl.d deploy/sysctl/60-tandem.conf
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/tandem docs/*.md
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/tandem/examples deploy/examples/*
	install -d -m 755 $(DESTDIR)/etc/tandem

##@ Test

.PHONY: test
test: deps build $(GOTESTSUM) ## Run all tests (about 10 minutes)
	@$(MAKE) --keep-going test-units test-scenarios

.PHONY: test-units
test-units: $(GOTESTSUM) ## Run the tests of all modules but e2e
	$(GO_TEST) $(foreach m,$(filter-out e2e,$(MODULES)),./$m/...)

# One package at a time, never from go's cache: they drive the programs in bin/
# and some of them measure time. Those that do not mind come last, three at a time:
# they wait for most of theirs.
.PHONY: test-scenarios
test-scenarios: $(GOTESTSUM) ## Run the scenarios with the programs in bin/
	$(GO_TEST) -count=1 -p 1 -parallel 3 -timeout 20m $$(go list ./e2e/... | grep -v '/e2e/machines$$')

.PHONY: test-machines
test-machines: deps deps-machines build $(GOTESTSUM) ## Run the tests on booted Debian machines (under 5 minutes)
	$(GO_TEST) -count=1 -timeout 15m ./e2e/machines

.PHONY: e2e
e2e: test-machines ## Run the machine tests and the long random scenarios (SEED=n DURATION=10m)
	TANDEM_E2E_SEED='$(SEED)' TANDEM_E2E_DURATION='$(or $(DURATION),10m)' \
		$(GO_TEST) -count=1 -p 1 -timeout 0 -run '^TestRandom' ./e2e/...

.PHONY: race
race: deps deps-race build $(GOTESTSUM) ## Run tests, and the scenarios' programs, under the race detector (20 minutes)
	$(GO_TEST) -race $(foreach m,$(filter-out e2e,$(MODULES)),./$m/...)
	rm -rf $(CACHE)/race
	go build -race -o $(CACHE)/race/ $(PROGRAMS)
	TANDEM_BIN=$(CACHE)/race GORACE=log_path=$(CACHE)/race/found $(GO_TEST) -count=1 -p 1 -timeout 30m ./e2e/scenarios
	@! cat $(CACHE)/race/found.* 2>/dev/null

.PHONY: fuzz
fuzz: check-go ## Fuzz each target for a short while (FUZZTIME=10s)
	scripts/fuzz.sh $(or $(FUZZTIME),10s) $(LINTED)

.PHONY: bench
bench: deps build ## Measure against the hand-written files; writes e2e/bench/results.json (ROUNDS=5 ONLY=key,key)
	go build -o $(CACHE)/ ./e2e/cmd/bench ./e2e/cmd/labhost
	$(AS_ROOT) $(CACHE)/bench $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY))

##@ Check (each verify-x has a fix-x)

.PHONY: lint
lint: deps-lint lint-go lint-scripts lint-proto verify-generated verify-format verify-tidy ## Run all checks of the source

.PHONY: lint-go
lint-go: check-go $(GOLANGCI_LINT) ## Check the Go code
	$(GOLANGCI_LINT) run $(foreach m,$(LINTED),./$m/...)

.PHONY: lint-scripts
lint-scripts: ## Check the shell scripts
	shellcheck $(wildcard scripts/*.sh .ci/run)

.PHONY: lint-proto
lint-proto: $(BUF) ## Check the API definition
	$(BUF) lint

.PHONY: breaking
breaking: $(BUF) ## Find changes of the API that break clients (AGAINST=main)
	$(BUF) breaking --against '.git#ref=$(or $(AGAINST),main)'

.PHONY: verify-generated
verify-generated: check-go $(BUF)
	scripts/generate.sh $(BUF) $(CACHE)/generated
	@for dir in tandem openapi; do \
		diff -rq $(CACHE)/generated/$$dir gen/$$dir || { echo "gen/ is stale: run make fix-generated" >&2; exit 1; }; \
	done

.PHONY: fix-generated generate
generate: fix-generated
fix-generated: check-go $(BUF) ## Generate gen/ from proto/api (also: make generate)
	scripts/generate.sh $(BUF) gen

.PHONY: verify-format
verify-format: check-go $(BUF)
	@stale=$$(gofmt -l $(LINTED) tools); [ -z "$$stale" ] || { echo "not formatted: run make fix-format:" $$stale >&2; exit 1; }
	$(BUF) format --diff --exit-code proto/api

.PHONY: fix-format
fix-format: check-go $(BUF) ## Format Go and proto files
	gofmt -w $(LINTED) tools
	$(BUF) format --write proto/api

.PHONY: verify-tidy
verify-tidy: check-go
	@for m in $(MODULES) tools; do GOWORK=off go -C $$m mod tidy -diff || { echo "$$m/go.mod is stale: run make fix-tidy" >&2; exit 1; }; done

.PHONY: fix-tidy
fix-tidy: check-go ## Tidy each go.mod
	for m in $(MODULES) tools; do GOWORK=off go -C $$m mod tidy; done

.PHONY: fix-third-party
fix-third-party: check-go ## Print proto/third_party from the modules pinned in tools/go.mod
	GOWORK=off go -C tools run ./printprotos $(CURDIR)/proto/third_party

##@ Set up

.PHONY: deps deps-lint deps-machines deps-race
deps: ## Install missing daemons and tools with apt-get, as root or through sudo
	@scripts/deps.sh run
deps-lint:
	@scripts/deps.sh lint
deps-machines:
	@scripts/deps.sh run machines
deps-race:
	@scripts/deps.sh run race

.PHONY: check-go
check-go:
	@scripts/check-go.sh

$(GOLANGCI_LINT):
	GOWORK=off GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI)

$(GOTESTSUM):
	GOWORK=off GOBIN=$(@D) go install gotest.tools/gotestsum@$(GOTESTSUM_AT)

$(BUF): tools/go.mod
	GOWORK=off go -C tools build -o $@ github.com/bufbuild/buf/cmd/buf

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin .cache

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z0-9-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' Makefile
