"""train.py - trains the story model: python3 train.py [--steps N] [--out DIR]

Needs PyTorch (Debian: python3-torch) and nothing else. Each batch consists of new stories, so the
training loss is a loss on unseen text, too; the held-out stories have another seed. Writes
DIR/log.csv, DIR/merges.txt and, every two minutes, DIR/model.pt, from which it continues when
started again.
"""
import argparse
import math
import os
import time

import torch
import torch.nn.functional as F

from grammar import story
from model import Model
from tokenizer import BEGIN, Tokenizer

SEED, HELD_OUT_SEED = 1, 2


class Rows:
    """Rows of `length` + 1 tokens: BEGIN, then one story after the other, the last one cut."""

    def __init__(self, tokenizer, seed, first, length):
        self.tokenizer, self.seed, self.next, self.length = tokenizer, seed, first, length

    def row(self):
        ids = [BEGIN]
        while len(ids) <= self.length:
            ids += self.tokenizer.encode_story(*story(self.seed, self.next))
            self.next += 1
        return ids[:self.length + 1]

    def batch(self, n):
        rows = torch.tensor([self.row() for _ in range(n)])
        return rows[:, :-1], rows[:, 1:]


def telling(tokenizer):
    """Weights of the target tokens: 4 for all but the 160 most frequent ones. Names, things and
    colours, in which a story must agree with its request and be consistent, are rare."""
    counts = torch.zeros(len(tokenizer.tokens))
    for number in range(2000):
        for token in tokenizer.encode_story(*story(SEED, number)):
            counts[token] += 1
    weights = torch.full_like(counts, 4.0)
    weights[counts.topk(160).indices] = 1.0
    return weights


def loss_of(model, ids, targets, weights=None):
    """Returns the loss to minimise, the loss to report, and the two results on the routers."""
    logits, uneven, stay = model(ids)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    if weights is None:
        return losses.mean(), losses.mean(), uneven, stay
    w = weights[targets.flatten()]
    return (losses * w).sum() / w.sum(), losses.mean(), uneven, stay


def held_out_loss(model, tokenizer, length, n=64):
    rows = Rows(tokenizer, HELD_OUT_SEED, 0, length)
    model.eval()
    with torch.no_grad():
        losses = [loss_of(model, *rows.batch(16))[0].item() for _ in range(n // 16)]
    model.train()
    return sum(losses) / len(losses)


def load_tokenizer(path):
    if not os.path.exists(path):
        with open(path, "w", encoding="utf-8") as f:
            f.writelines("%s %s\n" % pair for pair in Tokenizer.learn(SEED).merges)
    return Tokenizer.load(path)


def save(path, **state):
    torch.save(state, path + ".new")
    os.replace(path + ".new", path)


def rate(step, o):
    """The learning rate: two cycles, a long one and a short one with a lower peak."""
    warm = min(1.0, (step + 1) / 100)
    first = o.steps * 3 // 4
    done = step / first if step < first else (step - first) / (o.steps - first)
    peak = o.rate if step < first else 0.4 * o.rate
    return peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def routing_loss(step, uneven, stay):
    """At first only keeps the routers even, until every expert has learnt something; later also
    rewards routers for choosing recently used experts again."""
    return 0.03 * uneven - 0.01 * stay if step >= 500 else 0.01 * uneven


def options():
    p = argparse.ArgumentParser()
    p.add_argument("--out", default="../../build/train")
    p.add_argument("--steps", type=int, default=2800)
    p.add_argument("--rows", type=int, default=16)
    p.add_argument("--length", type=int, default=256)
    p.add_argument("--rate", type=float, default=3e-3)
    p.add_argument("--threads", type=int, default=1)
    return p.parse_args()


def main():
    o = options()
    os.makedirs(o.out, exist_ok=True)
    torch.set_num_threads(o.threads)
    torch.manual_seed(SEED)
    tokenizer = load_tokenizer(o.out + "/merges.txt")
    model = Model()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    adam = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.01},
                              {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.98))
    rows = Rows(tokenizer, SEED, 0, o.length)
    weights = telling(tokenizer)
    step = 0
    if os.path.exists(o.out + "/model.pt"):
        state = torch.load(o.out + "/model.pt")
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        step, rows.next = state["step"], state["next"]
    n_parameters = sum(p.numel() for p in model.parameters())
    print("%.2f M parameters, from step %d" % (n_parameters / 1e6, step))
    log = open(o.out + "/log.csv", "a")
    started, saved, first = time.time(), time.time(), step
    while step < o.steps:
        for group in adam.param_groups:
            group["lr"] = rate(step, o)
        goal, loss, uneven, stay = loss_of(model, *rows.batch(o.rows), weights)
        adam.zero_grad()
        (goal + routing_loss(step, uneven, stay)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        step += 1
        if step % 10 == 0:
            held = "%.4f" % held_out_loss(model, tokenizer, o.length) if step % 100 == 0 else ""
            speed = (step - first) * o.rows * o.length / (time.time() - started)
            log.write("%d,%.4f,%s,%.3f,%.3f\n"
                      % (step, loss.item(), held, uneven.item(), stay.item()))
            log.flush()
            print(step, "%.4f" % loss.item(), held, "%.3f %.3f" % (uneven.item(), stay.item()),
                  "%.0f/s" % speed, flush=True)
        if time.time() - saved > 120 or step == o.steps:
            save(o.out + "/model.pt", model=model.state_dict(), adam=adam.state_dict(), step=step,
                 next=rows.next)
            saved = time.time()


if __name__ == "__main__":
    main()
