/*
 * http.h - a request as API handlers see it, and the two ways to answer it.
 *
 * server.c receives a request and calls the handler of its route once, on the thread of the
 * connection, which may block. The handler must answer once before it returns: by one of the
 * functions below, or by those of answer.h on top of them.
 */
#ifndef FB_SERVE_HTTP_H
#define FB_SERVE_HTTP_H

#include <stdbool.h>

#include "serve/buffer.h"

struct fb_served;
struct MHD_Connection;

/* The API that a path belongs to: decides on the shape of errors. */
enum fb_api { FB_API_OPENAI, FB_API_OLLAMA, FB_API_ANTHROPIC };

struct fb_request {
    struct fb_served *served;
    enum fb_api api;
    struct fb_buffer body;
    char rest[256];    /* the part of the path that the route's '*' stands for; cut to fit */
    char client[46];   /* the client's address as text; "": unknown */
    const char *allow; /* methods of the path, for the header of a 405; NULL: none */

    /* For http.c and server.c. */
    struct MHD_Connection *connection;
    int timeout_s;
    bool answered;
    int result; /* enum MHD_Result of queueing the answer */
};

/* True if the client has closed its side of the connection. Does not block. */
bool fb_request_left(const struct fb_request *request);

/* A client that does not read or write for `seconds` is disconnected; 0: never, while we compute.
 * Starts anew with each call. */
void fb_request_set_timeout(const struct fb_request *request, int seconds);

/* Answers with these bytes, which are freed with free(). */
void fb_request_answer(
    struct fb_request *request, int status, const char *type, char *bytes, size_t n);

/* A body that is made while it is sent. All calls come from the connection's thread. */
struct fb_body_source {
    /* Appends the next bytes to `out`. May block, and may append nothing. False: there is no more,
     * and nothing was appended. */
    bool (*next)(void *user, struct fb_buffer *out);
    void (*free)(void *user); /* after the last byte, or when the client is gone */
    void *user;
};

/* Answers with status 200 and the bytes of `source`, which is freed in any case. */
void fb_request_stream(
    struct fb_request *request, const char *type, const struct fb_body_source *source);

#endif
