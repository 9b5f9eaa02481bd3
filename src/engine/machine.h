/* machine.h - the profile of this machine: read from the cache directory, completed by
 * measuring. */
#ifndef FB_ENGINE_MACHINE_H
#define FB_ENGINE_MACHINE_H

#include "ggml-backend.h"
#include "hw/profile.h"
#include "model/weights.h"

/* Weights whose rate is measured. With columns == 0: any of the type. */
struct fb_machine_kind {
    int type;          /* enum ggml_type */
    int columns, rows; /* size of an expert's matrix */
    int used;          /* experts per token */
};

/* The kinds of the weights, each once. Returns how many, at most `cap`; further ones are left
 * out. */
int fb_machine_kinds_of(const struct fb_weights *weights, struct fb_machine_kind *kinds, int cap);

/* Adds the types of all matrices, as a device holds small ones, too. n: kinds so far. */
int fb_machine_add_types(
    const struct fb_catalog *catalog, struct fb_machine_kind *kinds, int n, int cap);

struct fb_machine_request {
    const struct fb_machine_kind *kinds; /* the profile must have rates of */
    int n_kinds;
    bool repack;         /* also measure the CPU's own layout */
    int threads;         /* to measure with; 0: first one, then one per core */
    uint64_t room_bytes; /* memory that measuring may take; if too little, nothing is measured */
    int device_batch;    /* tokens of a batch on a device */
    bool again;          /* measure known rates, too */
    forebay_progress progress; /* steps; may be NULL */
    void *progress_user;
};

/* Other programs use more processors than this: what is measured then is too slow. */
#define FB_BUSY_CORES 0.25

/* Threads to compute with: one per core, at most GGML_MAX_N_THREADS. */
int fb_machine_threads(void);

/* Fills the profile with the known rates, measures the missing ones and saves them. Without a cache
 * directory nothing is measured unless `again`. What was measured while the machine was busy counts
 * only as long as it is busy (other_cores of the profile); then it is measured again. Blocks for
 * seconds while measuring. E_CANCELLED. */
enum forebay_status fb_machine_profile(
    const struct fb_machine_request *request, struct fb_profile *out, struct forebay_error *err);

/* A device as the profile calls it. */
void fb_machine_device_name(ggml_backend_dev_t dev, char name[FB_PROFILE_DEVICE]);

/* Measures what the profile lacks of a device, and saves it; rq->room_bytes are the device's.
 * Without a cache directory nothing is measured. Blocks for seconds, or for minutes where a driver
 * compiles kernels slowly. E_CANCELLED. */
enum forebay_status fb_machine_measure_device(const struct fb_machine_request *request,
    ggml_backend_dev_t dev, struct fb_profile *profile, struct forebay_error *err);

/* Whether there is a place to keep measurements; and keeps them there. */
bool fb_machine_remembers(void);
void fb_machine_remember(const struct fb_profile *profile);

/* Whether the profile has recent figures of the disk that holds the file. */
bool fb_machine_known_disk(const struct fb_profile *profile, const struct fb_file *file);

/* The figures of the disk under the files. Where the profile has none, the disk is measured for a
 * second or two, and they are kept. NULL: there is no place to keep them, or it failed. */
const struct fb_profile_disk *fb_machine_usual_disk(
    struct fb_profile *profile, struct fb_file *const *files, int n_files, const char *io_method);

/* Measures the disk under the files for some `seconds`, adds it to the profile and saves that. */
void fb_machine_disk(struct fb_profile *profile, struct fb_file *const *files, int n_files,
    const char *io_method, double seconds);

#endif
