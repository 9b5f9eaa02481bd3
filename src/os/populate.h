/*
 * populate.h - populates memory on a thread of its own, while the owner reads into it or does other
 * work.
 *
 *      start ---> (the owner continues) ---> help until nothing is left ---> end
 *
 * Before each piece, the memory that is left is checked: populating stops at the reserve
 * (fb_memory_reserve). Ranges may be withdrawn at any time.
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

enum fb_populated {
    FB_POPULATED_PIECE, /* a piece was populated */
    FB_POPULATED_ALL,   /* nothing is left to begin, and nothing is in progress */
    FB_POPULATED_NO_ROOM
};

/* Populates the next piece on the calling thread. *done: bytes populated or being populated. */
enum fb_populated fb_populator_help(struct fb_populator *populator, uint64_t *done);

/* Whole pages of this range are not populated any more; waits for a piece of it in progress. NULL
 * is fine. */
void fb_populator_withdraw(struct fb_populator *populator, void *base, uint64_t bytes);

/* Stops after the piece in progress, if any, and frees. NULL is fine. */
void fb_populator_end(struct fb_populator *populator);

#endif
