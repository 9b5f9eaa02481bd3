/* test_line.c - reading lines on a pseudo-terminal: typed, pasted, from the history. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cmd/line.c" /* the program is not a library */
#include "cmd/terminal.c"

#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char cache[256];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static int make_cache(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(cache, sizeof cache, "%s/forebay-line-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(cache) && setenv("FOREBAY_CACHE_DIR", cache, 1) == 0 &&
                   setenv("HOME", cache, 1) == 0 && setenv("TERM", "xterm", 1) == 0
               ? 0
               : -1;
}

static int remove_cache(void **state)
{
    (void)state;
    return nftw(cache, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Reads lines until the end of input and writes each, and an end mark, to the pipe. */
static void child(const char *terminal, int results)
{
    setsid();
    int fd = open(terminal, O_RDWR);
    for (int to = 0; to < 3; to++) {
        dup2(fd, to);
    }
    struct line_reader *reader = line_reader_new();
    const char *text;
    size_t n;
    while (line_read(reader, "> ", &text, &n) == LINE_READ) {
        if (write(results, text, n) < 0 || write(results, "$", 1) < 0) {
            _exit(1);
        }
    }
    line_reader_free(reader);
    _exit(0);
}

/* Waits until the terminal shows the text. */
static void wait_for(int master, const char *text)
{
    char shown[65536];
    size_t n = 0;
    struct pollfd ready = {.fd = master, .events = POLLIN};
    while (n < sizeof shown - 1 && poll(&ready, 1, 20000) == 1) {
        ssize_t got = read(master, shown + n, sizeof shown - 1 - n);
        if (got <= 0) {
            break;
        }
        n += (size_t)got;
        if (memmem(shown, n, text, strlen(text))) {
            return;
        }
    }
    fail_msg("the terminal did not show %s", text + 1);
}

/* Types the bytes, in pieces that the terminal's buffer holds, and discards what is shown. */
static void send(int master, const char *keys, size_t length)
{
    char shown[4096];
    for (size_t at = 0; at < length;) {
        ssize_t done = write(master, keys + at, length - at > 256 ? 256 : length - at);
        at += done > 0 ? (size_t)done : 0;
        struct pollfd ready = {.fd = master, .events = POLLIN | POLLOUT};
        assert_int_equal(poll(&ready, 1, 20000), 1);
        while (read(master, shown, sizeof shown) > 0) {
        }
    }
}

/* Waits for the next line that was read, and its end mark. Returns the length of all results. */
static size_t receive(int master, int from, char *results, size_t n, size_t cap)
{
    char shown[4096];
    struct pollfd ready[2] = {{.fd = from, .events = POLLIN}, {.fd = master, .events = POLLIN}};
    while (poll(ready, 2, 20000) > 0) {
        while (read(master, shown, sizeof shown) > 0) {
        }
        ssize_t got = ready[0].revents ? read(from, results + n, cap - 1 - n) : 0;
        n += got > 0 ? (size_t)got : 0;
        if (got > 0 && results[n - 1] == '$') {
            break;
        }
    }
    results[n] = 0;
    return n;
}

/* Types the text, of which each piece up to '|' makes one line. Returns the lines that were read,
 * each followed by '$'. */
static const char *type(const char *text)
{
    static char results[1 << 20];
    int pipe_fds[2], status;
    size_t n = 0;
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    assert_int_equal(pipe(pipe_fds), 0);
    const char *terminal = ptsname(master);
    pid_t pid = fork();
    if (pid == 0) {
        close(pipe_fds[0]);
        child(terminal, pipe_fds[1]);
    }
    close(pipe_fds[1]);
    wait_for(master, "\033[?2004h");
    fcntl(master, F_SETFL, O_NONBLOCK);
    for (const char *at = text; *at;) {
        size_t length = strcspn(at, "|");
        send(master, at, length);
        n = receive(master, pipe_fds[0], results, n, sizeof results);
        at += length + (at[length] == '|');
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    close(pipe_fds[0]);
    close(master);
    return results;
}

#define PASTE(text) "\033[200~" text "\033[201~"

static void test_pasted_lines_are_one_message(void **state)
{
    (void)state;
    assert_string_equal(type("typed\r"), "typed$");
    assert_string_equal(type(PASTE("one\rtwo\rthree") "\r"), "one\ntwo\nthree$");
    assert_string_equal(type(PASTE("one\ntwo\n") "\r"), "one\ntwo$");
    assert_string_equal(type("a " PASTE("b\r\tc") " d\r|next\r"), "a b\n\tc d$next$");
    assert_string_equal(type(PASTE("a\r") PASTE("b\r") "\r"), "a\nb$");
    assert_string_equal(type(PASTE("\xc3\xa4\r\xe4\xb8\x96") "\r"), "\xc3\xa4\n\xe4\xb8\x96$");
    assert_string_equal(type(PASTE("x\033[Ay\007z") "\r"), "x[Ayz$");
    assert_string_equal(type(PASTE("") "typed\r"), "typed$");
}

static void test_a_long_paste(void **state)
{
    (void)state;
    enum { LINES = 2000 };
    char *text = calloc(1, LINES * 40), *want = calloc(1, LINES * 40);
    strcpy(text, "\033[200~");
    for (int i = 0; i < LINES; i++) {
        sprintf(text + strlen(text), "line %d of a long text\r", i);
        sprintf(want + strlen(want), "line %d of a long text\n", i);
    }
    strcat(text, "\033[201~\r");
    want[strlen(want) - 1] = '$';
    assert_string_equal(type(text), want);
    free(text);
    free(want);
}

static void test_history_is_private_and_lasts(void **state)
{
    (void)state;
    char path[300];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", cache, HISTORY_FILE);
    remove(path);
    assert_string_equal(type("first\r|" PASTE("se\rcond") "\r"), "first$se\ncond$");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_string_equal(type("\033[A\r|\033[A\033[A\r"), "se\ncond$first$");
    /* A damaged line is skipped; a file that has grown long is shortened. */
    FILE *f = fopen(path, "w");
    fputs("not JSON\n{}\n\"\\u0000\"\n", f);
    for (int i = 0; i < 3 * HISTORY_LINES; i++) {
        fprintf(f, "\"line %d\"\n", i);
    }
    fclose(f);
    assert_string_equal(type("\033[A\r"), "line 2999$");
    f = fopen(path, "r");
    char line[64];
    int lines = 0;
    while (fgets(line, sizeof line, f)) {
        if (lines++ == 0) {
            assert_string_equal(line, "\"line 2000\"\n");
        }
    }
    fclose(f);
    assert_int_equal(lines, HISTORY_LINES + 1);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}

static void test_colours(void **state)
{
    (void)state;
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    int fd = open(ptsname(master), O_RDWR | O_NOCTTY);
    struct winsize size = {.ws_row = 24, .ws_col = 77};
    assert_int_equal(ioctl(fd, TIOCSWINSZ, &size), 0);
    unsetenv("NO_COLOR");
    setenv("TERM", "xterm", 1);
    assert_true(terminal_has_colours(fd) && terminal_has_cursor(fd));
    assert_int_equal(terminal_columns(fd), 77);
    setenv("NO_COLOR", "", 1); /* empty: not set */
    assert_true(terminal_has_colours(fd));
    setenv("NO_COLOR", "1", 1);
    assert_true(!terminal_has_colours(fd) && terminal_has_cursor(fd));
    unsetenv("NO_COLOR");
    setenv("TERM", "dumb", 1);
    assert_true(!terminal_has_colours(fd) && !terminal_has_cursor(fd));
    setenv("TERM", "xterm", 1);
    int null = open("/dev/null", O_RDWR);
    assert_true(!terminal_has_colours(null) && terminal_columns(null) == 0);
    close(null);
    close(fd);
    close(master);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pasted_lines_are_one_message),
        cmocka_unit_test(test_a_long_paste),
        cmocka_unit_test(test_history_is_private_and_lasts),
        cmocka_unit_test(test_colours),
    };
    return cmocka_run_group_tests_name("line", tests, make_cache, remove_cache);
}
