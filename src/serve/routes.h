/* routes.h - which handler answers which method and path. Thread-safe. */
#ifndef FB_SERVE_ROUTES_H
#define FB_SERVE_ROUTES_H

#include "serve/http.h"

enum fb_route_flags {
    FB_ROUTE_OPEN = 1, /* needs no API key */
};

struct fb_route {
    const char *method; /* GET also answers HEAD */
    const char *path;   /* a '*' at the end stands for one or more characters */
    void (*handle)(struct fb_request *request);
    enum fb_api api;
    unsigned flags;
};

struct fb_route_match {
    const struct fb_route *route; /* NULL: none; `status` says why */
    int status;                   /* 200, 404 (no such path) or 405 (not by this method) */
    enum fb_api api;              /* by which an error is reported, also without a route */
    char rest[256];               /* of the path: in place of the '*'; cut to fit */
    char allow[64];               /* methods of the path: "GET, HEAD"; "": no such path */
};

/* Finds the route of a request. `path` is already unescaped. */
void fb_route_find(const char *method, const char *path, struct fb_route_match *out);

#endif
