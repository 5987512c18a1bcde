# The commands of this repository. The scripts they call set up what is missing: Debian packages, npm packages, builds.

# A signal that the caller ignores (a shell's background job, say) could not end them in order.
RUN := env --default-signal=INT,TERM,HUP

.PHONY: help
help: ## List the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

.PHONY: run
run: ## Serve a moving test picture and say where to watch it (RTMP_PORT, HTTP_PORT, API_PORT, WORKERS, PUBLIC=1)
	@$(RUN) scripts/demo.sh

.PHONY: test
test: ## Run all tests: formatting, lints, unit, real processes, browsers
	@$(RUN) scripts/test.sh

.PHONY: test-srs
test-srs: ## Run the tests of the engine `srs` with a real SRS (SRS_BINARY) instead of a stand-in
	@$(RUN) scripts/test-srs.sh

.PHONY: soak
soak: ## Kill, stop, drain, upgrade for two minutes under load, and live a simulated day; nobody may notice (BRAIDCAST_TEST_SEED)
	@$(RUN) scripts/soak.sh

.PHONY: fuzz
fuzz: ## Fuzz every parser in turn with libFuzzer (FUZZ_SECONDS each, FUZZ_TARGETS, FUZZ_MERGE=1 lets the corpus grow)
	@$(RUN) scripts/fuzz.sh

.PHONY: bench
bench: ## Measure everything beside a bare-kernel loop, nginx and xiu, and write docs/benchmarks.md (ARGS: only this `braidcast bench`)
	@$(RUN) scripts/bench.sh

.PHONY: console
console: ## Bundle the web page into console/dist; the next build embeds it
	@scripts/prepare.sh page

.PHONY: build
build: ## Build the server: target/release/braidcast, with the web page if it was bundled
	cargo build --release --locked -p braidcast

.PHONY: lint
lint: ## Check formatting, clippy and the page's types
	@scripts/prepare.sh lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	npm run --silent check --workspace console

.PHONY: deny
deny: ## Check licences, sources and bans of all dependencies (needs cargo-deny)
	@cargo deny --version >/dev/null 2>&1 || { echo 'cargo-deny was not found: cargo install cargo-deny --locked' >&2; exit 1; }
	cargo deny check bans licenses sources

.PHONY: clean
clean: ## Remove everything that was built or installed here
	cargo clean
	rm -rf node_modules console/dist
