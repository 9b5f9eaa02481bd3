/*
 * memory_platform.h - the functions that memory_posix.c needs from each system: memory_linux.c and
 * reader_linux.c, memory_macos.c and reader_macos.c. Ranges are whole pages.
 */
#ifndef FB_OS_MEMORY_PLATFORM_H
#define FB_OS_MEMORY_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>

struct fb_memory_reader;
struct fb_memory_state;

/* As fb_memory_state and fb_memory_reader_* in memory.h, without the override for tests. */
void fb_memory_state_now(struct fb_memory_state *out);
struct fb_memory_reader *fb_memory_reader_open(void);
void fb_memory_reader_look(struct fb_memory_reader *reader, struct fb_memory_state *out);
void fb_memory_reader_close(struct fb_memory_reader *reader);

/* Bytes that the system will still promise as writable memory where it never promises more than it
 * has; else UINT64_MAX. */
uint64_t fb_vm_commit_left(void);

/* Writable private memory of this process. 0 where the system does not say. */
uint64_t fb_vm_data_bytes(void);

/* Ask for huge pages, and for none. Advice. */
void fb_vm_advise_huge(void *base, size_t size);
void fb_vm_advise_small(void *base, size_t size);

/* Makes every page present without changing it. False when the system has no call for that. */
bool fb_vm_populate_call(void *base, size_t size);

/* Releases the pages, which read as zero then. False when the system refuses (locked pages). */
bool fb_vm_discard_call(void *base, size_t size);

#endif
