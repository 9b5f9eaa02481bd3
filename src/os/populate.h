/*
 * populate.h - memory taken on a thread of its own, while its owner reads into it or does other things.
 *
 *      start ---> (the owner goes on) ---> help until there is nothing left ---> end
 *
 * Before each piece, the memory that is left is looked at: nothing is taken of the reserve
 * (fb_memory_reserve). Ranges may be withdrawn at any time.
 *
 * Taking gigabytes costs as long as reading them from a fast disk, or longer where the system has to
 * find them first (virtual machines). The thread gives way to threads that compute.
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

/* Begins with the first of n ranges, which must stay reserved until fb_populator_end. Their contents
 * stay as they are, also what is written meanwhile. Without a thread all is left to fb_populator_help. */
struct fb_populator *fb_populator_start(const struct fb_vm_range *ranges, int n);

enum fb_populated {
    FB_POPULATED_PIECE, /* a piece was taken */
    FB_POPULATED_ALL,   /* nobody has anything left to begin with, and nothing is being taken */
    FB_POPULATED_NO_ROOM
};

/* Takes a piece of what nobody has begun with. *done: bytes that were begun with. */
enum fb_populated fb_populator_help(struct fb_populator *populator, uint64_t *done);

/* Whole pages of this range are not taken any more; waits for a piece of it that is being taken. NULL
 * is fine. */
void fb_populator_withdraw(struct fb_populator *populator, void *base, uint64_t bytes);

/* Leaves what nobody has begun with. NULL is fine. */
void fb_populator_end(struct fb_populator *populator);

#endif
