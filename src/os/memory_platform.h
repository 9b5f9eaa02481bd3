/*
 * memory_platform.h - what memory_posix.c needs from each system (memory_linux.c, memory_macos.c).
 * Ranges are whole pages.
 */
#ifndef FB_OS_MEMORY_PLATFORM_H
#define FB_OS_MEMORY_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>

#include "os/memory.h"

/* The functions of memory.h, without the override. */
void fb_memory_state_now(struct fb_memory_state *out);
struct fb_memory_reader *fb_memory_reader_open(void);
void fb_memory_reader_look(struct fb_memory_reader *reader, struct fb_memory_state *out);
void fb_memory_reader_close(struct fb_memory_reader *reader);

/* Bytes that the system will still promise as writable memory where it never promises more than it has;
 * else UINT64_MAX. */
uint64_t fb_vm_commit_left(void);

/* Writable private memory of this process. 0 where the system does not say. */
uint64_t fb_vm_data_bytes(void);

/* Asks for huge pages; advice. */
void fb_vm_advise_huge(void *base, size_t size);
void fb_vm_advise_small(void *base, size_t size);

/* Makes every page present without changing it. False when there is no call for that. */
bool fb_vm_populate_call(void *base, size_t size);

/* Gives the pages back; they read as zero. False when the system refuses (locked pages). */
bool fb_vm_discard_call(void *base, size_t size);

#endif
