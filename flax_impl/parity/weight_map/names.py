"""Turns a module's name into words that users of both frameworks share."""

import re
from collections import Counter

_COMPOUNDS = {
    r"(layer|batch|group|rms|instance)_?norm": "norm",
    r"multi_?head(_?dot_?product)?_?att(entio)?n": "attn",
    r"query_?key_?value|in_proj\b|c_attn\b|(w|to_)?qkv": "qkv",
    r"conv(olution)?[123]d": "conv",
}
_SYNONYMS = {
    synonym: words.split()[0]
    for words in (
        "linear dense fc lin",
        "norm ln bn gn",
        "embed embedding embeddings emb wte tok token tokens",
        "pos wpe position positional",
        "query q wq",
        "key k wk",
        "value v wv",
        "out output o wo",
        "attn attention mha",
        "block blocks layer layers h",
        "mlp ffn feedforward",
    )
    for synonym in words.split()
}
_EMPTY_WORDS = {"proj", "projection", "to", "c"}
_TURNING_WORDS = {"pre", "post", "before", "after"}  # `post_attention_norm` is not the `attention_norm`


def tokens_of(name: str) -> list[str]:
    """Returns the words and numbers in a name, in small letters."""
    return [token.lower() for token in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def words_of(name: str) -> Counter[str]:
    """Returns what a name says, in one vocabulary; "#" is a number."""
    words: list[str] = []
    for part in name.split("."):
        for pattern, word in _COMPOUNDS.items():
            part = re.sub(rf"(?i){pattern}", word, part)
        tokens = ["#" if token.isdigit() else _SYNONYMS.get(token, token) for token in tokens_of(part)]
        telling = [token for token in tokens if token not in _EMPTY_WORDS]
        if not set(telling) - {"#"} and "proj" in tokens:
            telling.append("out")
        words += telling
    return Counter(words)


def similarity(a: Counter[str], b: Counter[str]) -> float:
    """Returns the share of words in common; 0 where only numbers are."""
    common = a & b
    if ((a | b) - common).keys() & _TURNING_WORDS:
        return 0.0
    alike = _weight(common)
    rest = list((b - common).elements())
    for word in (a - common).elements():
        match = next((other for other in rest if _prefix(word, other)), None)
        if match is not None:
            rest.remove(match)
            alike += 0.8
    both = _weight(a) + _weight(b)
    if alike < 0.8 and (set(a) | set(b)) - {"#"}:
        return 0.0
    return 2 * alike / both if both else 1.0


def _weight(words: Counter[str]) -> float:
    return sum(words.values()) - 0.75 * words["#"]


def _prefix(a: str, b: str) -> bool:
    return min(len(a), len(b)) > 1 and (a.startswith(b) or b.startswith(a))


def above(name: str) -> list[str]:
    """Returns the containers of a dotted name, from the inside out, without the root."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts) - 1, 0, -1)]


def below(name: str, module: str) -> bool:
    """Returns whether a name is a module's, or of something within it."""
    return not module or name == module or name.startswith(f"{module}.")
