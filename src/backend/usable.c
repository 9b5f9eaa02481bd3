/*
 * usable.c - weights of types that the CPU backend has no kernel for.
 *
 * GGUF allows every type for every tensor, and llama.cpp passes on what it finds. The CPU backend
 * says that it supports such nodes, and aborts (or calls a kernel that is NULL) when it computes
 * them. The rules below are those of its kernels; a type that is not listed for an op is refused.
 */
#include "backend/backend.h"
#include "backend/binding.h"
#include "base/error.h"

static bool is_float(enum ggml_type type)
{
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
}

/* A type that weights are stored in. Q8_1 and Q8_K are only for intermediate results. */
static bool is_storage(enum ggml_type type)
{
    return ggml_is_quantized(type) && type != GGML_TYPE_Q8_1 && type != GGML_TYPE_Q8_K;
}

/* Whether the CPU computes `op` with a weight of this type as source s. `table`: the weight is a
 * table of embeddings, so its rows are numbers to compute with. */
static bool is_usable(enum ggml_op op, int s, enum ggml_type type, bool table)
{
    bool index = type == GGML_TYPE_I32;
    switch (op) {
    case GGML_OP_NONE:
    case GGML_OP_VIEW:
    case GGML_OP_RESHAPE:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
        return true; /* the node that uses the view is asked about, too */
    case GGML_OP_MUL_MAT:
    case GGML_OP_MUL_MAT_ID:
        return s == 2 ? index : is_float(type) || (s == 0 && is_storage(type));
    case GGML_OP_GET_ROWS:
        return s == 1 ? index : is_float(type) || is_storage(type) || (index && !table);
    case GGML_OP_CPY:
    case GGML_OP_CONT:
    case GGML_OP_DUP:
        return is_float(type) || is_storage(type) || index;
    case GGML_OP_CONCAT:
    case GGML_OP_REPEAT:
    case GGML_OP_SET_ROWS:
        return is_float(type) || index;
    case GGML_OP_UNARY:
    case GGML_OP_IM2COL:
    case GGML_OP_CONV_2D:
    case GGML_OP_CONV_2D_DW:
    case GGML_OP_CONV_TRANSPOSE_1D:
    case GGML_OP_CONV_TRANSPOSE_2D:
        return is_float(type);
    default:
        return type == GGML_TYPE_F32;
    }
}

void fb_binding_check_type(struct fb_binding *b, const struct ggml_tensor *op, int s)
{
    const struct ggml_tensor *weight = op->src[s];
    if (!weight || b->unusable.status != FOREBAY_OK) {
        return;
    }
    weight = weight->view_src ? weight->view_src : weight;
    int index = fb_catalog_find(b->catalog, weight->name);
    if (index < 0) {
        return; /* an intermediate result */
    }
    const struct fb_tensor *info = &b->catalog->tensors[index];
    if (weight->type == (enum ggml_type)info->type &&
        !is_usable(op->op, s, weight->type, info->role == FB_ROLE_EMBEDDING)) {
        fb_fail(&b->unusable, FOREBAY_E_UNSUPPORTED,
            "Convert the model again, with a common type for this tensor.",
            "llama.cpp cannot compute with %s: its type is %s, which %s does not support",
            info->name, ggml_type_name(weight->type), ggml_op_name(op->op));
    }
}

enum forebay_status fb_binding_check_types(const struct fb_binding *b, struct forebay_error *err)
{
    if (b->unusable.status != FOREBAY_OK && err) {
        *err = b->unusable;
    }
    return b->unusable.status;
}
