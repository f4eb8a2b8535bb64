#!/usr/bin/env bash
# Installs into $PREFIX: `packages` the locked ones and torch, `project` this project as the source beside it has it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

index=/run/secrets/pip_index_url # it may hold a password, and no layer keeps it
if [ -f "$index" ]; then
    PIP_INDEX_URL=$(cat "$index")
    export PIP_INDEX_URL
fi
exec python3 scripts/installation.py "$PREFIX" "$@"
