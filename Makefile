# Targets for developers. CMake builds, and the scripts in tools/ do the rest. `make help` lists the targets.
BUILD ?= build
PREFIX ?= /usr/local
LUAJIT ?= luajit
CMAKE ?= cmake
CMAKE_FLAGS ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
MAKEFLAGS += --no-print-directory

configure = $(CMAKE) -S . -B $(1) -DCHALK_WERROR=$(if $(CI),ON,OFF) $(2) $(CMAKE_FLAGS)
compile = $(CMAKE) --build $(1) --parallel $(JOBS)
lua = LUA_PATH="$(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;;" \
      LUA_CPATH="$(abspath $(BUILD))/?.so;;" $(LUAJIT)

all: ## build libchalk.so and the C tests into build/
	@$(call configure,$(BUILD))
	@$(call compile,$(BUILD))

install: all ## install below PREFIX (/usr/local), inside of DESTDIR if that is set
	$(CMAKE) --install $(BUILD) --prefix $(PREFIX)
	-@[ -n "$(DESTDIR)" ] || [ "$$(id -u)" != 0 ] || ldconfig

test: setup ## install missing packages, build, run all tests
	@$(MAKE) all
	@BUILD=$(BUILD) tools/test all

fresh: ## run the README's commands in a bare Debian, SUITE=bookworm; needs root and mmdebstrap
	@tools/fresh $(SUITE)

demo: ## install missing packages, build, run the example service under load
	@tools/setup demo
	@$(call configure,$(BUILD)) >/dev/null
	@$(call compile,$(BUILD)) --target chalk
	@$(lua) examples/demo.lua

bench: all ## measure the record and export paths
	@$(lua) bench/run.lua

bench-gate: all ## fail if a record path is too slow
	@$(lua) bench/run.lua --gate

bench-peers: all ## measure the same work in chalk and in other libraries, ROUNDS=7
	@LUAJIT=$(LUAJIT) $(lua) bench/peers/run.lua --rounds $(or $(ROUNDS),7)

bench-nginx: all ## measure nginx with and without chalk
	@BUILD=$(abspath $(BUILD)) $(lua) bench/nginx.lua

soak: all ## kill, fork, drop, scrape and push at once for SOAK_SECONDS (600), and write docs/soak.md
	@SOAK_REPORT=docs/soak.md $(lua) bench/soak.lua

lint: setup ## check layout, floors, names of tests, and warnings of gcc and clang as errors
	@tools/lint

format: ## format all C and Lua files with clang-format and StyLua
	@tools/lint --format

asan: setup ## run all tests with the address and undefined behaviour sanitizers
	@$(call configure,build-asan,-DCHALK_SANITIZE=address,undefined)
	@$(call compile,build-asan)
	@BUILD=build-asan tools/test all

tsan: setup ## run the C tests with the thread sanitizer
	@$(call configure,build-tsan,-DCHALK_SANITIZE=thread)
	@$(call compile,build-tsan)
	@BUILD=build-tsan CTEST_PARALLEL_LEVEL=$(JOBS) tools/test c

valgrind: setup ## run a program from open to close under valgrind, in C and LuaJIT, and look for leaks
	@$(MAKE) all
	@BUILD=$(BUILD) LUAJIT=$(LUAJIT) tools/valgrind

model: setup ## check the models in test/model with spin, and that their broken variants fail
	@tools/model $(MODELS)

die: all ## kill a process at every store to shared memory, on every path; make test does a sample of this
	@$(BUILD)/test/die/test_die --all $(PATHS)

fuzz: setup ## run each fuzz target FUZZ_RUNS (10000000) times with libFuzzer
	@tools/fuzz long $(TARGETS)

fuzz-short: setup ## run each fuzz target over its stored inputs, and then for five seconds
	@tools/fuzz short $(TARGETS)

setup: ## install the packages that building and testing need
	@tools/setup

clean: ## remove the build directories
	rm -rf build build-asan build-tsan build-fuzz build.luarocks

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | \
	  while IFS='|' read -r target text; do printf '  make %-12s %s\n' "$$target" "$$text"; done

.PHONY: all install test fresh demo bench bench-gate bench-peers bench-nginx soak lint format asan tsan valgrind \
  model die fuzz fuzz-short setup clean help
