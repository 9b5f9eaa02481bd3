/* info.h - handlers that tell about the server itself: /, /health, /metrics (Prometheus). */
#ifndef FB_SERVE_INFO_H
#define FB_SERVE_INFO_H

#include "serve/http.h"

void fb_info_root(struct fb_request *request);
void fb_info_health(struct fb_request *request); /* 503: loading, unhealthy, shutting down */
void fb_info_metrics(struct fb_request *request);

#endif
