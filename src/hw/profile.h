/*
 * profile.h - what this machine can do, as measured: data and its file; measuring is elsewhere
 * (hw/disk.h, backend/compute.h, engine/machine.c).
 *
 * A profile is of one machine and one llama.cpp. One that is damaged, of another machine or too old
 * counts as none. It fills up: a run adds what its model needs and is not there yet.
 */
#ifndef FB_HW_PROFILE_H
#define FB_HW_PROFILE_H

#include "forebay.h"

#define FB_PROFILE_RATES 128
#define FB_PROFILE_DISKS 16
#define FB_PROFILE_DAYS  30 /* after these, what was measured is measured again */

/* The type under which rates of attention are kept: `decode` of one token and `batch` of many, both in
 * multiply-adds per second. */
#define FB_PROFILE_ATTENTION "attention"

/* Computing with weights of one type in one layout, on some threads. */
struct fb_profile_rate {
    char type[16]; /* as ggml calls it: "q4_K" */
    /* Of experts that are matrices of this size, of which a token uses so many: only `decode` and
     * `experts`. 0: large matrices. */
    int columns, rows, used;
    bool repacked; /* in the CPU's own layout */
    int threads;
    double decode;  /* bytes of weights per second, one token: weights come from memory */
    double batch;   /* multiply-adds per second, a batch of many tokens */
    double experts; /* the same, where each token has its choice of experts; 0: not known */
    double arrive;  /* bytes per second that are repacked; 0: not repacked */
};

/* A disk, as seen through a file on it. */
struct fb_profile_disk {
    uint64_t device;    /* the system's number */
    double bytes_per_s; /* random reads of 1 MiB, many in flight */
    double latency_s;   /* one read of 4 KiB alone */
    /* Bytes per second for blocks of 64 KiB, 256 KiB, 1 MiB, 4 MiB with 1, 4, 16 in flight. */
    double grid[4][3];
    int64_t measured; /* seconds since 1970 */
};
extern const uint32_t fb_profile_blocks[4];
extern const uint32_t fb_profile_depths[3];

#define FB_PROFILE_MACHINE 2048 /* the names of processors say all that they can do */

struct fb_profile {
    char machine[FB_PROFILE_MACHINE]; /* processor, cores, memory, llama.cpp: what it must match */
    int64_t measured;                 /* seconds since 1970, when it was begun */
    int cores;
    double other_cores; /* processors that other programs used while it was measured; the most */
    double memory_bytes_per_s[2]; /* read by one thread, by one per core */
    double op_s; /* one operation on a row of activations: what a node costs at least */
    int n_rates;
    struct fb_profile_rate rates[FB_PROFILE_RATES];
    int n_disks;
    struct fb_profile_disk disks[FB_PROFILE_DISKS];
};

/* Reads the profile at `path` for this machine. False, and an empty profile of this machine in
 * *out, when there is none; *why then says why in a few words ("it is of another machine"). */
bool fb_profile_load(
    const char *path, const char *machine, int64_t now, struct fb_profile *out, const char **why);

/* Writes it as a whole. False when it cannot. */
bool fb_profile_save(const char *path, const struct fb_profile *profile);

/* The same as text; the caller frees it. */
char *fb_profile_json(const struct fb_profile *profile);

/* NULL when not measured, or (disks) too old. */
const struct fb_profile_rate *fb_profile_rate(
    const struct fb_profile *profile, const char *type, bool repacked, int threads);
/* The same for experts of a size. */
const struct fb_profile_rate *fb_profile_expert_rate(const struct fb_profile *profile,
    const char *type, bool repacked, int threads, int columns, int rows, int used);
const struct fb_profile_disk *fb_profile_disk(
    const struct fb_profile *profile, uint64_t device, int64_t now);

/* Adds or replaces. Full: the oldest entry goes. */
void fb_profile_put_rate(struct fb_profile *profile, const struct fb_profile_rate *rate);
void fb_profile_put_disk(struct fb_profile *profile, const struct fb_profile_disk *disk);

#endif
