#define _GNU_SOURCE
#include "device.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "session.h"

/* Bind this process to as many CPUs as it has threads: the last, which are the fast ones of most phones. */
void pin(int threads) {
    cpu_set_t allowed, chosen;
    CPU_ZERO(&chosen);
    if (sched_getaffinity(0, sizeof allowed, &allowed))
        fail(FAILED, "the CPUs of this process cannot be read");
    if (threads > CPU_COUNT(&allowed))
        fail(FAILED, "%d threads were requested, but this device gives the process %d CPUs", threads, CPU_COUNT(&allowed));
    for (int cpu = CPU_SETSIZE - 1; cpu >= 0 && CPU_COUNT(&chosen) < threads; cpu--)
        if (CPU_ISSET(cpu, &allowed))
            CPU_SET(cpu, &chosen);
    sched_setaffinity(0, sizeof chosen, &chosen);
}

void print_affinity(void) {
    cpu_set_t bound;
    const char *comma = "";
    printf("\"affinity\": [");
    if (!sched_getaffinity(0, sizeof bound, &bound))
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, &bound)) {
                printf("%s%d", comma, cpu);
                comma = ", ";
            }
    printf("]");
}

void print_bytes(const char *name, int64_t bytes) {
    if (bytes < 0)
        printf(", \"%s\": null", name);
    else
        printf(", \"%s\": %lld", name, (long long)bytes);
}

/* Print the emulator of this processor, or null: QEMU does not emulate the link of the thread, which shows QEMU. */
void print_emulated(void) {
    char path[4096];
    const char *declared = getenv("EDGEDISTILL_EMULATED");
    ssize_t length = readlink("/proc/thread-self/exe", path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    const char *slash = strrchr(path, '/'), *seen = slash ? slash + 1 : path;
    if (!(declared && *declared) && strncmp(seen, "qemu-", 5)) {
        printf("null");
        return;
    }
    print_json(declared && *declared ? declared : seen);
}

size_t cache_clearing_bytes(void) {
    size_t largest = (size_t)32 << 20;
    for (int i = 0; i < 10; i++) {
        char path[80], unit;
        size_t size;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        FILE *file = fopen(path, "r");
        if (!file)
            break;
        if (fscanf(file, "%zu%c", &size, &unit) == 2 && (unit == 'K' || unit == 'M')) {
            size <<= unit == 'K' ? 10 : 20;
            largest = size > largest ? size : largest;
        }
        fclose(file);
    }
    return 2 * largest;
}

int64_t status_bytes(const char *field) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    int64_t found = -1;
    if (!file)
        return -1;
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, field, strlen(field)) && line[strlen(field)] == ':')
            found = atoll(line + strlen(field) + 1) * 1024;
    fclose(file);
    return found;
}

int reset_peak(void) {
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file)
        return 0;
    int written = fputs("5", file) >= 0;
    return fclose(file) == 0 && written;
}
