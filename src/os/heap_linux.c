/* heap_linux.c - see heap.h. */
#include "os/heap.h"

#include <malloc.h>

/* Only glibc has heaps of threads, of which it never trims the last free block. */
void fb_heap_share(void)
{
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, 1);
#endif
}

void fb_heap_trim(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}
