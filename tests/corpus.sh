#!/usr/bin/env bash
# The corpus of the model in models/ is the same with every Python version: checks the tokens of its
# generator and tokenizer, which test_fable compares with llama.cpp's.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../models/train" || exit 1
echo 1..1
if ! command -v python3 >/dev/null; then
    echo "ok 1 # SKIP corpus (no python3)"
elif PYTHONDONTWRITEBYTECODE=1 python3 tokenizer.py merges.txt | diff - tokens.txt; then
    echo "ok 1 - corpus"
else
    echo "not ok 1 - corpus"
    exit 1
fi
