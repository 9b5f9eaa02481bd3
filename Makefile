# The entry point: each target calls a script in scripts/ or CMake.
#   make JOBS=N                       number of parallel compilations (default: one per core)
#   make FOREBAY_LLAMA_SOURCE=DIR     uses your own llama.cpp checkout instead of the pinned version
PREFIX ?= /usr/local
SECONDS ?= 1800
export FOREBAY_LLAMA_SOURCE JOBS

SOURCES = $(wildcard src/*/*.[ch] src/*/*.cpp include/*.h tests/*.[ch] tests/*/*.[ch] tests/*.cpp)

.PHONY: build help demo demo-clean check check-quick check-bare device-check asan tsan load \
	hostile aarch64 install format format-check lint clean

build: ## build everything into build/release
	@scripts/build.sh release

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

demo: build ## run a model bigger than its memory limit and verify its logits
	@scripts/demo.sh

demo-clean: ## remove the model made by demo
	@scripts/demo.sh --clean

check: ## build and run all tests
	@scripts/check.sh release

check-quick: build ## run the tests except those that take a minute or more
	@scripts/check.sh release quick

check-bare: ## run the quick tests in a copy of the tree that has no ../shared
	@scripts/check-bare.sh

device-check: ## test layers on a (software) GPU; downloads 90 MB once; Linux on x86-64 only
	@tests/device.sh

asan: ## run the tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@scripts/check.sh asan

tsan: ## run the tests under ThreadSanitizer
	@scripts/check.sh tsan

load: ## load-test a server under AddressSanitizer for two minutes
	@scripts/build.sh asan
	@node tests/load.mjs build/asan/forebay models/fable-moe.gguf 120

hostile: build ## 30 minutes (SECONDS=N) of hostile clients against a server in 400 MiB
	@node tests/load.mjs build/release/forebay models/fable-moe.gguf $(SECONDS) 400M

aarch64: ## compile every file for 64-bit ARM, without running anything
	@scripts/aarch64.sh

install: build ## install under PREFIX (default /usr/local; DESTDIR is honoured)
	@cmake --install build/release --prefix "$(PREFIX)"

format: ## format the sources with clang-format
	@clang-format -i $(SOURCES)

lint: ## check formatting, line lengths and shell scripts
	@scripts/lint.sh

format-check: ## list the sources that are not formatted
	@clang-format --dry-run -Werror $(SOURCES)

clean: ## remove build/ (deps/, which holds downloads, stays)
	@rm -rf build
