/* This process and its processor: CPUs, memory, emulator. */
#ifndef EDGEDISTILL_DEVICE_H
#define EDGEDISTILL_DEVICE_H

#include <stddef.h>
#include <stdint.h>

/* Bind this process to as many CPUs as it has threads: the last, which are the fast ones of most phones. */
void pin(int threads);

/* A field of /proc/self/status in bytes, or -1. */
int64_t status_bytes(const char *field);

/* Reset the peak of resident memory; return whether the kernel supports it. */
int reset_peak(void);

/* The bytes to write so that no cache of the CPU keeps a model: twice the largest cache, and 64 MiB where that is not known. */
size_t cache_clearing_bytes(void);

/* Print "affinity": [CPUs of this process]. */
void print_affinity(void);

/* Print , "NAME": BYTES, or null below 0. */
void print_bytes(const char *name, int64_t bytes);

/* Print the emulator of this processor, or null: QEMU does not emulate the link of the thread, which shows QEMU. */
void print_emulated(void);

#endif
