"""Text to tokens and back, and messages to text: what a language model reads and writes.

Tokenizers are Hugging Face's tokenizer.json, read by the `tokenizers` library. Chat templates are jinja, run in its
sandbox: a template may loop and join texts; it may not reach Python, nor run without end.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from speechstream.errors import SpeechStreamError

MOST_TEMPLATE = 100_000  # characters of a template
MOST_PROMPT = 4 << 20  # characters of what it makes
MOST_STEPS = 100_000  # rounds of a template's loops and calls of its macros
MOST_PIECES = 200_000  # that a template may write
MOST_TOKENIZER = 64 << 20  # characters


class Tokenizer:
    """The text of a tokenizer.json. Raises SpeechStreamError where it is none."""

    def __init__(self, text: str):
        try:
            from tokenizers import Tokenizer as Read
        except ModuleNotFoundError as error:
            raise SpeechStreamError(
                "a language model needs the tokenizers library: pip install speechstream[llm]"
            ) from error
        if len(text) > MOST_TOKENIZER:
            raise SpeechStreamError("the tokenizer.json is too long to be one")
        try:
            self._read = Read.from_str(text)
        except Exception as error:  # the library raises plain Exception
            raise SpeechStreamError(
                f"the tokenizer.json is not usable: {str(error).splitlines()[0][:200]}"
            ) from error
        self._read.no_truncation()
        self._read.no_padding()

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of a text. special: with what the tokenizer puts around every text; markers within it are always read."""
        ids: list[int] = self._read.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of some ids; bytes that are no whole letter are U+FFFD. special: markers too."""
        text: str = self._read.decode(list(ids), skip_special_tokens=not special)
        return text

    def id(self, token: str) -> int | None:
        """The id of a token, if there is one."""
        found: int | None = self._read.token_to_id(token)
        return found

    @property
    def special(self) -> frozenset[int]:
        """The ids of markers, which no text should bring with it."""
        added = self._read.get_added_tokens_decoder()
        return frozenset(int(i) for i, token in added.items() if token.special)

    def pieces(self) -> list[bytes | None]:
        """The bytes that each id stands for within a text; None: a marker, or no bytes of a text."""
        vocabulary = self._read.get_vocab(with_added_tokens=True)
        added = self._read.get_added_tokens_decoder()
        kinds = _kinds(json.loads(self._read.to_str()).get("decoder"))
        found: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
        for piece, i in vocabulary.items():
            if i in added:
                found[i] = None if added[i].special else piece.encode()
            else:
                found[i] = _bytes(piece, kinds)
        return found

    def __len__(self) -> int:
        return int(self._read.get_vocab_size())


def _kinds(decoder: Any) -> set[str]:
    """The kinds of a tokenizer.json's decoder and of those within it."""
    if not isinstance(decoder, dict):
        return set()
    return {str(decoder.get("type"))}.union(*map(_kinds, decoder.get("decoders", [])))


def _bytes(piece: str, kinds: set[str]) -> bytes | None:
    if "ByteLevel" in kinds:
        known = _byte_letters()
        return bytes(known[c] for c in piece) if all(c in known for c in piece) else None
    if "ByteFallback" in kinds and len(piece) == 6 and piece.startswith("<0x"):
        return bytes.fromhex(piece[3:5])
    if kinds & {"Metaspace", "Replace"}:
        piece = piece.replace("\u2581", " ")
    return piece.encode()


@functools.lru_cache(maxsize=1)
def _byte_letters() -> dict[str, int]:
    """GPT-2's letters for bytes: those that can be seen stand for themselves, the others for letters from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in seen]
    return {chr(b): b for b in seen} | {chr(256 + i): b for i, b in enumerate(hidden)}


class TextStream:
    """Tokens as they come, to the text that they add: never half a letter, in all exactly `decode` of all."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._begin = self._said = (
            0  # ids before: context that decides about spaces; ids that were given out
        )

    def push(self, token: int) -> str:
        """The new text; empty while a letter is incomplete."""
        self._ids.append(token)
        before = self._tokenizer.decode(self._ids[self._begin : self._said])
        now = self._tokenizer.decode(self._ids[self._begin :])
        if len(now) <= len(before) or now.endswith("�"):
            return ""
        self._begin, self._said = self._said, len(self._ids)
        return now[len(before) :]

    def finish(self) -> str:
        """What is left at the end, half letters as U+FFFD."""
        before = self._tokenizer.decode(self._ids[self._begin : self._said])
        now = self._tokenizer.decode(self._ids[self._begin :])
        self._begin = self._said = len(self._ids)
        return now[len(before) :]


@dataclass(frozen=True)
class ChatFormat:
    """template: jinja, of `messages`, `add_generation_prompt`, `bos_token` and `eos_token`. stop: ids that end a reply."""

    template: str | None = None
    bos: str = ""
    eos: str = ""
    stop: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, values: Any) -> ChatFormat:
        """As a bundle has it. Raises ValueError."""
        if not isinstance(values, dict) or set(values) - {"template", "bos", "eos", "stop"}:
            raise ValueError("its 'chat' is not what it should be")
        template, stop = values.get("template"), values.get("stop", [])
        texts = [values.get("bos", ""), values.get("eos", ""), template or ""]
        if any(not isinstance(t, str) for t in texts) or not isinstance(stop, list):
            raise ValueError("its 'chat' is not what it should be")
        if any(type(i) is not int or i < 0 for i in stop) or len(stop) > 100:
            raise ValueError("its chat's 'stop' must be a short list of token ids")
        return cls(template, texts[0], texts[1], tuple(stop))

    def render(self, messages: Sequence[Mapping[str, str]], reply: bool = True) -> str:
        """The text of a conversation. messages: {"role": ..., "content": ...} each. reply: with the beginning of the
        assistant's turn. Raises SpeechStreamError for a model without a template, or a template that fails."""
        for m in messages:
            if not isinstance(m.get("role"), str) or not isinstance(m.get("content"), str):
                raise ValueError(
                    f"a message has a role and a content, both text; got {str(m)[:100]}"
                )
        if self.template is None:
            raise SpeechStreamError("this model has no chat template: it continues texts only")
        if len(self.template) > MOST_TEMPLATE:
            raise SpeechStreamError(
                f"the chat template has {len(self.template)} characters, more than {MOST_TEMPLATE}"
            )
        return _compiled(self.template).render(
            messages=[dict(m) for m in messages],
            add_generation_prompt=reply,
            bos_token=self.bos,
            eos_token=self.eos,
            tools=None,
        )


class _Template:
    """jinja's template in its sandbox, compiled once: that takes longer than a token of the embedded model."""

    def __init__(self, text: str):
        try:
            import jinja2
            import jinja2.sandbox
        except ModuleNotFoundError as error:
            raise SpeechStreamError(
                "chat templates need jinja2: pip install speechstream[llm]"
            ) from error
        self.errors = (
            jinja2.TemplateError,
            ValueError,
            TypeError,
            LookupError,
            ArithmeticError,
            AttributeError,
            RecursionError,
            MemoryError,
        )
        self.steps = _Steps()
        self.lock = threading.Lock()  # the steps are of one rendering
        environment = _environment(jinja2.sandbox.ImmutableSandboxedEnvironment, self.steps)
        try:
            self.template = environment.from_string(_bounded(environment, text))
        except self.errors as error:
            raise _failed(error) from error

    def render(self, **values: Any) -> str:
        pieces, size = [], 0
        with self.lock:
            self.steps.taken = 0
            try:
                for piece in self.template.generate(**values):
                    pieces.append(piece)
                    size += len(piece)
                    if size > MOST_PROMPT or len(pieces) > MOST_PIECES:
                        raise SpeechStreamError("the chat template writes too much")
            except self.errors as error:
                raise _failed(error) from error
        return "".join(pieces)


_compiled = functools.lru_cache(maxsize=8)(_Template)


def _failed(error: Exception) -> SpeechStreamError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return SpeechStreamError(f"the chat template fails: {reason}")


class _Steps:
    """Rounds of loops and calls of macros of one rendering."""

    taken = 0

    def tick(self) -> str:
        self.taken += 1
        if self.taken > MOST_STEPS:
            raise SpeechStreamError(f"the chat template takes more than {MOST_STEPS} steps")
        return ""

    def counted(self, values: Any) -> Any:
        for value in values:
            self.tick()
            yield value


def _environment(kind: Any, steps: _Steps) -> Any:
    """jinja's sandbox, and what templates of Hugging Face expect beyond it."""
    import jinja2

    class Sandbox(kind):
        # "x" * 10 ** 9 and 9 ** 9 ** 9 are asked about before they are computed
        intercepted_binops = frozenset(["*", "**", "%", "+"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            sizes = [len(v) if isinstance(v, (str, list, tuple)) else 0 for v in (left, right)]
            numbers: list[float] = [v for v in (left, right) if isinstance(v, (int, float))]
            if operator == "**" and any(abs(n) > 1000 for n in numbers):
                raise SpeechStreamError("the chat template computes too large a number")
            if (
                operator == "*"
                and sum(sizes) > 0
                and sum(sizes) * max(map(abs, numbers), default=1) > 1e6
            ):
                raise SpeechStreamError("the chat template makes too long a text")
            if sum(sizes) > MOST_PROMPT or any(abs(n) > 1e18 for n in numbers):
                raise SpeechStreamError("the chat template makes too long a text or number")
            if operator == "%" and isinstance(left, str):
                raise SpeechStreamError(
                    "the chat template formats text in a way that is not allowed"
                )
            return super().call_binop(context, operator, left, right)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(str(message)[:200])

    def few(*args: int) -> range:
        found = range(*args)
        if len(found) > MOST_STEPS:
            raise SpeechStreamError(f"the chat template takes more than {MOST_STEPS} steps")
        return found

    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals = {
        "raise_exception": refuse,
        "range": few,
        "namespace": jinja2.utils.Namespace,
        "tick": steps.tick,
    }
    for name in ("center", "format", "indent", "wordwrap", "filesizeformat", "xmlattr", "urlize"):
        environment.filters.pop(name, None)  # which make much of little
    environment.filters |= {"tojson": _json, "counted": steps.counted}
    return environment


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=min(indent, 8) if indent else None)


def _bounded(environment: Any, template: str) -> Any:
    """The template as jinja's tree, each round of a loop and each call of a macro counted."""
    from jinja2 import nodes

    tree = environment.parse(template)
    for loop in list(tree.find_all(nodes.For)):
        if loop.recursive:
            raise SpeechStreamError("the chat template has a recursive loop, which is not allowed")
        loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None)
    for macro in list(tree.find_all((nodes.Macro, nodes.CallBlock))):
        call = nodes.Call(nodes.Name("tick", "load"), [], [], None, None)
        macro.body.insert(0, nodes.Output([call]))
    tree.set_environment(environment)
    for node in tree.find_all(nodes.Node):
        node.lineno = node.lineno or 1
    return tree
