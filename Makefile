# The front door. The work is done by scripts/ and CMake; nothing here knows how to compile.
#   make JOBS=N                        parallel compilations (default: one per core)
#   make FOREBAY_LLAMA_SOURCE=DIR ...   your own llama.cpp checkout instead of the pinned one
PREFIX ?= /usr/local
export FOREBAY_LLAMA_SOURCE JOBS

SOURCES = $(wildcard src/*/*.[ch] src/*/*.cpp include/*.h tests/*.[ch] tests/*/*.[ch] tests/*.cpp bench/*.[ch])

.PHONY: build help demo demo-clean check check-quick check-bare device-check asan tsan load aarch64 install format format-check lint clean

build: ## build everything into build/release
	@scripts/build.sh release

help: ## list what can be made
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

demo: build ## run a model bigger than its memory limit, then prove the result exact
	@scripts/demo.sh

demo-clean: ## remove the model that demo made
	@scripts/demo.sh --clean

check: ## build and run all tests
	@scripts/check.sh release

check-quick: build ## the tests without those that take a minute or more
	@scripts/check.sh release quick

check-bare: ## the quick tests in a copy of the tree that has no ../shared
	@scripts/check-bare.sh

device-check: ## layers on a GPU, tried on a software one (downloads 90 MB once; Linux on x86-64)
	@tests/device.sh

asan: ## the tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@scripts/check.sh asan

tsan: ## the tests under ThreadSanitizer
	@scripts/check.sh tsan

load: ## two minutes of bad clients against a server with AddressSanitizer (needs ../shared)
	@scripts/build.sh asan
	@node tests/load.mjs build/asan/forebay ../shared/models/stories260K-moe8.gguf 120

aarch64: ## compile every file for 64-bit ARM (nothing is run)
	@scripts/aarch64.sh

install: build ## install under PREFIX (default /usr/local; DESTDIR is honoured)
	@cmake --install build/release --prefix "$(PREFIX)"

format: ## format the sources with clang-format
	@clang-format -i $(SOURCES)

lint: ## check formatting, line lengths and shell scripts
	@scripts/lint.sh

format-check: ## say what is not formatted
	@clang-format --dry-run -Werror $(SOURCES)

clean: ## remove build/ (deps/ stays: it is only downloaded)
	@rm -rf build
