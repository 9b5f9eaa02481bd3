/* child_posix.c - see child.h. */
#define _GNU_SOURCE
#include "os/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

struct shared_block {
    atomic_bool returned;
    _Alignas(16) unsigned char data[];
};

/* A crash of the child is expected: nobody is told, and no handler of the program runs. An
 * interrupt from the terminal is the program's business. */
static void make_quiet(void)
{
    static const int deadly[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTERM};
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++) {
        signal(deadly[i], SIG_DFL);
    }
    signal(SIGINT, SIG_IGN);
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDERR_FILENO);
    }
}

static int wait_for(pid_t pid)
{
    int status = 0;
    pid_t got;
    do {
        got = waitpid(pid, &status, 0);
    } while (got < 0 && errno == EINTR);
    return got == pid && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

enum fb_child_end fb_child_run(
    void (*run)(void *shared, void *user), void *user, void *out, size_t size, int *death)
{
    size_t bytes = sizeof(struct shared_block) + size;
    struct shared_block *block =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *death = 0;
    if (block == MAP_FAILED) {
        return FB_CHILD_NONE;
    }
    pid_t pid = fork();
    if (pid == 0) {
        make_quiet();
        run(block->data, user);
        atomic_store(&block->returned, true);
        _exit(0);
    }
    enum fb_child_end end = FB_CHILD_NONE;
    if (pid > 0) {
        *death = wait_for(pid);
        end = atomic_load(&block->returned) ? FB_CHILD_RETURNED : FB_CHILD_DIED;
        memcpy(out, block->data, size);
    }
    munmap(block, bytes);
    return end;
}
