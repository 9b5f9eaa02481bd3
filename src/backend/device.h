/*
 * device.h - the ggml device FOREBAY: the tables of functions that ggml and llama.cpp call.
 *
 * The device serves one binding at a time, fb_device.bound (device_state.h), and claims nothing
 * without one.
 */
#ifndef FB_BACKEND_DEVICE_H
#define FB_BACKEND_DEVICE_H

#include "backend/device_state.h"

/* Fills in the objects of fb_device and returns the registry, for ggml_backend_register. */
ggml_backend_reg_t fb_device_reg(void);

#endif
