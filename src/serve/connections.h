/*
 * connections.h - open connections: how long a client may take, and whose place a new one gets.
 *
 *      open --> receiving --compute--> computing <--> sending --receive--> receiving ... --> close
 *                |  the whole of a         no           |  from one part of the answer
 *                |  request in time        deadline     |  to the next
 *                '- too late, or evicted: the socket is shut down, and libmicrohttpd closes it
 *
 * A client has one deadline to send the headers of a request, and one for its body; trickling bytes
 * do not extend them. (libmicrohttpd's own timeout is for silence, and spins in its last second.)
 *
 * When all places are occupied, a new connection gets the place of one that is receiving: of the
 * client that has most of these, the one that began first, but not before it had half a second. If
 * all are being answered, there are a few surplus places, where clients can be told to come back
 * later.
 *
 * A socket is only shut down while it is open: libmicrohttpd closes it after it has notified us,
 * and fb_connection_close is called in that notification. Thread-safe.
 */
#ifndef FB_SERVE_CONNECTIONS_H
#define FB_SERVE_CONNECTIONS_H

#include <stdbool.h>
#include <stdint.h>

/* Places for surplus connections. */
#define FB_CONNECTIONS_SURPLUS 16

struct fb_connections;

enum fb_connection_state { FB_RECEIVING, FB_COMPUTING, FB_SENDING };

/* The caller zeroes it and sets `fd` and `client`; all else belongs to connections.c. */
struct fb_connection {
    int fd;
    char client[46]; /* the client's address as text; "": unknown */
    bool ended;      /* its socket has been shut down */
    uint8_t bucket;  /* a hash of the client */
    enum fb_connection_state state;
    uint64_t at_ns; /* the deadline; 0: none */
    struct fb_connection *before, *after;
};

/* Starts a thread; NULL if that fails. Deadlines are `seconds` after their start; `max` connections
 * have places. */
struct fb_connections *fb_connections_new(int seconds, int max);
/* No connection may be open; places may still be reserved for ones that libmicrohttpd never began.
 * NULL is ignored. */
void fb_connections_free(struct fb_connections *connections);

/* Reserves a place for a connection that will be opened, by evicting one if necessary; blocks for
 * at most a second. False if there is still no room. */
bool fb_connections_reserve(struct fb_connections *connections);
/* A connection with a reserved place will not be opened. */
void fb_connections_unreserve(struct fb_connections *connections);
/* Evicts one connection that is receiving, and waits at most 100 ms for any to be closed. */
void fb_connections_evict(struct fb_connections *connections);
/* True if as many connections are being answered as have places. */
bool fb_connections_are_answered(struct fb_connections *connections);
/* Waits until all connections are receiving, for at most `ms`. */
void fb_connections_wait_unanswered(struct fb_connections *connections, int ms);

/* A connection with a reserved place was opened, and is receiving. It must stay valid until it is
 * closed. */
void fb_connection_open(struct fb_connections *connections, struct fb_connection *connection);
void fb_connection_close(struct fb_connections *connections, struct fb_connection *connection);
/* Changes of state. Repeating one starts its deadline anew. */
void fb_connection_receive(struct fb_connections *connections, struct fb_connection *connection);
void fb_connection_compute(struct fb_connections *connections, struct fb_connection *connection);
void fb_connection_send(struct fb_connections *connections, struct fb_connection *connection);

#endif
