/* heap_macos.c - see heap.h. */
#include "os/heap.h"

#include <malloc/malloc.h>

void fb_heap_share(void)
{
}

void fb_heap_trim(void)
{
    malloc_zone_pressure_relief(NULL, 0);
}
