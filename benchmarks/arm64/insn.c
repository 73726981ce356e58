/* A plugin for qemu-aarch64 (7.2 and later) that counts executed instructions, and those that multiply in vectors.
 *
 * Prints one line of JSON to stderr at the end. Debian ships no qemu-plugin.h, so that what is used of it is declared here.
 * Encodings: Arm Architecture Reference Manual, C4.1 (A64 instruction set encoding).
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

EXPORT int qemu_plugin_version = 1;
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);

enum kind { ALL, SIMD, DOT, FMLA, KINDS };

static const char *const NAMES[KINDS] = {"all", "simd", "dot", "fmla"};
static uint64_t counts[KINDS];

static int is_simd(uint32_t word) {
    return ((word >> 25) & 7) == 7; /* data processing: SIMD and floating point */
}

static int is_dot(uint32_t word) {
    uint32_t vector = word & 0xbf20fc00, element = word & 0xbf00f400;
    return vector == 0x0e009400 || vector == 0x2e009400 || element == 0x0f00e000 || element == 0x2f00e000; /* S/UDOT */
}

static int is_fmla(uint32_t word) {
    return (word & 0xbfa0fc00) == 0x0e20cc00 || (word & 0xbf80f400) == 0x0f801000; /* vector, by element */
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    uint64_t here[KINDS] = {qemu_plugin_tb_n_insns(block)};
    (void)id;
    for (size_t i = 0; i < here[ALL]; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        here[SIMD] += is_simd(word);
        here[DOT] += is_dot(word);
        here[FMLA] += is_fmla(word);
    }
    for (int kind = 0; kind < KINDS; kind++)
        if (here[kind])
            qemu_plugin_register_vcpu_tb_exec_inline(block, 0, &counts[kind], here[kind]);
}

static void ended(qemu_plugin_id_t id, void *unused) {
    (void)id;
    (void)unused;
    fprintf(stderr, "{");
    for (int kind = 0; kind < KINDS; kind++)
        fprintf(stderr, "%s\"%s\": %" PRIu64, kind ? ", " : "\"instructions\": {", NAMES[kind], counts[kind]);
    fprintf(stderr, "}}\n");
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv) {
    (void)info;
    (void)argc;
    (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, 0);
    return 0;
}
