#!/bin/sh
# Build the runner: build.sh OUTPUT. CC chooses the compiler:
#   CC=aarch64-linux-gnu-gcc                                                 Linux on ARM64 (experimental on Android)
#   CC="$NDK/toolchains/llvm/prebuilt/linux-x86_64/bin/aarch64-linux-android26-clang"        Android, with its NDK
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck disable=SC2086  # CC may hold options
exec ${CC:-cc} -std=c11 -O2 -Wall -Wextra -Werror -o "$1" "$here"/*.c -ldl -lm
