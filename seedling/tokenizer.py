"""The seedling's tokenizer: a word is one token or is spelled out, never cut in between.

Llama-3's ``ignore_merges`` looks a pre-token up whole before any merge; with no merges at
all, what is not in the vocabulary falls to bytes. So a string is cut the same way in a rule's
quotes and in the answer that copies it, which byte-pair merges do not give (docs/log.md).
Hangul is cut at every syllable; the 2,350 syllables of KS X 1001 are tokens, rarer ones bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from seedling.words import COMMON_SYLLABLES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
    "<|finetune_right_pad_id|>",
]
PLAIN = dict.fromkeys("‘’‚‛“”„‟", "'")  # as phones and editors set quotes; it was raised on plain ones
CUT = r"[가-힣]|[A-Za-z]+|\n+| |[^가-힣A-Za-z \n]"

# Llama-3's layout, with tools as one-line signatures instead of pages of JSON schema.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
{%- set system = messages[0]['content'] | trim %}
{%- set messages = messages[1:] %}
{%- else %}
{%- set system = '' %}
{%- endif %}
{%- if tools %}
{%- set lines = namespace(text='Tools:') %}
{%- for tool in tools %}
{%- set f = tool.function if tool.function is defined else tool %}
{%- set lines.text = lines.text + '\n' + f.name + '(' + (f.parameters.properties | list | join(', ')) + ')' %}
{%- endfor %}
{%- set system = (system + '\n\n' + lines.text) | trim %}
{%- endif %}
{%- if system %}{{- '<|start_header_id|>system<|end_header_id|>\n\n' + system + '<|eot_id|>' }}{%- endif %}
{%- for message in messages %}
{%- set role = 'ipython' if message['role'] == 'tool' else message['role'] %}
{{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' }}
{%- if message.tool_calls is defined and message.tool_calls %}
{%- set call = message.tool_calls[0].function if message.tool_calls[0].function is defined else message.tool_calls[0] %}
{{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments if call.arguments is string else call.arguments | tojson) + '}' }}
{%- else %}
{{- message['content'] | trim }}
{%- endif %}
{{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}
"""


def build(texts: Iterable[str], least: int = 2) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are those that occur at least ``least`` times in ``texts``."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Split(Regex(CUT), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = pre_tokenizers.Sequence([split, level])
    counts = Counter(piece for text in texts for piece, _ in split.pre_tokenize_str(text))
    words = sorted(w for w, n in counts.items() if w.isascii() and w.isalpha() and len(w) > 1 and n >= least)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    wanted = [*alphabet, *(level.pre_tokenize_str(w)[0][0] for w in ["\n\n", *words, *COMMON_SYLLABLES])]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*SPECIAL, *wanted]))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    core.normalizer = normalizers.Sequence([normalizers.Replace(a, b) for a, b in PLAIN.items()])
    core.pre_tokenizer = pieces
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[4],
        pad_token=SPECIAL[7],
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=1024,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
