# `make help` lists the targets. Only build, run and test are needed to use Rimlight; they need Go, git and make.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VERSION ?= $(shell git describe --tags --always --dirty)
FUZZTIME ?= 20000x
BENCHTIME ?= 1s

TOOLS := .tools
BUF := $(TOOLS)/buf
GOLANGCI := $(TOOLS)/golangci-lint

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/rimlight.
	go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/rimlight ./cmd/rimlight

.PHONY: run
run: build ## Build, and run the whole platform on this machine.
	bin/rimlight dev

.PHONY: test
test: ## Run every test; names what was skipped, and why.
	go test -timeout 30m -json ./... | go run ./tools/testsum

# Packages whose code or tests start something concurrent; the others have nothing to race.
RACE_PACKAGES = go list -f '{{$$p := .ImportPath}}{{range .Imports}}{{if or (eq . "sync") (eq . "sync/atomic") (eq . "golang.org/x/sync/errgroup")}}{{$$p}}{{"\n"}}{{end}}{{end}}' ./... | grep -v /gen/ | sort -u

.PHONY: race
race: ## Run the short tests of concurrent packages under the race detector (needs gcc).
	go test -race -short -timeout 30m $$($(RACE_PACKAGES))

SCHEDULES ?= 2000
SEED ?= 1
KEEP ?=
AIM ?=
TRANSPORT ?=
RUNS ?= 5
MOST ?= 200

.PHONY: torture
torture: ## Play SCHEDULES (2000) schedules of faults on the platform in virtual time, from SEED (1) on; all over grpc-go with TRANSPORT=grpc.
	go run ./tools/torture -schedules $(SCHEDULES) -seed $(SEED) -transport '$(TRANSPORT)'

.PHONY: torture-short
torture-short: ## Play the first hundred seeds.
	go run ./tools/torture -schedules 100 -seed 1

.PHONY: torture-fresh
torture-fresh: ## Play seeds that nobody chose, for a minute.
	go run ./tools/torture -seed 0 -for 60s

.PHONY: sell-through
sell-through: ## How much of the stock is sold, healthy and with each part dead or cut off: docs/testing.md's table.
	go test ./internal/world -run '^TestSellThroughTable$$' -world.sellthrough=4 -v -timeout 60m | grep -E '^ *\||seeds each|FAIL'

.PHONY: torture-replay
torture-replay: ## Play one schedule, of SEED, and tell its story; with KEEP=3,5 only those of its faults.
	go run ./tools/torture -replay -seed $(SEED) -aim '$(AIM)' -transport '$(TRANSPORT)' -keep '$(KEEP)'

.PHONY: mutants
mutants: ## Leave out one rule of the protocol after the other, and see how soon a law breaks: RUNS (5) of at most MOST (200) schedules.
	go run ./tools/torture -mutants -seed $(SEED) -runs $(RUNS) -most $(MOST)

.PHONY: mutants-short
mutants-short: ## Leave out one rule after the other, once each.
	go run ./tools/torture -mutants -runs 1 -most 400

KILLS ?= 100

.PHONY: kill
kill: ## Kill real processes of every role under load, KILLS (100) times; ends with one JSON line.
	@RIMLIGHT_KILLS=$(KILLS) go test -count 1 -timeout 2h -run '^TestEveryRoleIsKilledUnderLoad$$' -v ./cmd/rimlight | \
	awk '/^\{"kills"/ {last = $$0; next} {print} END {if (last != "") print last}'

BROWNOUTS ?= 20

.PHONY: brownouts
brownouts: ## Brown out the busiest region of `rimlight dev`, BROWNOUTS (20) times: alert, traffic moved, calls late; ends with one JSON line (a quiet machine, half a minute each).
	@RIMLIGHT_BROWNOUTS=$(BROWNOUTS) go test -count 1 -timeout 2h -run '^TestABrownoutIsNoticedAndLeft$$' -v ./cmd/rimlight | \
	awk '/^\{"runs"/ {last = $$0; next} {print} END {if (last != "") print last}'

.PHONY: fuzz
fuzz: ## Run each fuzz target on FUZZTIME inputs (20000x).
	@go test -list '^Fuzz' ./... | awk '/^Fuzz/ {names[n++] = $$1} /^ok/ {for (i = 0; i < n; i++) print $$2, names[i]; n = 0}' | \
	while read -r package target; do \
		echo "fuzzing $$package $$target for $(FUZZTIME)"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package" < /dev/null; \
	done

.PHONY: bench
bench: ## Run the benchmarks, BENCHTIME (1s) each, and measure the figures of bench/README.md.
	go test -p 1 -run '^$$' -bench . -benchtime $(BENCHTIME) -benchmem ./... | grep -v -e 'no test files' -e '^PASS$$'
	go run ./bench

.PHONY: bench-browser
bench-browser: build web/node_modules/.package-lock.json ## Measure from tap to verified receipt in Chromium, SAMPLES (200) times each way (needs node, chromium).
	node web/bench.mjs

.PHONY: bench-console
bench-console: web/node_modules/.package-lock.json ## Measure the console with 1,000 regions in Chromium: first paint, memory after an hour of virtual updates (needs node, chromium).
	node web/bench-console.mjs

.PHONY: bench-arbitration
bench-arbitration: ## Play arbitration scenarios with real routers and regions (minutes, a quiet machine), and compare with the simulator.
	go build -trimpath -o bin/arbitration ./bench/arbitration
	bin/arbitration

.PHONY: bench-smoke
bench-smoke: ## Run each benchmark once, at the smallest size: does it still work?
	go test -run '^$$' -bench . -benchtime 1x ./... | grep -v -e 'no test files' -e '^PASS$$'
	go run ./bench -smoke
	go run ./bench/arbitration -smoke

.PHONY: lint
lint: $(GOLANGCI) ## Lint the Go code.
	$(GOLANGCI) run ./...

.PHONY: fmt
fmt: ## Format Go and protos.
	gofmt -w $$(git ls-files '*.go' ':!gen')
	@if [ -x $(BUF) ]; then $(BUF) format -w proto; fi

.PHONY: check-fmt
check-fmt: ## Fail if Go code is not formatted.
	@unformatted=$$(gofmt -l $$(git ls-files '*.go' ':!gen')); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; fi

.PHONY: proto-lint
proto-lint: $(BUF) ## Lint the protos and check their format.
	$(BUF) lint
	$(BUF) format --diff --exit-code proto

.PHONY: breaking
breaking: $(BUF) ## Compare the protos with the latest tag.
	@if tag=$$(git describe --tags --abbrev=0 2>/dev/null); then \
		echo "comparing with $$tag"; $(BUF) breaking --against ".git#tag=$$tag"; \
	else \
		echo "no tag yet: nothing to break"; \
	fi

.PHONY: generate
generate: $(BUF) web/node_modules/.package-lock.json ## Regenerate gen/ from the protos, and web/dist from that (needs node).
	PATH="$(CURDIR)/$(TOOLS):$$PATH" $(BUF) generate
	$(MAKE) web

.PHONY: web
web: web/node_modules/.package-lock.json ## Rebuild web/dist, which the binary embeds (needs node).
	cd web && node_modules/.bin/vite build --logLevel warn
	cd web && node_modules/.bin/vite build --config vite.console.config.js --logLevel warn

.PHONY: web-test
web-test: build web/node_modules/.package-lock.json ## Test the SDK, its size, and standard clients in Chromium (needs node, chromium).
	cd web && node size.mjs
	node --test --test-concurrency 1 --test-timeout 180000 --test-reporter spec web/test/*.test.mjs

.PHONY: screenshots
screenshots: build web/node_modules/.package-lock.json ## Make docs/images of the storefront and the console (needs node, chromium).
	node web/screenshots.mjs
	node web/screenshots-console.mjs

PROTOVALIDATE := github.com/bufbuild/protovalidate@v1.2.2

.PHONY: check-generate
check-generate: $(BUF) web/node_modules/.package-lock.json ## Fail if gen/, web/dist or the copied protos differ from their sources, or the TypeScript does not compile.
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	PATH="$(CURDIR)/$(TOOLS):$$PATH" $(BUF) generate -o "$$fresh"; \
	diff -r gen "$$fresh/gen" || { echo "gen/ is not what the protos give: run make generate"; exit 1; }
	@if dir=$$(go mod download -json $(PROTOVALIDATE) | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p') && [ -n "$$dir" ]; then \
		diff third_party/protovalidate/buf/validate/validate.proto "$$dir/proto/protovalidate/buf/validate/validate.proto"; \
	else \
		echo "NOT COMPARED: $(PROTOVALIDATE) cannot be downloaded here"; \
	fi
	web/node_modules/.bin/tsc -p web
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	(cd web && node_modules/.bin/vite build --logLevel error --outDir "$$fresh/dist" && \
	node_modules/.bin/vite build --config vite.console.config.js --logLevel error --outDir "$$fresh/dist/console"); \
	diff -rq web/dist "$$fresh/dist" || { echo "web/dist is not what web/ gives: run make web"; exit 1; }

# The tools come from go.mod and tools/lint/go.mod; building them once makes each call quick.
$(BUF): go.mod go.sum
	@echo "building buf and the plugins; minutes the first time"
	go build -o $(TOOLS)/ tool
	@touch $(BUF)

$(GOLANGCI): tools/lint/go.mod tools/lint/go.sum
	@echo "building golangci-lint; minutes the first time"
	cd tools/lint && go build -o ../../$(TOOLS)/ tool
	@touch $(GOLANGCI)

web/node_modules/.package-lock.json: web/package-lock.json
	cd web && npm ci --no-audit --no-fund
	@touch $@
