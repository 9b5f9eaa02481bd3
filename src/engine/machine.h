/* machine.h - the profile of this machine: from the cache, or measured now. */
#ifndef FB_ENGINE_MACHINE_H
#define FB_ENGINE_MACHINE_H

#include "hw/profile.h"
#include "model/weights.h"

/* Weights of one type (enum ggml_type): experts of this size, of which a token uses so many, or, with
 * zeros, any. */
struct fb_machine_kind {
    int type, columns, rows, used;
};

/* The kinds of the weights, each once. Returns how many, at most `cap`; further ones are left out. */
int fb_machine_kinds_of(const struct fb_weights *weights, struct fb_machine_kind *kinds, int cap);

struct fb_machine_request {
    const struct fb_machine_kind *kinds; /* to have rates for */
    int n_kinds;
    bool repack;         /* also in the CPU's own layout */
    int threads;         /* compute with these; 0: one, and one per core */
    uint64_t room_bytes; /* memory that measuring may take; too little: nothing is measured */
    bool again;          /* measure even what is known */
    forebay_progress progress;
    void *progress_user;
};

/* Threads to compute with: one per core, as far as ggml has room for them. */
int fb_machine_threads(void);

/* Fills the profile with what is known and, where there is a place to keep it, measures what is
 * missing and keeps it. Without that place only what `again` asks for is measured. E_CANCELLED. */
enum forebay_status fb_machine_profile(
    const struct fb_machine_request *request, struct fb_profile *out, struct forebay_error *err);

/* Whether the profile knows the disk that holds the file, and lately enough. */
bool fb_machine_known_disk(const struct fb_profile *profile, const struct fb_file *file);

/* Adds what the disk under the files can do, and keeps it. `seconds` in all. */
void fb_machine_disk(struct fb_profile *profile, struct fb_file *const *files, int n_files,
    const char *io_method, double seconds);

#endif
