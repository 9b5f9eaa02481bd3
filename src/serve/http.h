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
#include "serve/connections.h"
#include "serve/request_memory.h"

struct fb_served;
struct MHD_Connection;

/* The API that a path belongs to: decides on the shape of errors. */
enum fb_api { FB_API_OPENAI, FB_API_OLLAMA, FB_API_ANTHROPIC };

struct fb_request {
    struct fb_served *served; /* NULL: the model is still being loaded */
    enum fb_api api;
    struct fb_buffer body;
    char rest[256];     /* the part of the path that the route's '*' stands for; cut to fit */
    char client[46];    /* the client's address as text; "": unknown */
    const char *origin; /* of an allowed web page, which may read the answer; NULL: none */
    const char *allow;  /* methods of the path, for the header of a 405; NULL: none */

    /* For http.c and server.c. */
    struct MHD_Connection *connection;
    struct fb_connections *connections;
    struct fb_connection *peer; /* the same connection */
    struct fb_request_memory *memory;
    struct fb_memory_share share;
    bool close; /* the connection, after the answer */
    bool answered;
    int result; /* enum MHD_Result of queueing the answer */
};

/* True if the client has closed its side of the connection. Does not block. */
bool fb_request_left(const struct fb_request *request);

/* The body has been parsed, and everything made from it was freed but for about `bytes`: frees the
 * body, and the room for other requests. */
void fb_request_settle(struct fb_request *request, uint64_t bytes);

/* Reserves this much memory for the answer, in place of what the request has. May block for some
 * seconds. False if there is no room. */
bool fb_request_reserve(struct fb_request *request, uint64_t bytes);

/* Answers with these bytes, which are freed with free(). */
void fb_request_answer(
    struct fb_request *request, int status, const char *type, char *bytes, size_t n);

/* Answers a browser that asks whether a page may send a request with these headers (NULL: none). */
void fb_request_preflight(struct fb_request *request, const char *headers, bool private_network);

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
