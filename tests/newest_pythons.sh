#!/usr/bin/env bash
# Run the tests of keys, decorator, cache and executors on the Pythons that Debian stable has not, in a chroot of sid.
#
#   tests/newest_pythons.sh [FOLDER]
#
# It needs root and Debian's packages. Where it can't make the chroot it says why, and succeeds. With a FOLDER the chroot
# stays there, and serves again.
set -euo pipefail
script=$(realpath "$0")
folder=${1:+$(realpath -m "$1")}
cd "$(dirname "$script")/.."

PYTHONS="3.14 3.15"
TESTS="tests/keys tests/executors tests/test_cache.py tests/test_coroutines.py tests/test_decorator.py
       tests/test_deferred_annotations.py tests/test_explain.py"

skip() {
    echo "SKIPPED tests on Python ${PYTHONS// /, }: $1"
    exit 0
}

# What is mounted below is mounted for this script only.
if [ -z "${OF_ITS_OWN:-}" ]; then
    [ "$(id -u)" = 0 ] || skip "only root can make a chroot"
    unshare --mount true 2>/dev/null || skip "this machine lets nobody mount anything"
    OF_ITS_OWN=1 exec unshare --mount "$script" ${folder:+"$folder"}
fi

if ! command -v debootstrap >/dev/null; then
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap; } ||
        skip "debootstrap is not installed, and apt-get can't install it"
fi

if [ -n "$folder" ]; then
    root=$folder
    mkdir -p "$root"
else
    root=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
    chmod 755 "$root" # apt downloads as another user
    trap 'umount -q "$root/proc" "$root/dev/pts" "$root/dev/shm" || true; rm -rf --one-file-system "$root"' EXIT
fi

# The mirror and the proxy are those of this machine's own packages.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m1 '/debian/\?$' || true)
proxy=$(apt-config dump --format '%v%n' Acquire::http::Proxy 2>/dev/null || true)
if [ -n "$proxy" ]; then export http_proxy="$proxy"; fi

if [ ! -e "$root/usr/bin/apt-get" ]; then
    debootstrap --variant=minbase --include=ca-certificates sid "$root" ${mirror:+"$mirror"} >"$root.log" 2>&1 || {
        tail -5 "$root.log"
        rm -f "$root.log"
        skip "debootstrap failed"
    }
    rm -f "$root.log"
fi
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
mountpoint -q "$root/dev/pts" || mount -t devpts devpts "$root/dev/pts"
mountpoint -q "$root/dev/shm" || mount -t tmpfs tmpfs "$root/dev/shm"
cp /etc/hosts /etc/resolv.conf "$root/etc/"

# A machine behind a proxy of its own trusts more than what Debian brings.
certificates=/etc/ssl/certs/ca-certificates.crt
if [ -e "$certificates" ]; then cp "$certificates" "$root$certificates"; fi

inside() {
    # CI=1 lets hypothesis wait for a slow machine.
    chroot "$root" env -i CI=1 HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
        PIP_CERT="$certificates" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
        ${PIP_INDEX_URL:+PIP_INDEX_URL="$PIP_INDEX_URL"} ${http_proxy:+http_proxy="$http_proxy"} \
        ${https_proxy:+https_proxy="$https_proxy"} "$@"
}

rm -rf "$root/src"
mkdir "$root/src"
git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read |
    tar --extract --directory="$root/src"

# What the tests need, one requirement a line, those of the package itself first.
requirements='
import tomllib
project = tomllib.load(open("/src/pyproject.toml", "rb"))
extras = [project["project"]["optional-dependencies"][name] for name in ("cli", "compression", "dask", "scoop", "table")]
groups = [project["dependency-groups"][name] for name in ("examples", "test")]
wanted = [each for names in (*extras, *groups) for each in names if isinstance(each, str)]
elsewhere = ("cachier", "coverage", "ipykernel", "mpi4py", "nbclient", "playwright", "pytest-cov")
print(*(each for each in wanted if not each.startswith(elsewhere)), sep="\n")
'

failed=""
for version in $PYTHONS; do
    echo "Python $version"
    if ! inside apt-get install -y -qq --no-install-recommends "python$version-venv" >/dev/null; then
        echo "SKIPPED: sid has no Python $version at present"
        continue
    fi
    python="/opt/$version/bin/python"
    inside sh -c "test -e $python || python$version -m venv /opt/$version"
    inside $python -m pip install --quiet --editable /src
    inside $python -c "$requirements" | sort --unique | while read -r requirement; do
        # Nothing is compiled here; SCOOP, which is all Python, has no wheel at all.
        inside $python -m pip install --quiet --only-binary=:all: --no-binary=scoop "$requirement" </dev/null 2>/dev/null ||
            echo "Python $version has no wheel of $requirement: what needs it is skipped"
    done
    inside sh -c "cd /src && $python -m pytest -q -n 2 -p no:cacheprovider $(echo $TESTS)" || failed+=" $version"
done
[ -z "$failed" ] || { echo "Tests failed on Python$failed" >&2; exit 1; }
