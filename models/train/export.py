"""export.py - writes the trained model as GGUF: python3 export.py DIR FILE

Experts, attention and embedding become Q8_0; norms and routers, which are small, stay F32.
"""
import sys

import gguf
import torch
from model import SHAPE
from tokenizer import BEGIN, END, SPECIALS
from train import load_tokenizer

CHAT = ("{%- for message in messages -%}"
        "{%- if message.role == 'user' -%}<|user|>{{ message.content | trim }}<|story|>"
        "{%- elif message.role == 'assistant' -%}{{ message.content | trim }}<|end|>"
        "{%- endif -%}{%- endfor -%}")
CONTROL, NORMAL = 3, 1


def keys_of(tokenizer):
    s = SHAPE
    return [
        ("general.architecture", "qwen3moe"), ("general.name", "Fable"),
        ("general.license", "MIT"), ("general.size_label", "64x14K"),
        ("general.description", "Short stories for children, from a grammar"),
        ("general.file_type", 7), ("general.quantization_version", 2),
        ("qwen3moe.block_count", s["layers"]), ("qwen3moe.context_length", s["ctx"]),
        ("qwen3moe.embedding_length", s["embd"]),
        ("qwen3moe.feed_forward_length", s["ff"] * s["used"]),
        ("qwen3moe.expert_feed_forward_length", s["ff"]),
        ("qwen3moe.expert_count", s["experts"]), ("qwen3moe.expert_used_count", s["used"]),
        ("qwen3moe.attention.head_count", s["heads"]),
        ("qwen3moe.attention.head_count_kv", s["heads"]),
        ("qwen3moe.attention.key_length", s["embd"] // s["heads"]),
        ("qwen3moe.attention.value_length", s["embd"] // s["heads"]),
        ("qwen3moe.attention.layer_norm_rms_epsilon", s["eps"]),
        ("qwen3moe.rope.freq_base", s["rope_base"]),
        ("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "gpt-2"),
        ("tokenizer.ggml.tokens", tokenizer.tokens),
        ("tokenizer.ggml.token_type",
         [CONTROL if i < len(SPECIALS) else NORMAL for i in range(len(tokenizer.tokens))]),
        ("tokenizer.ggml.merges", [a + " " + b for a, b in tokenizer.merges]),
        ("tokenizer.ggml.bos_token_id", BEGIN), ("tokenizer.ggml.eos_token_id", END),
        ("tokenizer.ggml.add_bos_token", True), ("tokenizer.chat_template", CHAT),
    ]


def tensors_of(w):
    def array(t):
        return t.detach().contiguous().numpy()
    d, ff = SHAPE["embd"], SHAPE["ff"]
    out = [("token_embd.weight", array(w["embd"]), True)]
    for i in range(SHAPE["layers"]):
        def of(name):
            return w["layers.%d.%s" % (i, name)]
        q, k, v = of("qkv").split(d, 0)
        for name, t, quantised in (
                ("attn_norm", of("attn_norm"), False), ("attn_q", q, True), ("attn_k", k, True),
                ("attn_v", v, True), ("attn_q_norm", of("q_norm"), False),
                ("attn_k_norm", of("k_norm"), False), ("attn_output", of("out"), True),
                ("ffn_norm", of("ffn_norm"), False), ("ffn_gate_inp", of("router"), False),
                ("ffn_gate_exps", of("gate_up")[:, :, :ff].transpose(1, 2), True),
                ("ffn_up_exps", of("gate_up")[:, :, ff:].transpose(1, 2), True),
                ("ffn_down_exps", of("down").transpose(1, 2), True)):
            out.append(("blk.%d.%s.weight" % (i, name), array(t), quantised))
    return out + [("output_norm.weight", array(w["norm"]), False)]


def main():
    directory, path = sys.argv[1:3]
    state = torch.load(directory + "/model.pt", map_location="cpu")
    gguf.write(path, keys_of(load_tokenizer(directory + "/merges.txt")), tensors_of(state["model"]))


if __name__ == "__main__":
    main()
