"""model.py - a very small model of llama.cpp's architecture qwen3moe, in PyTorch.

Each layer has a router, a softmax over the experts, that chooses some of them for a token; their
weights sum to one. Experts are trained with grouped matrix products: tokens sorted by expert.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

SHAPE = {"vocab": 1536, "embd": 128, "layers": 4, "heads": 4, "experts": 64, "used": 4, "ff": 32,
         "ctx": 1024, "rope_base": 10000.0, "eps": 1e-6}


RECENT = 4  # tokens whose experts the routers are rewarded for choosing again


class GroupedProduct(torch.autograd.Function):
    """Multiplies rows ends[e-1]..ends[e] of x with weight[e], for each expert e."""

    @staticmethod
    def forward(ctx, x, weight, ends):
        ctx.save_for_backward(x, weight)
        ctx.ends = ends
        out = x.new_empty(x.shape[0], weight.shape[2])
        start = 0
        for e, end in enumerate(ends):
            if end > start:
                torch.mm(x[start:end], weight[e], out=out[start:end])
            start = end
        return out

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        to_x, to_weight = torch.empty_like(x), torch.zeros_like(weight)
        start = 0
        for e, end in enumerate(ctx.ends):
            if end > start:
                torch.mm(grad[start:end], weight[e].t(), out=to_x[start:end])
                torch.mm(x[start:end].t(), grad[start:end], out=to_weight[e])
            start = end
        return to_x, to_weight, None


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rope_tables(n, head, base):
    """Rotates pairs (i, i + head/2), as llama.cpp's NEOX kind does."""
    freq = base ** (-torch.arange(0, head, 2, dtype=torch.float32) / head)
    angle = torch.arange(n, dtype=torch.float32)[:, None] * freq[None, :]
    return torch.cos(angle), torch.sin(angle)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Layer(nn.Module):
    def __init__(self, s):
        super().__init__()
        d, e, f = s["embd"], s["experts"], s["ff"]
        self.shape = s
        self.attn_norm = nn.Parameter(torch.ones(d))
        self.qkv = nn.Parameter(torch.randn(3 * d, d) * d ** -0.5)
        self.q_norm = nn.Parameter(torch.ones(d // s["heads"]))
        self.k_norm = nn.Parameter(torch.ones(d // s["heads"]))
        self.out = nn.Parameter(torch.randn(d, d) * d ** -0.5 / (2 * s["layers"]) ** 0.5)
        self.ffn_norm = nn.Parameter(torch.ones(d))
        self.router = nn.Parameter(torch.randn(e, d) * 0.02)
        self.gate_up = nn.Parameter(torch.randn(e, d, 2 * f) * d ** -0.5)
        self.down = nn.Parameter(torch.randn(e, f, d) * (2 * f) ** -0.5 / s["layers"] ** 0.5)

    def attention(self, x, cos, sin, mask):
        b, t, d = x.shape
        h = self.shape["heads"]
        eps = self.shape["eps"]
        y = rms_norm(x, self.attn_norm, eps) @ self.qkv.t()
        q, k, v = y.view(b, t, 3, h, d // h).permute(2, 0, 3, 1, 4)
        q = rotate(rms_norm(q, self.q_norm * (d // h) ** -0.5, eps), cos, sin)
        k = rotate(rms_norm(k, self.k_norm, eps), cos, sin)
        scores = q @ k.transpose(-1, -2) + mask
        y = torch.softmax(scores, -1) @ v
        return x + y.transpose(1, 2).reshape(b, t, d) @ self.out.t()

    def experts(self, x):
        """Returns the layer's output, the unevenness of the router (1: even), and the mean
        logarithm of the probability that it gave to the experts of the last RECENT tokens."""
        s = self.shape
        b, t, d = x.shape
        y = rms_norm(x, self.ffn_norm, s["eps"]).view(b * t, d)
        p = torch.softmax(y @ self.router.t(), -1)
        weight, chosen = p.topk(s["used"], -1)
        weight = weight / weight.sum(-1, keepdim=True)
        flat = chosen.flatten()
        order = flat.argsort()
        counts = torch.bincount(flat, minlength=s["experts"])
        ends = counts.cumsum(0).tolist()
        token = torch.div(order, s["used"], rounding_mode="floor")
        hidden = GroupedProduct.apply(y[token], self.gate_up, ends)
        gate, up = hidden.chunk(2, -1)
        hidden = F.silu(gate) * up * weight.flatten()[order][:, None]
        done = GroupedProduct.apply(hidden, self.down, ends)
        y = torch.zeros_like(y).index_add(0, token, done)
        uneven = (counts / flat.numel() * p.mean(0)).sum() * s["experts"]
        used = torch.zeros_like(p).scatter_(1, chosen, 1.0).view(b, t, -1)
        recent = torch.zeros_like(used)
        for back in range(1, RECENT + 1):
            recent[:, back:] = torch.maximum(recent[:, back:], used[:, :-back])
        stay = torch.log((p.view(b, t, -1) * recent).sum(-1)[:, RECENT:] + 1e-6).mean()
        return x + y.view(b, t, d), uneven, stay


class Model(nn.Module):
    def __init__(self, shape=None):
        super().__init__()
        s = self.shape = dict(shape or SHAPE)
        self.embd = nn.Parameter(torch.randn(s["vocab"], s["embd"]) * 0.05)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s["layers"]))
        self.norm = nn.Parameter(torch.ones(s["embd"]))

    def forward(self, ids):
        """Returns logits [batch, time, vocab], and the other two results of experts(), averaged."""
        s = self.shape
        t = ids.shape[1]
        cos, sin = rope_tables(t, s["embd"] // s["heads"], s["rope_base"])
        mask = torch.full((t, t), float("-inf")).triu(1)
        x = self.embd[ids]
        uneven = stay = 0.0
        for layer in self.layers:
            x = layer.attention(x, cos, sin, mask)
            x, layer_uneven, layer_stay = layer.experts(x)
            uneven = uneven + layer_uneven / s["layers"]
            stay = stay + layer_stay / s["layers"]
        return rms_norm(x, self.norm, s["eps"]) @ self.embd.t(), uneven, stay
