#!/usr/bin/env bash
# Installs the programs that a make target needs and that this machine lacks,
# through apt-get, as root or through sudo. Does nothing when all are there.
#
# usage: scripts/deps.sh GROUP...     (groups: run, machines, lint, race)
set -euo pipefail
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# group_programs prints "program package" lines for the group $1.
group_programs() {
  case "$1" in
    run)
      echo "haproxy haproxy"
      echo "keepalived keepalived"
      echo "ip iproute2"
      echo "nft nftables"
      echo "sysctl procps"
      echo "curl curl"
      ;;
    machines)
      echo "debootstrap debootstrap"
      echo "systemd-nspawn systemd-container"
      ;;
    lint) echo "shellcheck shellcheck" ;;
    race) echo "cc gcc libc6-dev" ;;
    *)
      echo "deps: unknown group '$1' (groups: run, machines, lint, race)" >&2
      return 2
      ;;
  esac
}

missing=()
for group in "$@"; do
  programs=$(group_programs "$group")
  while read -r program packages; do
    command -v "$program" >/dev/null || read -ra missing <<<"${missing[*]} $packages"
  done <<<"$programs"
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "deps: please install: ${missing[*]} (only Debian and Ubuntu are set up automatically: no apt-get here)" >&2
  exit 1
fi
if [ "$(id -u)" = 0 ]; then
  as_root=()
elif command -v sudo >/dev/null; then
  as_root=(sudo)
else
  echo "deps: please install: ${missing[*]} (installing them needs root or sudo)" >&2
  exit 1
fi

# The packages would start haproxy and keepalived on their default files, now
# and at each boot. Only daemons that this run brings along are held back.
policy=/usr/sbin/policy-rc.d
placed=
cleanup() { [ -z "$placed" ] || "${as_root[@]}" rm -f "$policy"; }
trap cleanup EXIT
if [ ! -e "$policy" ]; then
  placed=yes
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
fi

echo "deps: installing ${missing[*]}"
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300)
"${apt[@]}" update || echo "deps: apt-get update failed; trying with the package lists that are here" >&2
"${apt[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null

for package in "${missing[@]}"; do
  case "$package" in
    haproxy | keepalived)
      if command -v systemctl >/dev/null; then
        "${as_root[@]}" systemctl disable --quiet "$package.service" ||
          echo "deps: could not disable $package.service; it may start at boot" >&2
      fi
      ;;
  esac
done
