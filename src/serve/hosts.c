/* hosts.c - see hosts.h. */
#include "serve/hosts.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Whether the name of n characters has something before one of the endings, a list that ends with
 * NULL. */
static bool has_ending(const char *name, size_t n, const char *const *endings)
{
    for (; *endings; endings++) {
        size_t m = strlen(*endings);
        if (n > m && strncasecmp(name + n - m, *endings, m) == 0) {
            return true;
        }
    }
    return false;
}

bool fb_host_is(const char *host, const char *name)
{
    size_t n = strlen(name);
    return strncasecmp(host, name, n) == 0 && (!host[n] || host[n] == ':');
}

bool fb_host_is_loopback(const char *host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    static const char *const endings[] = {".internal", ".localhost", NULL};
    const char *scheme = strstr(host, "://");
    if (scheme && strncmp(host, "http://", 7) != 0 && strncmp(host, "https://", 8) != 0) {
        return false;
    }
    host = scheme ? scheme + 3 : host;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (fb_host_is(host, names[i])) {
            return true;
        }
    }
    return has_ending(host, strcspn(host, ":/"), endings);
}

/* "[::1]:3000" -> that of "[::1]" */
static size_t host_length(const char *host)
{
    return host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":/");
}

static bool is_local_name(const char *host, size_t n)
{
    static const char *const endings[] = {".local", ".lan", ".internal", ".home.arpa", NULL};
    char name[256];
    struct in_addr address;
    snprintf(name, sizeof name, "%.*s", (int)n, host);
    return !strchr(name, '.') || inet_pton(AF_INET, name, &address) == 1 ||
           has_ending(host, n, endings);
}

bool fb_host_is_own_page(const char *origin, const char *host)
{
    const char *scheme = strstr(origin, "://"), *from = scheme ? scheme + 3 : origin;
    size_t n = host_length(from);
    return host && n == host_length(host) && strncasecmp(from, host, n) == 0 &&
           is_local_name(from, n);
}
