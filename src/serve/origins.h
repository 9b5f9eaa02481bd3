/* origins.h - which web pages and programs with a built-in browser may use the server. */
#ifndef FB_SERVE_ORIGINS_H
#define FB_SERVE_ORIGINS_H

#include <stdbool.h>

/* True if `list`, of origins separated by commas or spaces, allows `origin` ("https://a.b:8080", as
 * in the header Origin). In an entry, '*' stands for any characters: "*", "http://192.168.1.*". An
 * entry that ends with "://" allows all origins of that scheme; one without "://" is a host, with
 * http or https and any port. NULL, as either: false. Thread-safe. */
bool fb_origins_allow(const char *list, const char *origin);

/* The same for the header Host ("a.b:8080"): the host of an origin in the list. */
bool fb_origins_allow_host(const char *list, const char *host);

#endif
