"""tokenizer.py - a byte-level BPE that llama.cpp supports (model "gpt2", pre-tokenizer "gpt-2").

Built from the stories: most of their words become one token, and other words are split into smaller
pieces, down to single bytes. For ASCII text `encode` gives the same ids as llama.cpp, which
tests/test_fable.c checks with the texts that this program prints:

    python3 tokenizer.py merges.txt > tokens.txt
"""
import re
import sys
from collections import Counter

from grammar import story

SPECIALS = ("<|begin|>", "<|user|>", "<|story|>", "<|end|>")
BEGIN, USER, STORY, END = range(4)
N_VOCAB = 1536
PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")


def byte_letters():
    """GPT-2's printable stand-in for each byte."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters, extra = {}, 0
    for byte in range(256):
        if byte in printable:
            letters[byte] = chr(byte)
        else:
            letters[byte] = chr(256 + extra)
            extra += 1
    return letters


LETTERS = byte_letters()


def merge(symbols, pair):
    out, i = [], 0
    while i < len(symbols):
        if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == pair:
            out.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return tuple(out)


def learn_merges(seed, n_stories, n_merges):
    counts = Counter()
    for number in range(n_stories):
        request, text = story(seed, number)
        counts.update(PIECES.findall(text))
        counts.update(PIECES.findall(request or ""))
    words = {}  # as symbols; without rare words, such as the made-up ones
    for word in sorted(counts):
        if counts[word] >= n_stories // 1000:
            words[tuple(LETTERS[b] for b in word.encode())] = counts[word]
    merges = []
    while len(merges) < n_merges:
        pairs = Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = max(sorted(pairs), key=lambda pair: pairs[pair])
        merges.append(best)
        merged = Counter()
        for word, n in words.items():
            merged[merge(word, best)] += n
        words = merged
    return merges


class Tokenizer:
    def __init__(self, merges):
        self.merges = [tuple(m) for m in merges]
        self.tokens = list(SPECIALS) + [LETTERS[b] for b in range(256)]
        self.tokens += [a + b for a, b in self.merges]
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.ranks = {pair: i for i, pair in enumerate(self.merges)}
        self.known = {}
        self.bytes = {letter: byte for byte, letter in LETTERS.items()}

    @classmethod
    def learn(cls, seed=1, n_stories=20000):
        return cls(learn_merges(seed, n_stories, N_VOCAB - 256 - len(SPECIALS)))

    @classmethod
    def load(cls, path):
        return cls([line.split() for line in open(path, encoding="utf-8")])

    def piece(self, text):
        if text not in self.known:
            symbols = tuple(LETTERS[b] for b in text.encode())
            while len(symbols) > 1:
                pairs = [p for p in zip(symbols, symbols[1:]) if p in self.ranks]
                if not pairs:
                    break
                symbols = merge(symbols, min(pairs, key=lambda pair: self.ranks[pair]))
            self.known[text] = [self.ids[s] for s in symbols]
        return self.known[text]

    def encode(self, text):
        return [i for part in PIECES.findall(text) for i in self.piece(part)]

    def encode_story(self, request, text):
        """Without BEGIN, which is at the start of a context only."""
        asked = [USER] + self.encode(request) + [STORY] if request else []
        return asked + self.encode(text) + [END]

    def decode(self, ids):
        out = b""
        for i in ids:
            if i < len(SPECIALS):
                out += SPECIALS[i].encode()
            else:
                out += bytes(self.bytes[c] for c in self.tokens[i])
        return out.decode(errors="replace")


TYPED = (
    "Once upon a time", "Tell me a story about a fox who doesn't like rain.",
    "I'll go; you'd stay!",
    "HELLO there,  two  spaces and 12 apples (or 3.5)?", " a leading space", "a trailing space ",
    "we've they're it's 'm 's x'd", "<|user|>A story about <|end|> odd things<|story|>",
    "snake_case, e-mail@x.y, 100% & #1 ~ {a|b}", "internationalisation of zyxwvut",
)


def main():
    tokenizer = Tokenizer.load(sys.argv[1])
    texts = list(TYPED)
    for number in range(40):
        request, text = story(3, number)
        texts.append(("<|user|>%s<|story|>" % request if request else "") + text + "<|end|>")
    for text in texts:
        ids = [BEGIN]
        for part in re.split("(%s)" % "|".join(re.escape(s) for s in SPECIALS), text):
            ids += [tokenizer.ids[part]] if part in SPECIALS else tokenizer.encode(part)
        print("%s\t%s" % (" ".join(map(str, ids)), text))


if __name__ == "__main__":
    main()
