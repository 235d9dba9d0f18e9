"""A thinker-talker model as an agent: it hears the user's turn while it lasts, and text and speech of its answer leave together.

    agent = load("bundle/")
    state = agent.hear(pcm, agent.open())                 # 16 kHz, again and again
    answer = agent.answer(state)
    while not agent.over(answer):
        piece, answer = agent.step(answer)                # a token of text, a code of speech, sound when there is enough
    state = agent.settle(answer, "what was heard of it")

For each token that the thinker writes the talker says one code, of 20 ms: the text runs ahead of the speech, and the talker
goes on after its end. The model does not say where in the text it is, so that the times of words are estimates.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from speechstream import bundle, models
from speechstream.audio.block_mel import BlockMel, BlockMelState
from speechstream.bundle import Bundle
from speechstream.config import read
from speechstream.duplex.agent import Messages
from speechstream.duplex.spoken import NOTHING, Piece, estimated
from speechstream.errors import SpeechStreamError
from speechstream.lm.generate import Sampling, draw
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.omni_config import SAMPLE_RATE, CodeSampling, OmniBundle

LONGEST_REPLY = 200  # tokens: more than a minute of speech
LETTER = "\ufffd"  # stands for half a letter


@dataclass(frozen=True)
class Heard:
    """A conversation. networks: what thinker and talker have read. sound: of the user's turn that goes on, if one does."""

    networks: Any
    sound: BlockMelState | None = None
    answers: int = 0


@dataclass(frozen=True)
class Answer:
    """An answer while it is given. `before` is the conversation up to its first token."""

    before: Heard
    speaker: str
    logits: np.ndarray  # (vocab_size,) of the next token
    thinker: Any
    tokens: tuple[int, ...] = ()
    features: tuple[Any, ...] = ()  # of each token, as the talker takes them
    ends: tuple[int, ...] = ()  # characters of the text up to each token
    text: str = ""
    ended: bool = False  # the text
    # the speech
    scores: np.ndarray | None = None  # (codes,) of the next code
    talker: Any = None
    codes: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()  # codes that the decoder was not given
    decoder: Any = None
    samples: int = 0
    placed: int = 0  # characters of the text whose words have been given out
    silent: bool = False  # the speech has ended


def draw_code(
    scores: np.ndarray,
    said: frozenset[int],
    never: np.ndarray,
    s: CodeSampling,
    seed: tuple[int, ...],
) -> int:
    """One code of logits (codes,). said: those that are penalised; never: a mask (codes,) of what is not drawn."""
    x, again = scores.astype(np.float64), list(said)
    x[again] = np.where(x[again] > 0, x[again] / s.penalty, x[again] * s.penalty)
    x[never] = -np.inf
    if not s.temperature:
        return int(x.argmax())
    if 0 < s.top_k < len(x):
        x[x < np.partition(x, -s.top_k)[-s.top_k]] = -np.inf
    return draw(x, Sampling(s.temperature, s.top_p), np.random.default_rng(seed))


class OmniAgent:
    """See `duplex.spoken.SpokenAgent`. networks: of `asr.omni.torch`. seed: of all that is drawn."""

    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        networks: Any,
        about: OmniBundle,
        tokenizer: Tokenizer,
        thinking: Sampling | None = None,
        sampling: CodeSampling | None = None,
        seed: int = 0,
    ):
        self.networks, self.about, self.tokenizer = networks, about, tokenizer
        self.thinking = thinking or Sampling(most=LONGEST_REPLY)
        self.sampling = sampling or about.sampling
        self.speakers, self.system = tuple(about.speakers), about.system
        self._seed = seed
        c, flow = about.network, about.network.flow
        self._mel = BlockMel(c.encoder.n_mels, c.encoder.block)
        self._ends = {c.talker.pad, c.talker.end}
        codes = np.arange(c.talker.lm.vocab_size)
        # marks that no sound stands for, which the reference's decoder could not take either
        self._never = (codes >= flow.tokens) & ~np.isin(codes, list(self._ends))
        self._never[c.talker.start] = True
        self._marks = {c.talker.mask, c.talker.pad, c.talker.start}
        self._chunk = max(flow.windows.block // flow.repeats, 1)  # codes to a block of the decoder

    def open(self, system: str = "") -> Heard:
        said = system or self.system
        start = self.networks.start()
        if not said:
            return Heard(start)
        return self._written("system", said, Heard(start))

    def hear(self, pcm: np.ndarray, state: Heard) -> Heard:
        x = np.asarray(pcm, np.float32)
        if x.ndim != 1 or not np.isfinite(x).all():
            raise ValueError("a turn's sound must be (n,) finite samples at 16 kHz")
        sound = state.sound
        if sound is None:
            start = self._ids("<|im_start|>user\n") + [self.about.audio_start]
            state, sound = self._take(start, state)[1], self._mel.init_state()
        mel, sound = self._mel.step(x, sound)
        state = replace(state, sound=sound)
        return self._listen(mel, state) if mel.shape[1] else state

    def write(self, text: str, state: Heard) -> Heard:
        if state.sound is not None:
            raise ValueError("the user is speaking: the turn cannot be written as well")
        return self._written("user", text, state)

    def _written(self, role: str, text: str, state: Heard) -> Heard:
        start, marks = self._ids(f"<|im_start|>{role}\n"), self.tokenizer.special
        said = [i for i in self._ids(text) if i not in marks]  # a text brings no marks with it
        return self._take(start + said + self._ids("<|im_end|>\n"), state)[1]

    def __call__(self, messages: Messages) -> Iterator[str]:
        """As a plain agent (`duplex.agent`): text in, text out."""
        system = [m["content"] for m in messages if m["role"] == "system"]
        state = self.open(" ".join(system))
        for m in messages:
            if m["role"] != "system":
                state = self._written(m["role"], m["content"], state)
        a = self.answer(state)
        while not a.ended:
            before, a = len(a.text), self._think(a)
            if len(a.text) > before:
                yield a.text[before:]

    def answer(self, state: Heard, speaker: str | None = None) -> Answer:
        name = speaker if speaker is not None else self.speakers[0]
        if name not in self.about.speakers:
            raise ValueError(f"the speaker must be one of {', '.join(self.speakers)}; got {name!r}")
        start = self._ids("<|im_start|>assistant\n")
        if state.sound is not None:
            rest = self._mel.finish(state.sound)
            state = self._listen(rest, replace(state, sound=None), last=True)
            start = [self.about.audio_end, *self._ids("<|im_end|>\n"), *start]
        logits, state = self._take(start, state)
        state = replace(state, answers=state.answers + 1)
        return Answer(state, name, logits, state.networks.thinker)

    def step(self, answer: Answer) -> tuple[Piece, Answer]:
        before = len(answer.text)
        a = answer if answer.ended else self._think(answer)
        pcm = NOTHING
        if not a.silent:
            pcm, a = self._speak(a)
        words: list[Any] = []
        if len(pcm):
            words = estimated(a.text, a.placed, a.samples, self.sample_rate, a.ended)
            a = replace(a, placed=words[-1].last if words else a.placed)
        return Piece(a.text[before:], pcm, tuple(words), a.ended), a

    def over(self, answer: Answer) -> bool:
        return answer.ended and answer.silent

    def settle(self, answer: Answer, heard: str) -> Heard:
        """Tokens are kept as far as their text was heard; what was written beyond is taken back."""
        a, kept = answer, self._kept(answer, heard)
        unheard = len(a.features) - kept
        read = self.networks.recall(a.features[:kept], a.thinker, unheard, a.before.networks)
        return self._read("<|im_end|>\n", replace(a.before, networks=read))[1]

    # The parts of a step

    def _kept(self, a: Answer, heard: str) -> int:
        """Tokens whose text was heard."""
        reach = len(a.text) - len(a.text.lstrip()) + len(heard)
        if heard and heard == a.text.strip():
            reach = len(a.text)
        return sum(end <= reach for end in a.ends) if heard else 0

    def _think(self, a: Answer) -> Answer:
        """The next token, unless the text ends."""
        rng = np.random.default_rng((self._seed, a.before.answers, len(a.tokens)))
        token = draw(a.logits, self.thinking, rng)
        if token in self.about.stop or len(a.tokens) >= self.thinking.most:
            return replace(a, ended=True, text=self.tokenizer.decode(a.tokens))
        logits, features, thinker = self.networks.think(token, a.thinker)
        tokens = (*a.tokens, token)
        text = self.tokenizer.decode(tokens)
        return replace(
            a,
            logits=logits,
            thinker=thinker,
            tokens=tokens,
            features=(*a.features, features),
            ends=(*a.ends, len(text)),
            text=a.text if text.endswith(LETTER) else text,
        )

    def _speak(self, a: Answer) -> tuple[np.ndarray, Answer]:
        """The next code, and sound where there is enough for it."""
        nets, s = self.networks, self.sampling
        if not a.features:
            return NOTHING, replace(a, silent=a.ended)
        if a.scores is None:
            mark = self.about.speakers[a.speaker]
            scores, talker = nets.begin(a.features[0], mark, a.before.networks.talker)
            voice = nets.voice(a.speaker, self._seed + a.before.answers)
            return NOTHING, replace(a, scores=scores, talker=talker, decoder=voice)
        said = frozenset(self._marks.union(a.codes))
        seed = (self._seed, a.before.answers, 1 + len(a.codes), 1)
        code = draw_code(a.scores, said, self._never, s, seed)
        if code in self._ends or len(a.codes) >= s.most:
            return self._sound(replace(a, silent=True))
        at = len(a.codes) + 1  # which token's features go along with it
        if at < len(a.features):
            features = a.features[at]
        else:
            beyond = at - len(a.features)
            features = nets.silent(self.about.text_pad if beyond else self.about.text_end)
        scores, talker = nets.speak(code, features, a.talker)
        a = replace(a, scores=scores, talker=talker, codes=(*a.codes, code))
        a = replace(a, waiting=(*a.waiting, code))
        return self._sound(a) if len(a.waiting) >= self._chunk else (NOTHING, a)

    def _sound(self, a: Answer) -> tuple[np.ndarray, Answer]:
        pcm, decoder = self.networks.sound(a.waiting, a.decoder, a.silent)
        return pcm, replace(a, waiting=(), decoder=decoder, samples=a.samples + len(pcm))

    def _listen(self, mel: np.ndarray, state: Heard, last: bool = False) -> Heard:
        self._room(state, mel.shape[1] // 4)
        return replace(state, networks=self.networks.hear(mel, state.networks, last))

    def _read(self, text: str, state: Heard) -> tuple[np.ndarray, Heard]:
        return self._take(self._ids(text), state)

    def _take(self, tokens: list[int], state: Heard) -> tuple[np.ndarray, Heard]:
        self._room(state, len(tokens))
        logits, read_ = self.networks.read(tokens, state.networks)
        return logits, replace(state, networks=read_)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def _room(self, state: Heard, more: int) -> None:
        """Raises SpeechStreamError where a conversation outgrows what the model was trained for."""
        c = self.about.network
        most = min(c.thinker.context, c.talker.lm.context)
        if self.networks.length(state.networks) + more + self.thinking.most > most:
            raise SpeechStreamError(
                f"the conversation has grown beyond the {most} tokens that the model can remember; begin a new one"
            )


@dataclass(frozen=True)
class InterleavedAnswer(Answer):
    """An answer whose features and codes take turns. hidden: from which the next token is drawn."""

    hidden: Any = None
    read: int = 0  # tokens whose features the talker has read
    due: int = 0  # codes before it reads more; all that come, where the text has ended


class InterleavedAgent(OmniAgent):
    """An agent of a talker as OpenS2S has it (`nn.interleaved`): each step writes one token or one code, in the order in
    which the talker reads them. Before the text has ended no mark ends the speech."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        talker = self.about.network.talker
        self._text_span, self._code_span = talker.text_span, talker.code_span
        self._never_yet = self._never | np.isin(np.arange(talker.lm.vocab_size), list(self._ends))

    def answer(self, state: Heard, speaker: str | None = None) -> Answer:
        a = super().answer(state, speaker)
        hidden = self.networks.thought(a.before.networks)
        voice = self.networks.voice(a.speaker, self._seed + a.before.answers)
        given = {n: getattr(a, n) for n in vars(a)} | {
            "talker": self.networks.lead_in(a.speaker),
            "decoder": voice,
        }
        return InterleavedAnswer(**given, hidden=hidden)

    def step(self, answer: Answer) -> tuple[Piece, Answer]:
        assert isinstance(answer, InterleavedAnswer)
        before, a, pcm = len(answer.text), answer, NOTHING
        if a.due:
            pcm, a = self._utter(a)
        else:
            if not a.ended:
                a = self._think(a)
            fresh = a.features[a.read :]
            if a.ended or len(fresh) == self._text_span:
                a = self._lead(a, fresh)
        words: list[Any] = []
        if len(pcm):
            words = estimated(a.text, a.placed, a.samples, self.sample_rate, a.ended)
            a = replace(a, placed=words[-1].last if words else a.placed)
        return Piece(a.text[before:], pcm, tuple(words), a.ended), a

    def settle(self, answer: Answer, heard: str) -> Heard:
        kept = self._kept(answer, heard)
        read = answer.before.networks
        if kept:
            read = self.networks.taken_back(answer.thinker, len(answer.tokens) - kept, read)
        return self._read("<|im_end|>\n", replace(answer.before, networks=read))[1]

    def _think(self, a: Answer) -> Any:
        """The next token. Its features are those from which it was drawn; the mark that ends the text has some too."""
        assert isinstance(a, InterleavedAnswer)
        if len(a.tokens) >= self.thinking.most:
            return replace(a, ended=True, text=self.tokenizer.decode(a.tokens))
        after: Any = super()._think(a)
        if after.ended:
            return replace(after, features=(*a.features, a.hidden))
        return replace(after, features=(*a.features, a.hidden), hidden=after.features[-1])

    def _lead(self, a: InterleavedAnswer, fresh: Sequence[Any]) -> InterleavedAnswer:
        """The talker reads features; codes come next."""
        due = self.sampling.most if a.ended else self._code_span
        if not fresh:  # the text ended where it would have gone on
            return replace(a, due=due, silent=a.scores is None)
        scores, talker = self.networks.lead(fresh, a.talker)
        return replace(a, scores=scores, talker=talker, read=len(a.features), due=due)

    def _utter(self, a: InterleavedAnswer) -> tuple[np.ndarray, Any]:
        """The next code, and sound where there is enough for it."""
        assert a.scores is not None
        never = self._never if a.ended else self._never_yet
        said = frozenset(self._marks.union(a.codes))
        seed = (self._seed, a.before.answers, 1 + len(a.codes), 1)
        code = draw_code(a.scores, said, never, self.sampling, seed)
        if code in self._ends or len(a.codes) >= self.sampling.most:
            return self._sound(replace(a, silent=True, due=0))
        scores, talker = self.networks.utter(code, a.talker)
        a = replace(a, scores=scores, talker=talker, due=a.due - 1)
        a = replace(a, codes=(*a.codes, code), waiting=(*a.waiting, code))
        return self._sound(a) if len(a.waiting) >= self._chunk else (NOTHING, a)


def load(
    path: str | os.PathLike[str],
    device: str = "cpu",
    threads: int | None = None,
    dtype: str = "float32",
    **options: Any,
) -> OmniAgent:
    """The agent of a bundle. options: of `OmniAgent`. It runs in torch. Raises SpeechStreamError, in one sentence."""
    b = path if isinstance(path, Bundle) else bundle.load(path)
    models.find(b.architecture, "talk")
    try:
        about = read(OmniBundle, b.config)
    except (ValueError, RecursionError) as error:
        raise SpeechStreamError(f"the bundle {b.path} does not fit together: {error}") from error
    try:
        from speechstream.asr.omni.torch import read_networks
    except ModuleNotFoundError as error:
        raise SpeechStreamError(
            f"the model {b.path} runs in {error.name}, which is not installed: pip install speechstream[train]"
        ) from error
    tokenizer = Tokenizer(Path(b.file("tokenizer.json")).read_text(encoding="utf-8"))
    networks = read_networks(b, about, device=device, threads=threads, dtype=dtype)
    if about.network.talker.interleaved:
        return InterleavedAgent(networks, about, tokenizer, **options)
    return OmniAgent(networks, about, tokenizer, **options)
