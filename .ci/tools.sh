# Finds what the build needs, or installs it, or says how to get it. Read by ./run and ./test.

PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
rust_minor=90

say() { echo "$*" >&2; }

# Whether we may install packages here.
may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_install() {
    say "installing $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2 ||
        { apt-get update >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2; }
}

has_cargo() {
    command -v cargo >/dev/null || return 1
    minor=$(cargo --version | sed -n 's/^cargo 1\.\([0-9]*\)\..*/\1/p')
    [ "${minor:-0}" -ge "$rust_minor" ]
}

# Debian's cargo will do where it is new enough.
apt_has_cargo() {
    minor=$(apt-cache policy cargo 2>/dev/null | sed -n 's/^ *Candidate: 1\.\([0-9]*\)\..*/\1/p')
    [ "${minor:-0}" -ge "$rust_minor" ]
}

if ! command -v cc >/dev/null && ! command -v gcc >/dev/null && ! command -v clang >/dev/null; then
    if may_install; then
        apt_install gcc libc6-dev
    else
        say "A C compiler is needed. On Debian: sudo apt-get install gcc libc6-dev"
        exit 1
    fi
fi

if ! has_cargo && may_install && apt_has_cargo; then
    apt_install cargo
fi
if ! has_cargo; then
    say "Rust 1.$rust_minor or newer is needed: https://rustup.rs, or your system's cargo if it is as new."
    command -v cargo >/dev/null && say "Found: $(cargo --version) at $(command -v cargo)"
    exit 1
fi

# need "COMMANDS" PACKAGES...: installs the packages where one of the commands is missing.
need() {
    commands=$1
    shift
    for command in $commands; do
        command -v "$command" >/dev/null && continue
        if may_install; then
            apt_install "$@"
        else
            say "The tests need $command. On Debian: sudo apt-get install $*"
            exit 1
        fi
    done
}

# Installs packages whose services must not start: the tests start their own.
apt_install_quietly() {
    # Debian's way to say that no service is to be started: exit code 101 of this script.
    policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then
        policy=
    else
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    installed=0
    apt_install "$@" || installed=$?
    [ -z "$policy" ] || rm -f "$policy"
    return "$installed"
}

# fanfare bench measures these two beside the gateway, as children of its own. Without them the tests
# of the peers have nobody to compare with.
need_peers() {
    [ -x /usr/sbin/nginx ] && [ -e /usr/lib/nginx/modules/ngx_nchan_module.so ] && [ -x /usr/sbin/nats-server ] && return
    if ! may_install; then
        say "Not measured, for want of them: sudo apt-get install nginx-light libnginx-mod-nchan nats-server"
        return
    fi
    apt_install_quietly nginx-light libnginx-mod-nchan nats-server || say "The peers cannot be installed; they are not measured."
}

# The tests of queues start brokers of their own, as children; without one they would fail.
need_rabbitmq() {
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] && return
    if ! may_install; then
        say "The tests need RabbitMQ, which need not run. On Debian: sudo apt-get install rabbitmq-server"
        exit 1
    fi
    apt_install_quietly rabbitmq-server
}
