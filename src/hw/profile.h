/*
 * profile.h - what this machine can do, as measured: data and its file; measuring is elsewhere
 * (hw/disk.h, backend/compute.h, engine/machine.c).
 *
 * A profile is of one machine and one llama.cpp. One that is damaged, of another machine or too old
 * counts as none. It fills up: a run adds what its model needs and is not there yet.
 */
#ifndef ST_HW_PROFILE_H
#define ST_HW_PROFILE_H

#include "strata.h"

#define ST_PROFILE_RATES 128
#define ST_PROFILE_DISKS 16
#define ST_PROFILE_DAYS  30 /* after these, what was measured is measured again */

/* The type under which rates of attention are kept: `decode` of one token and `batch` of many, both in
 * multiply-adds per second. */
#define ST_PROFILE_ATTENTION "attention"

/* Computing with weights of one type in one layout, on some threads. */
struct st_profile_rate {
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
struct st_profile_disk {
    uint64_t device;    /* the system's number */
    double bytes_per_s; /* random reads of 1 MiB, many in flight */
    double latency_s;   /* one read of 4 KiB alone */
    /* Bytes per second for blocks of 64 KiB, 256 KiB, 1 MiB, 4 MiB with 1, 4, 16 in flight. */
    double grid[4][3];
    int64_t measured; /* seconds since 1970 */
};
extern const uint32_t st_profile_blocks[4];
extern const uint32_t st_profile_depths[3];

#define ST_PROFILE_MACHINE 2048 /* the names of processors say all that they can do */

struct st_profile {
    char machine[ST_PROFILE_MACHINE]; /* processor, cores, memory, llama.cpp: what it must match */
    int64_t measured;                 /* seconds since 1970, when it was begun */
    int cores;
    double memory_bytes_per_s[2]; /* read by one thread, by one per core */
    double op_s; /* one operation on a row of activations: what a node costs at least */
    int n_rates;
    struct st_profile_rate rates[ST_PROFILE_RATES];
    int n_disks;
    struct st_profile_disk disks[ST_PROFILE_DISKS];
};

/* Reads the profile at `path` for this machine. False, and an empty profile of this machine in
 * *out, when there is none; *why then says why in a few words ("it is of another machine"). */
bool st_profile_load(
    const char *path, const char *machine, int64_t now, struct st_profile *out, const char **why);

/* Writes it as a whole. False when it cannot. */
bool st_profile_save(const char *path, const struct st_profile *profile);

/* The same as text; the caller frees it. */
char *st_profile_json(const struct st_profile *profile);

/* NULL when not measured, or (disks) too old. */
const struct st_profile_rate *st_profile_rate(
    const struct st_profile *profile, const char *type, bool repacked, int threads);
/* The same for experts of a size. */
const struct st_profile_rate *st_profile_expert_rate(const struct st_profile *profile,
    const char *type, bool repacked, int threads, int columns, int rows, int used);
const struct st_profile_disk *st_profile_disk(
    const struct st_profile *profile, uint64_t device, int64_t now);

/* Adds or replaces. Full: the oldest entry goes. */
void st_profile_put_rate(struct st_profile *profile, const struct st_profile_rate *rate);
void st_profile_put_disk(struct st_profile *profile, const struct st_profile_disk *disk);

#endif
