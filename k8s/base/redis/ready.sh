#!/bin/sh
# ready.sh [OPTION…]: true once commands are answered. While the data are read from the disk they are not, though the
# port is open.
set -eu
REDISCLI_AUTH=$(cat "$PASSWORD_FILE")
export REDISCLI_AUTH
[ "$(valkey-cli -h localhost "$@" ping)" = PONG ]
