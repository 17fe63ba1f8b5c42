"""Which media type a request's bytes have, and in which it is answered."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header, parse_options_header

from serving.errors import RequestError

JSON = "application/json"
JSON_LINES = "application/jsonlines"
"""SageMaker's name for one JSON text a line."""
NO_TYPE = (
    "",
    "application/octet-stream",
    "application/x-image",  # any picture, to SageMaker's own image algorithms
    "application/x-www-form-urlencoded",  # what curl and urllib say of bytes of which they were told nothing
)
"""What says nothing about the bytes."""
MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\x93NUMPY", "application/x-npy"),
)


@dataclass(frozen=True)
class AnswerType:
    """What a request is answered in."""

    content_type: str
    """As the client asked for it: some compare the header with what they sent."""
    full: str
    """With every choice spelt out: what the model is told."""
    chosen: str = ""
    """The choices alone, as in `dtype=float32;axes=rdf`."""


@dataclass(frozen=True, eq=False)
class Offer:
    """One of a model's `response_types`.

    `text/csv;header=present` must be asked for as it is; `image/png;bits=8|16` leaves `bits` to the
    client, and is 8 where the client does not care.
    """

    text: str
    """The form in which the model states it."""
    name: str
    fixed: Mapping[str, str]
    choices: Mapping[str, Sequence[str]]

    @classmethod
    def parse(cls, text: str) -> "Offer":
        """The offer that `text` states."""
        name, *parameters = (part.strip() for part in text.split(";"))
        split = {key: values.split("|") for key, _, values in (part.partition("=") for part in parameters)}
        return cls(
            text=text,
            name=name,
            fixed={key: values[0] for key, values in split.items() if len(values) == 1},
            choices={key: values for key, values in split.items() if len(values) > 1},
        )

    def usual(self) -> AnswerType:
        """The answer of this type where the client leaves all choices to us."""
        usual = self.answer(self.fixed)
        assert usual is not None
        return usual

    def answer(self, asked: Mapping[str, str]) -> AnswerType | None:
        """The answer of this type with the parameters that were asked for; None where it cannot have them."""
        named = {key: asked[key] for key in self.choices if key in asked}
        if {**self.fixed, **named} != asked:
            return None
        if any(value not in self.choices[key] for key, value in named.items()):
            return None
        chosen = {key: named.get(key, values[0]) for key, values in self.choices.items()}
        return AnswerType(
            content_type=_spelt(self.name, {**self.fixed, **named}),
            full=_spelt(self.name, {**self.fixed, **chosen}),
            chosen=_spelt("", chosen).lstrip(";"),
        )


def _spelt(name: str, parameters: Mapping[str, str]) -> str:
    return ";".join([name, *(f"{key}={value}" for key, value in parameters.items())])


def declared_type(mimetype: str, supported: Sequence[str]) -> str | None:
    """What the Content-Type says; None when it says nothing, and the bytes must.

    `mimetype` is in lower case and without parameters. Raises RequestError 415.
    """
    if mimetype in NO_TYPE:
        return None
    if mimetype not in supported:
        raise RequestError(415, f"Content-Type {mimetype!r} is not supported", supported=list(supported))
    return mimetype


def carried_type(declared: str | None, body: bytes, supported: Sequence[str]) -> str:
    """What the model is told: what the first bytes show, else what was declared, else the model's first.

    Bytes win over the header because a batch transform job has one Content-Type for all of its
    objects, whatever mixture of pictures they are.
    """
    shown = next((media_type for magic, media_type in MAGIC if body.startswith(magic)), None)
    if body.startswith(b"RIFF") and body[8:12] == b"WEBP":
        shown = "image/webp"
    if shown is not None and shown in supported:
        return shown
    return declared or supported[0]


def default_answer(text: str, offers: Sequence[Offer]) -> AnswerType | None:
    """The answer that a setting names; None when it is not offered."""
    name, asked = parse_options_header(text.lower())
    return next((found for offer in offers if offer.name == name and (found := offer.answer(asked))), None)


@functools.lru_cache(maxsize=256)  # clients say the same again and again
def response_type(accept: str, offers: tuple[Offer, ...], default: AnswerType) -> AnswerType:
    """The best of `offers` for an Accept header, `default` where it leaves the choice to us.

    Of two that the client likes as much, it is the default, else the one offered first. Raises
    RequestError 406.
    """
    if not accept.strip():
        return default
    ranges = [
        (*parse_options_header(text.lower()), quality)
        for text, quality in parse_accept_header(accept, MIMEAccept)  # the most specific first
    ]
    best, best_quality = None, 0.0
    for offer in (None, *offers):
        for name, asked, quality in ranges:
            found = _match(name, asked, offer, default)
            if found is not None:
                if quality > best_quality:
                    best, best_quality = found, quality
                break  # a less specific range says no more about this offer
    if best is None:
        supported = [offer.text for offer in offers]
        raise RequestError(406, f"nothing in Accept {accept!r} can be made", supported=supported)
    return best


def _match(
    name: str, asked: Mapping[str, str], offer: Offer | None, default: AnswerType
) -> AnswerType | None:
    """What a media range means for an offer; None stands for the default, which only a bare range means."""
    offered = default.content_type.partition(";")[0] if offer is None else offer.name
    if name in ("*/*", f"{offered.partition('/')[0]}/*"):
        return default if offer is None else offer.usual()
    if name != offered:
        return None
    if offer is not None:
        return offer.answer(asked)
    return default if _spelt(name, asked) == default.content_type else None
