# Every target can be run on a fresh Debian machine as root; CONTRIBUTING.md says what each one covers.

# Where scripts/setup.sh puts nats-server if the machine has no good one.
export PATH := $(CURDIR)/.tools/bin:$(PATH)

CARGO ?= cargo
# Arguments of every test program, for example TEST_FLAGS=--show-output.
TEST_FLAGS ?=
# The scenario of `make lab`; empty: all of them.
SCENARIO ?=
# The figure of `make bench`: deploy, idle, gateway or plan; empty: all of them.
FIGURE ?=
# The fuzz target of `make fuzz`, of those in fuzz/src/lib.rs; empty: all of them. FOR is for each.
TARGET ?=
# The first seed of the sweep of `make sim`, and for how long it goes on.
SEED := $(or $(SEED),$(shell date +%s))
FOR ?= 3m

.PHONY: help setup build test check conformance demo lab lab-docker lab-parts bench sim sim-200 fuzz

BUILT := $(abspath $(or $(CARGO_TARGET_DIR),target))
# What the lab runs as ployzd. Not where cargo puts it: there is the one that ships.
export PLOYZD := $(BUILT)/lab/ployzd

help:
	@echo "make demo    set up, build, start a cluster on this machine, deploy, update, roll back, destroy"
	@echo "make test    what every change is checked with: format, lints, docs, unit tests, simulation, real parts"
	@echo "make conformance  the simulator's models beside the real parts, every claim 500 times"
	@echo "make lab     end-to-end scenarios on real parts; SCENARIO=name for one, SCENARIO=--list to see them"
	@echo "make sim     the simulator: one crash everywhere, planted bugs, a thorough sweep, then fresh stories for FOR=3m; SEED=n to repeat"
	@echo "make fuzz    hostile input for every edge, steered by coverage, FOR=3m each; TARGET=name for one"
	@echo "make sim-200 200 daemons on simulated hosts: a deploy over 20, five crashes, a partition"
	@echo "make bench   every measured figure, peers in the same run, into docs/benchmarks.md; FIGURE=name for one"
	@echo "make build   release binaries in target/release"

setup:
	scripts/setup.sh

build:
	$(CARGO) build --release --locked -p ployzd -p ployzctl

# What needs no real part.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --locked --no-deps --workspace
	scripts/check-core-dependencies.sh
	RUSTFLAGS="--cfg loom" $(CARGO) test --locked -p handover --release --target-dir $(BUILT)/loom

# The lab's short scenarios are among the tests; `make lab` runs the long ones.
test: setup check lab-parts
	scripts/with-docker.sh $(CARGO) test --locked --workspace -- $(TEST_FLAGS)

# In `make test` every claim is compared a few times only.
conformance: setup
	PLOYZ_CONFORMANCE=full scripts/with-docker.sh $(CARGO) test --locked -p tests --test conformance_kv --test conformance_runtime -- --nocapture $(TEST_FLAGS)

demo:
	scripts/demo.sh

# The daemon that can be killed at each of its effects.
lab-parts: setup
	$(CARGO) build --locked -p ployzd --features failpoints
	mkdir -p $(dir $(PLOYZD))
	cp --remove-destination $(BUILT)/debug/ployzd $(PLOYZD)
	rm $(BUILT)/debug/ployzd

lab: lab-parts
	$(CARGO) build --locked -p tests -p ployzctl --bins
	scripts/with-docker.sh $(CARGO) run --locked -p tests --bin lab -- $(SCENARIO)

# What CI runs besides `make test`: the short form on a Docker engine, or it fails.
lab-docker: lab-parts
	$(CARGO) build --locked -p tests -p ployzctl --bins
	scripts/with-docker.sh $(CARGO) run --locked -p tests --bin lab -- --runtime docker --short

# In namespaces of its own, with a Docker engine of its own. FIGURE=name for one; without it docs/benchmarks.md is written.
bench:
	scripts/setup.sh bench
	$(CARGO) build --release --locked -p ployzd -p ployzctl -p tests --bins
	$(BUILT)/release/bench $(or $(FIGURE),--write docs/benchmarks.md)

# One crash at every place of every scenario; every planted bug must be seen; a thorough sweep; then whole stories, drawn from seeds that
# are new each time.
sim:
	$(CARGO) run --release --locked -p sim --bin ployz-sim -- enumerate --op all --crashes 1
	$(CARGO) run --release --locked -p sim --bin ployz-sim -- enumerate --op pairs --crashes 1 --later 2 --rivals 1
	$(CARGO) run --release --locked -p sim --bin ployz-sim -- enumerate --op pairs --crashes 1 --later 2 --cancels 1
	$(CARGO) run --release --locked -p sim --features mutants --bin ployz-sim -- mutants --stories 2000
	$(CARGO) test --release --locked -p sim --features mutants --lib --test commands
	$(CARGO) run --release --locked -p sim --bin ployz-sim -- sweep --seeds 0..10000 --thorough
	@echo "sim: seeds from $(SEED) on"
	$(CARGO) run --release --locked -p sim --bin ployz-sim -- sweep --seeds $(SEED)..$$(($(SEED) + 1000000)) --for $(FOR)

# What is found is in fuzz/artifacts, and what reaches something new in fuzz/corpus; `scripts/fuzz.sh merge` makes that small again.
fuzz:
	scripts/setup.sh fuzz
	scripts/fuzz.sh run $(FOR) $(TARGET)

# The driver and the API of ployzd on 200 simulated hosts.
sim-200:
	$(CARGO) run --release --locked -p sim-daemon -- two-hundred
