/*
 * chat_fields.h - a conversation in OpenAI's terms, checked and tidied before it is rendered.
 *
 * A mistake gets a message that names the message or tool and the member. Members that are null are
 * removed, as replayed answers have many of them; what has one meaning and several spellings
 * (arguments of calls as objects, tools without "type") is converted to the usual one.
 */
#ifndef FB_SERVE_CHAT_FIELDS_H
#define FB_SERVE_CHAT_FIELDS_H

#include "serve/fields.h"

/* Checks and changes messages, tools and tool_choice of fields->object. */
void fb_chat_tidy(struct fb_fields *fields);

#endif
