"""Camera axes of normal maps: one convention inside, others by a flip of signs at the edge.

Inside the project a normal map is float32 (H, W, 3), unit length, camera axes `rdf` (x right,
y down, z forward, as in OpenCV), pointing to the camera: normal . ray < 0. A wall in front of the
camera is (0, 0, -1). Where there is no truth, all three components are zero.
"""

import numpy as np
from numpy.typing import NDArray

TO_RDF: dict[str, tuple[int, int, int]] = {
    "rdf": (1, 1, 1),  # OpenCV
    "rub": (1, -1, -1),  # OpenGL, Blender; the usual lilac pictures
    "lub": (-1, -1, -1),  # FrameNet's ScanNet; also "rdf, pointing away"
    "rdb": (1, 1, -1),  # Taskonomy, Omnidata
}
"""Signs that bring each named convention to `rdf`. Each is its own inverse."""


def convert(normals: NDArray[np.float32], axes: str) -> NDArray[np.float32]:
    """A normal map (..., 3) from `axes` to `rdf`, or back. `axes` is a key of `TO_RDF`."""
    return normals * np.array(TO_RDF[axes], dtype=np.float32)
