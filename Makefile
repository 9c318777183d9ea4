# Martlet. `make demo` and `make test` are all a newcomer needs: each installs
# what is missing, builds, and works. Every other target is listed by `make help`.

SHELL := /bin/bash
PREFIX ?= /usr/local
SWIFT_FLAGS := -c release
TIMED ?= 20
NAMES := inp2ps inp2pc ztm

.PHONY: help build test demo lab bench accept fuzz static install format check-format soak sanitize clean

help:
	@sed -n 's/^## //p' Makefile

## make build    bin/martlet and its names inp2ps, inp2pc, ztm
build:
	@scripts/ensure-packages build
	@swift build $(SWIFT_FLAGS) --static-swift-stdlib --product martlet
	@scripts/place-binaries .build/release/martlet bin

## make test     everything a change must pass (under 20 minutes on 2 cores)
test:
	@scripts/test

## make demo     a file through a tunnel between two NATed homes, its path cut and healed
demo: build
	@scripts/ensure-packages demo
	@scripts/demo

## make lab      every kind of NAT against every other, in namespaces (40 minutes), then what changes under a download (20)
lab: build
	@scripts/ensure-packages lab
	@bin/martlet lab check-kinds
	@python3 Tests/Scenarios/idle.py --full & idle=$$!; status=0; \
	bin/martlet lab run --grid --timed $(TIMED) --results lab-results || status=1; \
	python3 Tests/Scenarios/survive.py --full || status=1; \
	python3 Tests/Scenarios/natdiscovery.py --full || status=1; \
	wait $$idle || status=1; exit $$status

## make bench    speed as ratios against limit programs in the same run
bench: build
	@scripts/ensure-packages bench
	@Benchmarks/run

## make accept   tiers, latency, changes of path, shares, beside ssh, socat and the kernel (100 minutes on a quiet machine)
accept: build
	@scripts/ensure-packages bench lab
	@mkdir -p accept-results; status=0; \
	for name in tiers latency path-changes link-goodput; do \
	  Benchmarks/$$name --strict --json accept-results/$$name.json || status=1; \
	done; exit $$status

## make fuzz     every decoder, SECONDS=180 each, two at a time
fuzz:
	@scripts/ensure-packages build fuzz
	@Fuzz/run

## make soak     the simulator over many seeds (SEEDS=2000)
soak:
	@scripts/ensure-packages build
	@scripts/soak

## make sanitize  tests and programs under the address and the thread sanitizer
sanitize:
	@scripts/sanitize

## make static   fully static binaries in bin/static, checked in an empty chroot
static:
	@scripts/ensure-packages build static
	@scripts/build-static

## make install  the binaries into $(PREFIX)/bin
install: build
	@install -d $(DESTDIR)$(PREFIX)/bin
	@for name in martlet $(NAMES); do install -m 755 bin/martlet $(DESTDIR)$(PREFIX)/bin/$$name; done
	@install -d $(DESTDIR)$(PREFIX)/share/martlet/Lab
	@install -m 644 Lab/*.lab $(DESTDIR)$(PREFIX)/share/martlet/Lab
	@echo "installed martlet $(NAMES) in $(DESTDIR)$(PREFIX)/bin"

## make format   swift format over all sources
format:
	@swift format --in-place --recursive --parallel Sources Tests Fuzz Package.swift

clean:
	@rm -rf .build bin
