/* origins.c - see origins.h. */
#include "serve/origins.h"

#include <ctype.h>
#include <stddef.h>
#include <string.h>

static bool same(char a, char b)
{
    return tolower((unsigned char)a) == tolower((unsigned char)b);
}

/* Matches all of text[n] with pattern[m]: on a mismatch, the last '*' takes one character more. */
static bool matches(const char *pattern, size_t m, const char *text, size_t n)
{
    size_t p = 0, t = 0, star = m, from = 0;
    while (t < n) {
        if (p < m && pattern[p] == '*') {
            star = p++;
            from = t;
        } else if (p < m && same(pattern[p], text[t])) {
            p++;
            t++;
        } else if (star < m) {
            p = star + 1;
            t = ++from;
        } else {
            return false;
        }
    }
    while (p < m && pattern[p] == '*') {
        p++;
    }
    return p == m;
}

static const char *find_scheme_end(const char *text, size_t n)
{
    for (size_t i = 0; i + 3 <= n; i++) {
        if (memcmp(text + i, "://", 3) == 0) {
            return text + i + 3;
        }
    }
    return NULL;
}

/* Length of "a.b" in "a.b:8080", of "[::1]" in "[::1]:8080". */
static size_t host_length(const char *host, size_t n)
{
    const char *close = host[0] == '[' ? memchr(host, ']', n) : NULL;
    const char *colon = close ? NULL : memchr(host, ':', n);
    return close ? (size_t)(close - host) + 1 : colon ? (size_t)(colon - host) : n;
}

static bool entry_allows(const char *entry, size_t n, const char *origin)
{
    const char *host = find_scheme_end(origin, strlen(origin));
    bool http = strncmp(origin, "http://", 7) == 0 || strncmp(origin, "https://", 8) == 0;
    n -= n > 0 && entry[n - 1] == '/' && !(n >= 3 && memcmp(entry + n - 3, "://", 3) == 0);
    if (matches(entry, n, origin, strlen(origin))) {
        return true;
    }
    if (n > 3 && memcmp(entry + n - 3, "://", 3) == 0) {
        return strlen(origin) >= n && matches(entry, n, origin, n);
    }
    return http && host && !find_scheme_end(entry, n) &&
           (matches(entry, n, host, host_length(host, strlen(host))) ||
               matches(entry, n, host, strlen(host)));
}

static bool entry_allows_host(const char *entry, size_t n, const char *host)
{
    const char *behind = find_scheme_end(entry, n);
    if (behind) {
        n -= (size_t)(behind - entry);
        entry = behind;
    }
    n -= n > 0 && entry[n - 1] == '/';
    n = n > 0 ? host_length(entry, n) : 0;
    return n > 0 && matches(entry, n, host, host_length(host, strlen(host)));
}

static bool any_entry(const char *list, const char *text,
    bool (*allows)(const char *entry, size_t n, const char *text))
{
    static const char separators[] = ", \t\n";
    for (list = list ? list : ""; text && *list;) {
        size_t n = strcspn(list, separators);
        if (n > 0 && allows(list, n, text)) {
            return true;
        }
        list += n;
        list += strspn(list, separators);
    }
    return false;
}

bool fb_origins_allow(const char *list, const char *origin)
{
    return any_entry(list, origin, entry_allows);
}

bool fb_origins_allow_host(const char *list, const char *host)
{
    return any_entry(list, host, entry_allows_host);
}
