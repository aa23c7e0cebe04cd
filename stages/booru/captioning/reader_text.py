"""What a caption says of the text in a picture, from LLaVA's answer.

The rules are those of Disty0/dataset-helpers (revision de43aa7, text-llava15-7b.py), which made SoteDiffusion's captions:
`The text says "..."`, without commas, since they part the elements of a caption.
"""

import re
from functools import cache
from typing import Literal

from repro.errors import StageError

Wording = Literal["exact", "clean"]
QUOTE = '"'
OPENING = "The text says"
# What tokenizers may show before a prompt: spaces, and marks such as <s> and <image>.
BEFORE_PROMPT = r"(?:\s|<[^<>\s]*>)*"


def text_word(decoded: str, prompt: str, wording: Wording) -> str | None:
    """The caption's element.

    Args:
        decoded: the reader's whole text, which begins with its prompt. The prompt's spaces and newlines may be others there,
            and marks of the tokenizer may stand before it: decoders differ.
        wording: `exact` gives a lone quotation mark for an empty answer, as the script did, or quotes nothing; `clean` gives
            none.

    Raises:
        StageError: the text does not begin with the prompt.
    """
    asked = _opening(prompt).match(decoded)
    if not asked:
        raise StageError(
            f"the reader's answer {decoded!r} does not begin with its prompt {prompt!r}; annotate"
            " again, with a prompt in annotate.text that the model's tokenizer knows letter by letter"
        )
    answer = decoded[asked.end() :].removeprefix(" ").replace(f"{OPENING},", OPENING, 1)
    for end in ("\n", ".", QUOTE):
        answer = answer.removesuffix(end)
    if wording == "clean" and not answer.strip().removeprefix(OPENING).strip(f"{QUOTE} \n"):
        return None
    return answer.replace(",", ".").replace("\n", " ") + QUOTE


def begins_with(decoded: str, prompt: str) -> bool:
    """Whether a decoded text begins with the prompt, by the rule of `text_word`."""
    return _opening(prompt).match(decoded) is not None


@cache
def _opening(prompt: str) -> re.Pattern[str]:
    return re.compile(BEFORE_PROMPT + r"\s+".join(map(re.escape, prompt.split())))
