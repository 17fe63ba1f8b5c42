"""Last step of a request: a normal map in the form that the client asked for."""

import numpy as np

from surface_normals import axes, codecs
from surface_normals.codecs import Normals

_AXES = {
    first: "|".join([first, *(name for name in axes.TO_RDF if name != first)]) for first in ("rdf", "rub")
}
RESPONSE_TYPES = (
    f"{codecs.NPY};dtype=float32|float16;axes={_AXES['rdf']};confidence=no|yes",
    f"{codecs.PNG};bits=8|16;axes={_AXES['rub']}",
    f"{codecs.JSON};axes={_AXES['rdf']}",
)
"""What can be asked for, the first of each choice being the default.

`confidence=yes` adds a fourth channel, the expected error in degrees (0 to 90). A PNG in axes other
than `rub` is not lilac, but as good for data.
"""


def encode_answer(normals: Normals, expected_error_degrees: Normals, media_type: str) -> bytes:
    """`normals` (H, W, 3) in `rdf` and `expected_error_degrees` (H, W) as one of RESPONSE_TYPES.

    `media_type` has every choice spelt out.
    """
    name, *parameters = media_type.split(";")
    chosen = dict(parameter.split("=") for parameter in parameters)
    if name == codecs.JSON:
        return codecs.encode_summary(normals, expected_error_degrees, chosen["axes"])
    if name == codecs.PNG:
        encode = {"8": codecs.encode_png8, "16": codecs.encode_png16}[chosen["bits"]]
        return encode(normals, chosen["axes"])
    answer = axes.convert(normals, chosen["axes"])
    if chosen["confidence"] == "yes":
        answer = np.concatenate([answer, expected_error_degrees[:, :, None]], axis=2)
    return codecs.encode_npy(answer.astype(chosen["dtype"], copy=False))
