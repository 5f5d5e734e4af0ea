# A thin front: CMake builds, tools/ does the rest. `make help` lists the targets.
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

install: all ## install below PREFIX (/usr/local); DESTDIR is respected
	$(CMAKE) --install $(BUILD) --prefix $(PREFIX)
	-@[ -n "$(DESTDIR)" ] || [ "$$(id -u)" != 0 ] || ldconfig

test: setup ## install what is missing, build, run every test
	@$(MAKE) all
	@BUILD=$(BUILD) tools/test all

fresh: ## the README's commands in a bare Debian, SUITE=bookworm; needs root and mmdebstrap
	@tools/fresh $(SUITE)

demo: ## install what is missing, build, run the example service under load
	@tools/setup demo
	@$(call configure,$(BUILD)) >/dev/null
	@$(call compile,$(BUILD)) --target chalk
	@$(lua) examples/demo.lua

bench: all ## time the record and export paths
	@$(lua) bench/run.lua

bench-gate: all ## fail when a record path is too slow
	@$(lua) bench/run.lua --gate

bench-peers: all ## the same work done by other libraries, side by side; ROUNDS=7 (what can be installed)
	@LUAJIT=$(LUAJIT) $(lua) bench/peers/run.lua --rounds $(or $(ROUNDS),7)

bench-nginx: all ## what scrapes and recording cost inside nginx, with and without chalk
	@BUILD=$(abspath $(BUILD)) $(lua) bench/nginx.lua

soak: all ## kills, forks, drops, scrapes and pushes at once for SOAK_SECONDS (600); report in docs/soak.md
	@SOAK_REPORT=docs/soak.md $(lua) bench/soak.lua

lint: setup ## luacheck, StyLua, clang-format, the floors, tests by name, warnings of gcc and clang as errors
	@tools/lint

format: ## write every C and Lua file in the layout of clang-format and StyLua
	@tools/lint --format

asan: setup ## every test with the address and undefined behaviour sanitizers
	@$(call configure,build-asan,-DCHALK_SANITIZE=address,undefined)
	@$(call compile,build-asan)
	@BUILD=build-asan tools/test all

tsan: setup ## the C tests with the thread sanitizer
	@$(call configure,build-tsan,-DCHALK_SANITIZE=thread)
	@$(call compile,build-tsan)
	@BUILD=build-tsan CTEST_PARALLEL_LEVEL=$(JOBS) tools/test c

valgrind: setup ## a program's whole life in C and in LuaJIT, looking for leaks
	@$(MAKE) all
	@BUILD=$(BUILD) LUAJIT=$(LUAJIT) tools/valgrind

model: setup ## check the models in test/model, and that their broken variants fail
	@tools/model $(MODELS)

die: all ## kill a process at every store to shared memory of every path; make test takes a sample
	@$(BUILD)/test/die/test_die --all $(PATHS)

fuzz: setup ## FUZZ_RUNS (10000000) executions of each fuzz target, with libFuzzer
	@tools/fuzz long $(TARGETS)

fuzz-short: setup ## the fuzz targets over their kept inputs, then five seconds of each
	@tools/fuzz short $(TARGETS)

setup: ## install what building and testing need
	@tools/setup

clean: ## remove what was built
	rm -rf build build-asan build-tsan build-fuzz build.luarocks

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | \
	  while IFS='|' read -r target text; do printf '  make %-12s %s\n' "$$target" "$$text"; done

.PHONY: all install test fresh demo bench bench-gate bench-peers bench-nginx soak lint asan tsan valgrind model die fuzz fuzz-short setup clean help
