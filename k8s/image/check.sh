#!/usr/bin/env bash
# What must hold of the image: tried as the account that its replicas load their model with, and without a network.
set -euo pipefail

fail() {
    echo "check: $*" >&2
    exit 1
}

[ "$(id -u)" -ne 0 ] || fail "this must run as the account of the pods, not as root"
# Not by the builder: podman knows RUN --network=none since 4.4 only.
[ "${1:-}" = offline ] || exec python3 "$(dirname "${BASH_SOURCE[0]}")/offline.py" "${BASH_SOURCE[0]}" offline
if python3 -c 'import socket; socket.socket()' 2>/dev/null; then fail "there is a network here: run me without arguments"; fi

for tool in bash wget grep; do
    command -v "$tool" >/dev/null || fail "the base lacks $tool, which the operator's probes need"
done
for program in python ray semapi; do
    [ "$(command -v "$program")" = "$PREFIX/bin/$program" ] || fail "$program is not the one of $PREFIX/bin"
done
writable=$(find "$PREFIX" ! -type l -writable -print -quit)
[ -z "$writable" ] || fail "$writable can be changed by uid $(id -u)"

python -c "import cv2, img2table, onnxruntime, rapid_layout, rapidocr"
ray --version
"$(python -c 'from ray.serve._private.haproxy import get_haproxy_binary; print(get_haproxy_binary())')" -v | sed -n 1p

# The model loads from the image alone, and answers.
sample=$(python -c 'import serve_app; print(serve_app.__path__[0])')/samples/nanowires.jpg
semapi predict --json "$sample"
cat "$PREFIX/release.json"
