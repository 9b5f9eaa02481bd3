/* anthropic.h - handlers of Anthropic's API: messages, and the count of their tokens. */
#ifndef FB_SERVE_ANTHROPIC_H
#define FB_SERVE_ANTHROPIC_H

#include "serve/http.h"

void fb_anthropic_messages(struct fb_request *request);
void fb_anthropic_count(struct fb_request *request);

#endif
