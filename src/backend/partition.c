#include "backend/partition.h"

/* One row of queries over at least so many cells: each thread sums over its share of the cells. */
#define SPLIT_CELLS 512
/* Matrices of so many rows of queries are computed in tiles, of the rows that a thread got. */
#define TILE_ROWS 64
/* Products are divided into chunks of so many rows and columns if there are four for each thread,
 * otherwise by the number of threads, and then a chunk may have an odd number of rows. */
#define CHUNK 16

static bool attention_matters(const struct ggml_tensor *node)
{
    const struct ggml_tensor *q = node->src[0], *k = node->src[1];
    return q->ne[1] == 1 ? k->ne[1] >= SPLIT_CELLS : q->ne[1] >= TILE_ROWS;
}

/* A chunk with an odd number of rows is multiplied row by row, others in pairs of rows. */
static bool product_matters(const struct ggml_tensor *node, int n_threads)
{
    int64_t rows = node->ne[0], columns = node->ne[1] * node->ne[2] * node->ne[3];
    int64_t chunks = ((rows + CHUNK - 1) / CHUNK) * ((columns + CHUNK - 1) / CHUNK);
    return node->ne[1] % 2 == 0 && rows % 2 == 0 && chunks < 4 * (int64_t)n_threads;
}

bool fb_partition_matters(const struct ggml_tensor *node, int n_threads, bool pairs)
{
    switch (node->op) {
    case GGML_OP_FLASH_ATTN_EXT:
        return attention_matters(node);
    case GGML_OP_MUL_MAT:
        return pairs && product_matters(node, n_threads);
    /* Nothing is computed. */
    case GGML_OP_NONE:
    case GGML_OP_RESHAPE:
    case GGML_OP_VIEW:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
    /* By one thread. */
    case GGML_OP_ARGMAX:
    case GGML_OP_CLAMP:
    case GGML_OP_COS:
    case GGML_OP_DIAG:
    case GGML_OP_GET_ROWS:
    case GGML_OP_LOG:
    case GGML_OP_MEAN:
    case GGML_OP_REPEAT:
    case GGML_OP_SCALE:
    case GGML_OP_SET:
    case GGML_OP_SET_ROWS:
    case GGML_OP_SIN:
    case GGML_OP_SQR:
    case GGML_OP_SQRT:
    case GGML_OP_SUB:
    case GGML_OP_SUM:
    case GGML_OP_SUM_ROWS:
    /* Rows of the result, or pieces of which each value depends on its own inputs only. */
    case GGML_OP_ACC:
    case GGML_OP_ADD:
    case GGML_OP_ADD1:
    case GGML_OP_ADD_ID:
    case GGML_OP_ARGSORT:
    case GGML_OP_CONCAT:
    case GGML_OP_CONT:
    case GGML_OP_CPY:
    case GGML_OP_CUMSUM:
    case GGML_OP_DIAG_MASK_INF:
    case GGML_OP_DIV:
    case GGML_OP_DUP:
    case GGML_OP_FILL:
    case GGML_OP_GLU:
    case GGML_OP_GROUP_NORM:
    case GGML_OP_L2_NORM:
    case GGML_OP_MUL:
    case GGML_OP_MUL_MAT_ID:
    case GGML_OP_NORM:
    case GGML_OP_PAD:
    case GGML_OP_RMS_NORM:
    case GGML_OP_ROLL:
    case GGML_OP_ROPE:
    case GGML_OP_SOFT_MAX:
    case GGML_OP_SSM_CONV:
    case GGML_OP_TOP_K:
    case GGML_OP_TRI:
    case GGML_OP_UNARY:
    /* Heads, or rows of a head's state. */
    case GGML_OP_GATED_DELTA_NET:
    case GGML_OP_GATED_LINEAR_ATTN:
    case GGML_OP_RWKV_WKV6:
    case GGML_OP_RWKV_WKV7:
    case GGML_OP_SSM_SCAN:
    /* Our own: copies of bytes. */
    case GGML_OP_CUSTOM:
        return false;
    default:
        return true;
    }
}
