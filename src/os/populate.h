/*
 * populate.h - populates memory on a thread of its own, while the owner reads into it or does other
 * work.
 *
 *      start ---> (the owner continues) ---> help until nothing is left ---> end
 *
 * Populating gigabytes takes as long as reading them from a fast disk, or longer on virtual
 * machines, where the host has to find them first. The thread runs at the lowest priority.
 */
#ifndef FB_OS_POPULATE_H
#define FB_OS_POPULATE_H

#include <stdbool.h>
#include <stdint.h>

struct fb_vm_range {
    void *base; /* page-aligned */
    uint64_t bytes;
};

struct fb_populator;

/* Starts populating n ranges, in order; they must stay reserved until fb_populator_end. Keeps their
 * contents, also data written meanwhile. If no thread can be started, fb_populator_help does all
 * the work. */
struct fb_populator *fb_populator_start(const struct fb_vm_range *ranges, int n);

/* Populates the next piece on the calling thread. False when none is left; it has then waited for
 * the thread to finish its piece. *done: bytes populated or being populated. */
bool fb_populator_help(struct fb_populator *populator, uint64_t *done);

/* Stops after the piece in progress, if any, and frees. NULL is fine. */
void fb_populator_end(struct fb_populator *populator);

#endif
