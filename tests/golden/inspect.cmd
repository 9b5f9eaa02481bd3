# needs: models
forebay inspect "$MODELS/split/stories260K-moe8-00001-of-00003.gguf"
forebay inspect "$MODELS/split/stories260K-moe8-00001-of-00003.gguf" --tensors | grep blk.3
forebay inspect "$MODELS/stories260K-moe8.gguf" --json | head -n 14
