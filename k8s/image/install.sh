#!/usr/bin/env bash
# Installs into $PREFIX: `packages` the locked ones and torch, `project` this project as the source beside it has it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

exec python3 scripts/installation.py "$PREFIX" "$@"
