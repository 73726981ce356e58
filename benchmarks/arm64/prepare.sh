#!/usr/bin/env bash
# Make an emulated ARM64 device of QEMU, Debian's packages and PyPI's wheels: prepare.sh FOLDER [--python]
#
# FOLDER/runner  what a phone gets: targets/android's runner, ONNX Runtime, and the C library that both need
# FOLDER/cpu     what each processor says of itself, by its name in QEMU
# FOLDER/run     run CPU PROGRAM ARGUMENT…: a program in FOLDER/runner, on that processor; INSN=1 counts its instructions
# FOLDER/python  (--python) an ARM64 Python with numpy and ONNX Runtime, which starts its own child processes likewise
#
# Nothing here tells how fast a processor is. Outputs and numbers of instructions are those of a real one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" && work=$(cd "$1" && pwd)
ort=${ORT:-1.32.0} python=${PYTHON:-python3} cpu=cortex-a76
packages="qemu-user mmdebstrap unzip gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross libstdc++6-arm64-cross libgcc-s1-arm64-cross"

for program in qemu-aarch64 mmdebstrap unzip gcc aarch64-linux-gnu-gcc; do
    command -v "$program" >/dev/null && continue
    echo "$program is missing; on Debian: apt-get install --no-install-recommends $packages" >&2
    exit 2
done

# From 1.30 on, ONNX Runtime crashes on a /proc/cpuinfo that is not of its processor, and QEMU 7.2 shows it the host's. A file
# below QEMU's -L is seen in its place. It must not promise more than the processor that QEMU plays has.
describe() { # NAME PART FEATURES
    mkdir -p "$work/cpu/$1/proc"
    printf 'processor\t: 0\nBogoMIPS\t: 38.40\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: %s\nCPU revision\t: 4\n\n' "$3" "$2" >"$work/cpu/$1/proc/cpuinfo"
}
describe cortex-a53 0xd03 "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
describe cortex-a76 0xd0b "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"

wheel() { # REQUIREMENT: downloads the wheel for ARM64
    "$python" -m pip download -q --no-deps -d "$work/wheels" --only-binary=:all: --python-version 3.11 --implementation cp \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 "$1"
}
wheel "onnxruntime==$ort"
mkdir -p "$work/site" "$work/runner"
unzip -qo "$work/wheels/onnxruntime-$ort-"*.whl -d "$work/site"
ln -f "$work/site/onnxruntime/capi/libonnxruntime.so.$ort" "$work/runner/libonnxruntime.so"
for library in ld-linux-aarch64.so.1 libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libstdc++.so.6 libgcc_s.so.1; do
    cp -L "/usr/aarch64-linux-gnu/lib/$library" "$work/runner/"
done
CC=aarch64-linux-gnu-gcc "$here/../../targets/android/build.sh" "$work/runner/edrun"
gcc -O2 -shared -fPIC -o "$work/insn.so" "$here/insn.c"

cat >"$work/run" <<END
#!/bin/sh
cpu=\$1 program=\$2
shift 2
cd "$work/runner"
exec qemu-aarch64 -cpu "\$cpu" -L "$work/cpu/\$cpu" \${INSN:+-plugin "$work/insn.so"} ./ld-linux-aarch64.so.1 --library-path . "\$program" "\$@"
END
chmod +x "$work/run"
[ "${2:-}" = --python ] || exit 0

for requirement in numpy flatbuffers packaging protobuf; do wheel "$requirement"; done
for file in "$work/wheels/"*.whl; do unzip -qo "$file" -d "$work/site"; done
if [ ! -x "$work/root/usr/bin/python3.11" ]; then
    mmdebstrap --quiet --variant=extract --architectures=arm64 \
        --include=python3-minimal,libpython3.11-stdlib,libstdc++6,libgcc-s1,zlib1g,libexpat1,libffi8,libgomp1 bookworm "$work/root"
fi
mkdir -p "$work/root/proc"
cp "$work/cpu/$cpu/proc/cpuinfo" "$work/root/proc/cpuinfo"

# Python takes the name it was called by for its own program (-0), and starts this file again for a child process; so no
# binfmt_misc is needed, which only root can set up.
cat >"$work/python" <<END
#!/bin/sh
export PYTHONHOME="$work/root/usr" PYTHONPATH="$work/site" EDGEDISTILL_EMULATED="qemu-aarch64 as $cpu"
exec qemu-aarch64 -cpu $cpu -L "$work/root" -0 "$work/python" "$work/root/usr/bin/python3.11" "\$@"
END
chmod +x "$work/python"
