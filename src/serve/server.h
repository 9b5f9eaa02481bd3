/*
 * server.h - the HTTP server: OpenAI's, Ollama's and Anthropic's APIs over one service.
 *
 *      deadlines.c  hangs up on clients that do not come to an end
 *      http.c       connections, limits, keys, routes          (libmicrohttpd, a thread each)
 *      answer.c     whole answers and errors, in each API's way
 *      exchange.c   a request that generates: jobs out, pieces in, whole or as a stream
 *      openai.c, ollama.c, anthropic.c   what each API calls things
 *      info.c       cards of the model, health, metrics
 */
#ifndef FB_SERVE_SERVER_H
#define FB_SERVE_SERVER_H

#include "serve/service.h"

struct fb_server;

struct fb_server_options {
    const char *host;          /* to listen on: a name or an address */
    uint16_t port;             /* 0: any that is free */
    const char *api_key;       /* NULL: none is needed */
    const char *name;          /* of the model, for clients */
    const char *path;          /* its file, for what is said about it */
    const char *chat_template; /* instead of the model's; NULL: the model's */
    bool client_templates;     /* requests may bring their own: programs, which may never end */
    uint64_t body_max_bytes;
    int connections_max;
    int timeout_s; /* for a client to send headers, a body, and to take some of what it is sent */
};

void fb_server_options_init(struct fb_server_options *options);

/* Serves until fb_server_stop. E_USAGE for a host that cannot be found, E_IO when it cannot listen. */
enum forebay_status fb_server_start(struct fb_service *service,
    const struct fb_server_options *options, struct fb_server **out, struct forebay_error *err);
uint16_t fb_server_port(const struct fb_server *server);
/* Closes all connections; replies that are under way end where they are. */
void fb_server_stop(struct fb_server *server);

#endif
