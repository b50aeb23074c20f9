/* Emulates the AMX int8 tile instructions in a SIGILL handler, on processors without them.

   An instruction that is not one of them, or that a real processor would refuse (tiles not configured, shapes that do
   not fit), faults as it would have: the default action is restored and the instruction runs again. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64 };

struct state {
    uint8_t config[64];
    uint8_t tile[TILES][ROWS][ROW_BYTES];
};

struct operand {
    uint64_t base;   /* of the whole address: base + displacement */
    uint64_t index;  /* index << scale, which is the stride of a tile's rows */
    int has_sib;
    const uint8_t *end;
};

static __thread struct state *mine __attribute__((tls_model("initial-exec")));
static uint64_t products, configurations, releases, split;

uint64_t amx_products(void) { return __atomic_load_n(&products, __ATOMIC_SEQ_CST); }
uint64_t amx_configurations(void) { return __atomic_load_n(&configurations, __ATOMIC_SEQ_CST); }
uint64_t amx_split(void) { return __atomic_load_n(&split, __ATOMIC_SEQ_CST); } /* moves of rows that lie in two lines */
uint64_t amx_releases(void) { return __atomic_load_n(&releases, __ATOMIC_SEQ_CST); }

static void count(uint64_t *what) { __atomic_fetch_add(what, 1, __ATOMIC_SEQ_CST); }

static struct state *tiles_of_this_thread(void) {
    if (!mine) {
        void *memory = mmap(0, sizeof *mine, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory != MAP_FAILED) mine = memory;
    }
    return mine;
}

static uint64_t general(const ucontext_t *context, int number) {
    static const int place[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return (uint64_t)context->uc_mcontext.gregs[place[number]];
}

/* The memory operand at the ModRM byte `at`; x and b are the bits that extend index and base. */
static struct operand memory_operand(const ucontext_t *context, const uint8_t *at, int x, int b) {
    struct operand found = {0, 0, 0, 0};
    int mode = *at >> 6, low = *at & 7, relative = 0;
    int32_t wide;
    at++;
    if (low == 4) {
        int index = (*at >> 3 & 7) | x << 3, scale = *at >> 6;
        found.has_sib = 1;
        low = *at++ & 7;
        if (index != 4) found.index = general(context, index) << scale;
        if (low == 5 && mode == 0) mode = 4;
        else found.base = general(context, low | b << 3);
    } else if (low == 5 && mode == 0) {
        mode = 4;
        relative = 1;
    } else {
        found.base = general(context, low | b << 3);
    }
    if (mode == 1) found.base += (int64_t)(int8_t)*at++;
    if (mode == 2 || mode == 4) {
        memcpy(&wide, at, 4);
        at += 4;
        found.base += (int64_t)wide;
    }
    if (relative) found.base += (uint64_t)at;
    found.end = at;
    return found;
}

static int rows(const struct state *s, int t) { return s->config[48 + t]; }
static int row_bytes(const struct state *s, int t) { return s->config[16 + 2 * t] | s->config[17 + 2 * t] << 8; }
static int usable(const struct state *s, int t) { return t < TILES && s->config[0] == 1 && rows(s, t) && row_bytes(s, t); }

static int configure(struct state *s, const uint8_t *from) {
    if (from[0] > 1 || from[1]) return 0; /* no start row: nothing was interrupted */
    for (int i = 2; i < 16; i++)
        if (from[i] || from[i + 30] || from[i % 8 + 56]) return 0; /* reserved, as palette 1 has eight tiles */
    for (int t = 0; t < TILES; t++) {
        int bytes = from[16 + 2 * t] | from[17 + 2 * t] << 8;
        if (from[48 + t] > ROWS || bytes > ROW_BYTES || (!bytes != !from[48 + t])) return 0;
    }
    memset(s, 0, sizeof *s);
    if (from[0]) memcpy(s->config, from, 64);
    return 1;
}

static int multiply(struct state *s, int c, int a, int b, int a_signed, int b_signed) {
    if (!usable(s, a) || !usable(s, b) || !usable(s, c) || a == b || a == c || b == c) return 0;
    if (row_bytes(s, a) != 4 * rows(s, b) || rows(s, a) != rows(s, c) || row_bytes(s, b) != row_bytes(s, c)) return 0;
    for (int i = 0; i < rows(s, c); i++)
        for (int j = 0; j < row_bytes(s, c) / 4; j++) {
            uint32_t sum;
            memcpy(&sum, &s->tile[c][i][4 * j], 4);
            for (int k = 0; k < row_bytes(s, a); k++) {
                uint8_t x = s->tile[a][i][k], y = s->tile[b][k / 4][4 * j + k % 4];
                sum += (uint32_t)((a_signed ? (int8_t)x : (int)x) * (b_signed ? (int8_t)y : (int)y));
            }
            memcpy(&s->tile[c][i][4 * j], &sum, 4);
        }
    count(&products);
    return 1;
}

static int move(struct state *s, int t, uint64_t address, uint64_t stride, int store) {
    if (!usable(s, t)) return 0;
    if ((address | stride) % ROW_BYTES) count(&split);
    if (!store) memset(s->tile[t], 0, sizeof s->tile[t]);
    for (int i = 0; i < rows(s, t); i++) {
        void *there = (void *)(address + (uint64_t)i * stride);
        if (store) memcpy(there, s->tile[t][i], row_bytes(s, t));
        else memcpy(s->tile[t][i], there, row_bytes(s, t));
    }
    return 1;
}

/* The address after the instruction, or 0 where it is not one that this file knows and a processor would run. */
static const uint8_t *run(const ucontext_t *context, const uint8_t *code) {
    struct state *s = tiles_of_this_thread();
    if (!s || code[0] != 0xC4 || (code[1] & 0x1F) != 2 || code[2] & 0x84) return 0; /* map 0F38, W = 0, L = 0 */
    int r = !(code[1] & 0x80), x = !(code[1] & 0x40), b = !(code[1] & 0x20);
    int other = ~(code[2] >> 3) & 15, prefix = code[2] & 3, opcode = code[3], modrm = code[4];
    int reg = (modrm >> 3 & 7) | r << 3, rm = (modrm & 7) | b << 3, registers = modrm >> 6 == 3;
    if (opcode == 0x5E && registers) /* prefix: none uu, 66 us, F3 su, F2 ss */
        return multiply(s, reg, rm, other, prefix >= 2, prefix & 1) ? code + 5 : 0;
    if (other) return 0;
    if (opcode == 0x49 && registers) {
        if (prefix == 0 && modrm == 0xC0) {
            memset(s, 0, sizeof *s);
            count(&releases);
            return code + 5;
        }
        if (prefix != 3 || (modrm & 7) || !usable(s, reg)) return 0;
        memset(s->tile[reg], 0, sizeof s->tile[reg]);
        return code + 5;
    }
    if (registers) return 0;
    struct operand memory = memory_operand(context, code + 4, x, b);
    if (opcode == 0x49 && prefix == 0 && reg == 0) {
        if (!configure(s, (const uint8_t *)(memory.base + memory.index))) return 0;
        count(&configurations);
        return memory.end;
    }
    if (opcode != 0x4B || prefix == 0 || !memory.has_sib) return 0; /* 66 loaddt1, F3 stored, F2 loadd */
    return move(s, reg, memory.base, memory.index, prefix == 2) ? memory.end : 0;
}

static void handle(int number, siginfo_t *info, void *pointer) {
    ucontext_t *context = pointer;
    const uint8_t *next = run(context, (const uint8_t *)context->uc_mcontext.gregs[REG_RIP]);
    (void)info;
    if (next) context->uc_mcontext.gregs[REG_RIP] = (greg_t)next;
    else signal(number, SIG_DFL);
}

int amx_install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO;
    return sigaction(SIGILL, &action, 0);
}
