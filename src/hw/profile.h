/*
 * profile.h - the measured speed of this machine: the data, its file, and queries. The measuring is
 * in hw/disk.h, backend/compute.h and engine/machine.c.
 *
 * A profile is valid for one machine and one version of llama.cpp; a file that is damaged, of
 * another machine or too old is ignored. Each run adds the measurements that its model needs and
 * that are missing. One thread at a time.
 */
#ifndef FB_HW_PROFILE_H
#define FB_HW_PROFILE_H

#include "forebay.h"

#define FB_PROFILE_RATES   128
#define FB_PROFILE_DISKS   16
#define FB_PROFILE_DEVICES 16
#define FB_PROFILE_DAYS    30 /* measurements are repeated after so many days */

#define FB_PROFILE_DEVICE 128 /* bytes of a device's name and description, as ggml has them */

/* The type name for rates of attention: `decode` of one token and `batch` of many, both in
 * multiply-adds per second. */
#define FB_PROFILE_ATTENTION "attention"

/* The rate of computing with weights of one type and layout, on a number of threads. */
struct fb_profile_rate {
    char device[FB_PROFILE_DEVICE]; /* that computes; "": the CPU */
    char type[16];                  /* as ggml calls it: "q4_K" */
    /* For experts: size of their matrices, and experts per token; only `decode` and `experts` are
     * set. 0: for large matrices. */
    int columns, rows, used;
    bool repacked; /* in llama.cpp's layout for this CPU */
    int threads;
    double decode;  /* bytes of weights per second, one token, weights not in cache */
    double batch;   /* multiply-adds per second, a batch of many tokens */
    double experts; /* the same, when each token uses experts of its own; 0: not known */
    double unpack;  /* bytes repacked per second; 0: not repacked */
};

/* A disk, as seen through a file on it. */
struct fb_profile_disk {
    uint64_t device;    /* the system's device number */
    double bytes_per_s; /* random reads of 1 MiB, many in flight */
    double latency_s;   /* one read of 4 KiB alone */
    /* Bytes per second for blocks of 64 KiB, 256 KiB, 1 MiB, 4 MiB with 1, 4, 16 in flight. */
    double grid[4][3];
    int64_t measured; /* seconds since 1970 */
};
extern const uint32_t fb_profile_blocks[4];
extern const uint32_t fb_profile_depths[3];

/* A device that computes, beside its rates. */
struct fb_profile_device {
    char name[FB_PROFILE_DEVICE];
    double upload_bytes_per_s; /* from memory to the device, a few MiB at a time */
    double op_s;               /* one operation on a row of activations, among others */
    double turn_s;             /* one operation alone, and reading its result */
};

#define FB_PROFILE_MACHINE 2048 /* processor names list all instruction sets */

struct fb_profile {
    char machine[FB_PROFILE_MACHINE]; /* processor, cores, memory, llama.cpp: must match */
    int64_t measured;                 /* when the profile was created, seconds since 1970 */
    int cores;
    double other_cores; /* processors that other programs used while it was measured; the most */
    double memory_bytes_per_s[2]; /* reading, by one thread and by one per core */
    double op_s;                  /* one operation on a row of activations: minimum of a node */
    int n_rates;
    struct fb_profile_rate rates[FB_PROFILE_RATES];
    int n_devices;
    struct fb_profile_device devices[FB_PROFILE_DEVICES];
    int n_disks;
    struct fb_profile_disk disks[FB_PROFILE_DISKS];
};

/* Reads the profile at `path` for this machine. False when there is no valid one: then *out is an
 * empty profile of this machine, and *why the reason in a few words ("it is of another
 * machine"). */
bool fb_profile_load(
    const char *path, const char *machine, int64_t now, struct fb_profile *out, const char **why);

/* Writes the file atomically. False on failure. */
bool fb_profile_save(const char *path, const struct fb_profile *profile);

/* The contents of the file as text; the caller frees it. */
char *fb_profile_json(const struct fb_profile *profile);

/* The measurement, or NULL when there is none, or (disks) it is too old. */
const struct fb_profile_rate *fb_profile_rate(
    const struct fb_profile *profile, const char *type, bool repacked, int threads);
/* The same for experts of that size. */
const struct fb_profile_rate *fb_profile_expert_rate(const struct fb_profile *profile,
    const char *type, bool repacked, int threads, int columns, int rows, int used);
/* The same on a device; with columns == 0 for large matrices. */
const struct fb_profile_rate *fb_profile_device_rate(const struct fb_profile *profile,
    const char *device, const char *type, int columns, int rows, int used);
const struct fb_profile_device *fb_profile_device(
    const struct fb_profile *profile, const char *name);
const struct fb_profile_disk *fb_profile_disk(
    const struct fb_profile *profile, uint64_t device, int64_t now);

/* Forgets the rates of the CPU. */
void fb_profile_drop_cpu(struct fb_profile *profile);

/* Adds or replaces an entry. When full, the oldest entry is dropped. */
void fb_profile_put_rate(struct fb_profile *profile, const struct fb_profile_rate *rate);
void fb_profile_put_device(struct fb_profile *profile, const struct fb_profile_device *device);
void fb_profile_put_disk(struct fb_profile *profile, const struct fb_profile_disk *disk);

#endif
