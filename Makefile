# The commands of this repository. Everything is built in release: libtorch's bindings compile for minutes, once.
CARGO ?= cargo
CAPSTAN := target/release/capstan

# A libtorch named by the user is for scripts/setup.sh, which checks it and links target/libtorch to it. Cargo must not see the
# variable: .cargo/config.toml gives it the link, and another value would compile the bindings again.
unexport LIBTORCH

.PHONY: help run build setup test soak check bench bench-splits stills gpu-check gpu-bundle

help:
	@echo "make run        set up, build, open the hello job (L launches it); without a terminal or with ARGS='--set stop.steps=100'"
	@echo "                train it: a small GPT on capstan's own source"
	@echo 'make test       set up, build, run every test'
	@echo 'make soak       the long forms of what runs on simulated GPUs: every split under stress, several seeds, more steps'
	@echo 'make build      set up, build target/release/capstan and capstan-worker'
	@echo 'make check      formatting, clippy, every test'
	@echo 'make bench      against PyTorch 2.11 (ARGS=--full adds three full trainings), then every split against ddp'
	@echo 'make bench-splits  every split against ddp alone'
	@echo "make stills     draw the README's pictures of the terminal UI anew"
	@echo "make gpu-check  what can only be checked on an NVIDIA GPU (ARGS='--budget 9m')"
	@echo 'make gpu-bundle the same as a folder for a machine that has nothing but Python with PyTorch 2.11'
	@echo 'make setup      fetch libtorch into target/libtorch (LIBTORCH=DIR uses an installed torch 2.11)'

setup:
	@LIBTORCH='$(LIBTORCH)' scripts/setup.sh

build: setup
	$(CARGO) build --release --bins

run: build
	@$(if $(ARGS),,[ -t 0 ] && [ -t 1 ] && exec $(CAPSTAN) tui configs/hello.json ||) \
	$(CAPSTAN) train configs/hello.json $(ARGS)

test: setup
	$(CARGO) test --release $(ARGS)

soak: setup
	CAPSTAN_SOAK=1 $(CARGO) test --release --test suite -- simulated $(ARGS)

check: setup
	$(CARGO) fmt --check
	$(CARGO) clippy --release --all-targets -- -D warnings
	$(CARGO) test --release

bench: build
	@python3 benches/bench.py $(ARGS)
	@python3 benches/splits.py

bench-splits: build
	@python3 benches/splits.py $(ARGS)

stills: setup
	CAPSTAN_WRITE_STILLS=1 $(CARGO) test --release --lib tui::tests::stills

gpu-check:
	@scripts/gpu-check.sh $(ARGS)

gpu-bundle: build
	@python3 scripts/gpu_bundle.py $(ARGS)
