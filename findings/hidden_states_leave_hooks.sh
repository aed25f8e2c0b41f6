#!/usr/bin/env bash
# transformers 5.23.0: one forward pass with output_hidden_states=True leaves forward hooks
# on the model's layers for good; later passes, with or without it, do not take them off.
# Seen: a Llama of two layers has 0 hooks before and 4 afterwards. Before, it can be
# pickled; afterwards pickle.dumps raises AttributeError (the hook is a local function),
# and code that checks for hooks to see whether a network is as it was finds a changed one.
# Natural guess: output_hidden_states only asks for more in this one answer, as it did when
# the layers collected it themselves, and a model that was read is the model it was.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.23.0
"$work/env/bin/python" -W ignore - <<'PY'
import pickle

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, vocab_size=64)
model = LlamaForCausalLM(
    LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)
).eval()


def state():
    hooks = sum(len(part._forward_hooks) for part in model.modules())
    try:
        pickle.dumps(model)
    except AttributeError:
        return hooks, "cannot be pickled"
    return hooks, "can be pickled"


ids = torch.tensor([[1, 2, 3]])
seen = [state()]
for asked in (False, True, False):
    with torch.no_grad():
        model(ids, output_hidden_states=asked)
    seen.append(state())
print(seen)
assert seen[:2] == [(0, "can be pickled")] * 2
assert seen[2:] == [(4, "cannot be pickled")] * 2
PY
