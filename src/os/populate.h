/*
 * populate.h - memory taken on a thread of its own, while its owner reads into it or does other things.
 *
 *      start ---> (the owner goes on) ---> help until there is nothing left ---> end
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

/* Takes a piece of what nobody has begun with. False when there is none; the last pieces are waited
 * for then. *done: bytes that were begun with. */
bool fb_populator_help(struct fb_populator *populator, uint64_t *done);

/* Leaves what nobody has begun with. NULL is fine. */
void fb_populator_end(struct fb_populator *populator);

#endif
