/*
 * server.h - the HTTP server: OpenAI's, Ollama's and Anthropic's APIs over one service.
 *
 * Parts, each of which includes only parts below it:
 *
 *      server.c                            connections, limits, API keys      (libmicrohttpd)
 *      routes.c                            which handler for which method and path
 *      openai.c  ollama.c  anthropic.c     one API each: a request read, an answer written
 *      ollama_models.c  info.c             models; health and metrics
 *      exchange.c                          a request that generates: jobs, deltas, streams
 *      params.c  answer.c  served.c        sampling fields; answers and errors; the model's card
 *      http.c  fields.c  deadlines.c  buffer.c
 *      service.h                           many requests on one model, without HTTP
 */
#ifndef FB_SERVE_SERVER_H
#define FB_SERVE_SERVER_H

#include "serve/service.h"

struct fb_server;

struct fb_server_options {
    const char *host;          /* name or address to listen on */
    uint16_t port;             /* 0: any that is free */
    const char *api_key;       /* that clients must send; NULL: none */
    const char *name;          /* by which clients call the model */
    const char *path;          /* of the model's file, to describe it */
    const char *chat_template; /* instead of the model's; NULL: the model's */
    bool client_templates;     /* requests may bring their own: programs, which may never end */
    uint64_t body_max_bytes;   /* of a request */
    int connections_max;
    int timeout_s; /* deadline for a request to be received; also for a client to read or write */
};

void fb_server_options_init(struct fb_server_options *options);

/* Serves, on threads of its own, until fb_server_stop. Strings of `options` and the service must
 * outlive the server. E_USAGE: the host is unknown or the template invalid. E_IO: the port
 * cannot be listened on, or the file not be read. E_NOMEM: no thread. */
enum forebay_status fb_server_start(struct fb_service *service,
    const struct fb_server_options *options, struct fb_server **out, struct forebay_error *err);

/* The port that the server listens on. */
uint16_t fb_server_port(const struct fb_server *server);

/* Closes all connections; answers under way are cut off. Blocks until handlers have returned. NULL
 * is ignored. */
void fb_server_stop(struct fb_server *server);

#endif
