/*
 * hosts.h - what the name in a Host or Origin header says about the page that sent the request.
 * Names are compared without regard to case. Thread-safe.
 */
#ifndef FB_SERVE_HOSTS_H
#define FB_SERVE_HOSTS_H

#include <stdbool.h>

/* True for "NAME" and "NAME:8080". */
bool fb_host_is(const char *host, const char *name);

/* True for names of this machine, in Host or as an origin with http or https: "localhost:8080",
 * "127.0.0.1", "[::1]:8080", "http://localhost"; also for "NAME.internal" and "NAME.localhost",
 * which no site on the internet can have: a container knows the machine that it runs on as
 * "host.docker.internal". */
bool fb_host_is_loopback(const char *host);

/* True for a page (`origin`) that was loaded from the host (may be NULL) to which it now sends a
 * request, if the name is one that no foreign site can have: an address, a name without a dot, or
 * one with an ending that is reserved for local networks. */
bool fb_host_is_own_page(const char *origin, const char *host);

#endif
