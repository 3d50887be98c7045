"""Scenes: generated images about which everything is known, so that a probe can ask what a level knows.

Every number is drawn from (seed, split, image) alone and everything is drawn in whole numbers, so that the same options
give the same bytes on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hjepa_eval.datasets.factors import Factor, categorical
from hjepa_eval.datasets.generated.backgrounds import BACKGROUNDS, draw_background, pictures_hash
from hjepa_eval.datasets.generated.shapes import COLOURS, FULL, ROUND, SHAPES, SYMMETRY, TEXTURES, draw_sprite
from hjepa_eval.datasets.protocol import ImageDataset
from hjepa_eval.datasets.randomness import derive_seed, uniform_rows
from hjepa_eval.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

OPTIONS = {
    "size": "pixels in each direction, 32 to 128 (64)",
    "n": "train images (4000); a quarter as many are test",
    "objects": "shapes, or digits: real scanned digits (shapes)",
    "spurious": "share of train images whose background tells the class, 0 to 1 (0); test is left alone",
    "conflict": "texture: it tells the class in train and contradicts it in test",
    "background": f"the one behind every image: {', '.join(BACKGROUNDS)} (any of them)",
    "clutter": "further, smaller objects at most, 0 to 3 (3)",
    "draw": "seed of the drawing (0)",
}
SIZES = ("small", "medium", "large")
# Of the large object, in pixels of 64: thin digits need more of them than shapes.
_RADII = {"shapes": np.array([9, 12, 15]), "digits": np.array([14, 17, 20])}
_FURTHER_RADII = np.array([4, 5, 6])
MOST_OBJECTS = 4
_TRIES = 8
# Random numbers of an image: of the scene, of each further object, of the background.
_OF_SCENE, _OF_OBJECT, _OF_BACKGROUND = 16, 8 + 2 * _TRIES, 80
_COLUMNS = _OF_SCENE + (MOST_OBJECTS - 1) * _OF_OBJECT + _OF_BACKGROUND


@dataclass(frozen=True)
class SceneOptions:
    """What the options after `scenes?` say; see `OPTIONS`."""

    size: int = 64
    n: int = 4000
    objects: str = "shapes"
    spurious: float = 0.0
    conflict: str = ""
    background: str = ""
    clutter: int = MOST_OBJECTS - 1
    draw: int = 0


def read_options(options: Mapping[str, str]) -> SceneOptions:
    """Return options from their text.

    Raises:
        DataError: a value is no number, out of range, or not one of those offered.
    """
    values = asdict(SceneOptions())
    for name, text in options.items():
        try:
            values[name] = type(values[name])(text)
        except ValueError:
            raise DataError(f"scenes?{name}={text}: expected {OPTIONS[name]}") from None
    chosen = SceneOptions(**values)
    fits = {
        "size": 32 <= chosen.size <= 128,
        "n": 40 <= chosen.n <= 1_000_000,
        "objects": chosen.objects in ("shapes", "digits"),
        "spurious": 0 <= chosen.spurious <= 1,
        "conflict": chosen.conflict in ("", "texture"),
        "background": chosen.background in ("", *BACKGROUNDS),
        "clutter": 0 <= chosen.clutter < MOST_OBJECTS,
        "draw": chosen.draw >= 0,
    }
    for name, fitting in fits.items():
        if not fitting:
            raise DataError(f"scenes?{name}={getattr(chosen, name)}: expected {OPTIONS[name]}")
    return chosen


@cache
def _digits(split: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ink, int64 `[N, 8, 8]` of 0 to 16, and labels of the digits of one split, in the order of `digits`."""
    from hjepa_eval.datasets.named.digits import Digits

    digits = Digits(split)
    ink = np.stack([np.asarray(digits.image(index)[0], dtype=np.int64) for index in range(len(digits))])
    return (ink * 16 + 127) // 255, digits.labels


class Scenes(ImageDataset):
    """One large object, the class, among up to three smaller ones on a background, all of it known.

    Factors of an image: class and superclass (round or angular; odd or even digits), colour, texture, size, x, y and
    angle of the large object, count of objects, background. `maps` tells the same of every pixel.
    """

    def __init__(self, split: str, options: SceneOptions | None = None) -> None:
        """Draw the numbers of one split, `train` or `test`; images are drawn when asked for."""
        self.options = options or SceneOptions()
        chosen = self.options
        usual = asdict(SceneOptions())
        changed = [f"{name}={value}" for name, value in asdict(chosen).items() if value != usual[name]]
        self.name = "?".join(["scenes", *changed])
        self.split = split
        self.class_names = SHAPES if chosen.objects == "shapes" else tuple(str(digit) for digit in range(10))
        count = chosen.n if split == "train" else max(len(self.class_names), chosen.n // 4)
        key = derive_seed(chosen.draw, 0, f"scenes {split}")
        # 24 bits of each number are exact in float32, and so is the product with a power of two.
        numbers = uniform_rows(key, np.arange(count), columns=_COLUMNS)
        self._numbers = (numbers * (1 << 16)).astype(np.int64)
        self.labels = np.arange(count, dtype=np.int64) % len(self.class_names)
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        """Return the hash of all that decides the images: options, this code, and the pictures it cuts from."""
        digest = hashlib.sha256(f"scenes|{self.split}|{self.options}|{pictures_hash()}".encode())
        for name in ("scenes", "shapes", "backgrounds"):
            digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
        if self.options.objects == "digits":
            digest.update(_digits(self.split)[0].tobytes())
        return digest.hexdigest()

    def _pick(self, column: int, choices: int) -> NDArray[np.int64]:
        """Return a number below `choices` for every image."""
        return (self._numbers[:, column] * choices) >> 16

    @cached_property
    def _texture(self) -> NDArray[np.int64]:
        if self.options.conflict != "texture":
            return self._pick(2, len(TEXTURES))
        aligned = self.labels % len(TEXTURES)
        return aligned if self.split == "train" else (aligned + 1 + self._pick(2, len(TEXTURES) - 1)) % len(TEXTURES)

    @cached_property
    def _background(self) -> NDArray[np.int64]:
        if self.options.background:
            return np.full(len(self.labels), BACKGROUNDS.index(self.options.background))
        free = self._pick(8, len(BACKGROUNDS))
        if self.split != "train":
            return free
        tied = self._numbers[:, 9] < round(self.options.spurious * (1 << 16))
        return np.where(tied, self.labels % len(BACKGROUNDS), free)

    @cached_property
    def _further(self) -> NDArray[np.int64]:
        """Return how many smaller objects lie about the large one."""
        return self._pick(7, self.options.clutter + 1)

    @cached_property
    def _radius(self) -> NDArray[np.int64]:
        """Radius of the large object in subpixels, of which a pixel has two in each direction."""
        return _RADII[self.options.objects][self._pick(3, len(SIZES))] * self.options.size // 32

    @cached_property
    def _centre(self) -> NDArray[np.int64]:
        """Row and column of the large object in subpixels, `[N, 2]`: three quarters of its radius stay inside."""
        margin = 3 * self._radius[:, None] // 4
        return margin + ((self._numbers[:, 4:6] * (2 * self.options.size - 2 * margin)) >> 16)

    @cached_property
    def _angle(self) -> NDArray[np.int64]:
        # A digit that is turned further becomes another one.
        return self._pick(6, 360) if self.options.objects == "shapes" else self._pick(6, 61) - 30

    @property
    def factors(self) -> dict[str, Factor]:
        """What is known of every image, by name."""
        angular = [name not in ROUND for name in SHAPES]
        if self.options.objects == "shapes":
            groups, names = np.array(angular, dtype=np.int64), ("round", "angular")
            order = np.array([SYMMETRY[name] for name in SHAPES])[self.labels]
            angle = np.where(order > 0, (self._angle * order % 360).astype(np.float64), np.float64(np.nan))
            turned = Factor("angle", "angle", angle)
        else:
            groups, names = np.arange(10) % 2, ("even", "odd")
            turned = Factor("angle", "numeric", self._angle.astype(np.float64))
        places = self._centre.astype(np.float64) / (2 * self.options.size)
        listed = [
            categorical("class", self.labels, self.class_names),
            categorical("superclass", groups[self.labels], names),
            categorical("colour", self._pick(1, len(COLOURS)), tuple(COLOURS)),
            categorical("texture", self._texture, TEXTURES),
            categorical("size", self._pick(3, len(SIZES)), SIZES),
            Factor("x", "numeric", places[:, 1]),
            Factor("y", "numeric", places[:, 0]),
            turned,
            Factor("count", "numeric", (1 + self._further).astype(np.float64)),
            categorical("background", self._background, BACKGROUNDS),
        ]
        return {factor.name: factor for factor in listed}

    @property
    def map_classes(self) -> tuple[str, ...]:
        """Background, then the classes of objects."""
        return ("background", *self.class_names)

    def image(self, index: int) -> Tensor:
        """Return image `index` as uint8 `[3, size, size]`."""
        import torch

        return torch.from_numpy(self._draw(index)[0].transpose(2, 0, 1).copy())

    def maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        """Return what each pixel shows, uint8 `[size, size]` each.

        `class` is 0 for background and 1 + class; `instance` numbers the objects from 1, the large one first; `depth`
        is 0 for background and rises towards the viewer.
        """
        return dict(zip(("class", "instance", "depth"), self._draw(index)[1], strict=True))

    def _objects(self, index: int) -> list[tuple[int, int, int, tuple[int, int], int, int]]:
        """Return (shape, colour, texture, centre, radius, angle) of every object, the large one first."""
        row, size = self._numbers[index], self.options.size
        radius, centre = int(self._radius[index]), self._centre[index]
        large = (int(self.labels[index]), int(row[1] * len(COLOURS)) >> 16, int(self._texture[index]))
        objects = [(*large, (int(centre[0]), int(centre[1])), radius, int(self._angle[index]))]
        for further in range(int(self._further[index])):
            draws = row[_OF_SCENE + further * _OF_OBJECT :][:_OF_OBJECT]
            small = int(_FURTHER_RADII[(draws[0] * 3) >> 16]) * size // 32
            places = (draws[8:].reshape(_TRIES, 2) * 2 * size) >> 16
            # The first place that leaves the large object in sight, or else the one farthest from it.
            apart = ((places - centre) ** 2).sum(axis=1)
            free = np.flatnonzero(apart >= (4 * (radius + small) // 5) ** 2)
            place = places[free[0] if len(free) else int(apart.argmax())]
            picks = [int(draws[column] * count) >> 16 for column, count in enumerate((3, len(self.class_names), 8, 4))]
            turn = int(draws[4] * 360) >> 16 if self.options.objects == "shapes" else (int(draws[4] * 61) >> 16) - 30
            objects.append((picks[1], picks[2], picks[3], (int(place[0]), int(place[1])), small, turn))
        return objects

    def _draw(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the picture, uint8 `[size, size, 3]`, and the maps, uint8 `[3, size, size]`."""
        row, size = self._numbers[index], self.options.size
        kind = BACKGROUNDS[self._background[index]]
        canvas = draw_background(kind, row[-_OF_BACKGROUND:], size=size)
        maps = np.zeros((3, size, size), dtype=np.uint8)
        palette = np.array(list(COLOURS.values()), dtype=np.int64)
        objects = self._objects(index)
        order = np.argsort(row[10 : 10 + len(objects)], kind="stable")
        for depth, which in enumerate(order, start=1):
            shape, colour, texture, centre, radius, angle = objects[which]
            sprite = draw_sprite(
                self._shape(shape, int(row[15]) + int(which)),
                texture=TEXTURES[texture],
                centre=centre,
                radius=radius,
                angle=angle,
                size=size,
            )
            box = (sprite.rows, sprite.columns)
            cover, paint = sprite.cover[..., None], palette[colour] * sprite.shade[..., None] // 8
            canvas[box] = (canvas[box] * (FULL - cover) + paint * cover) // FULL
            # A pixel is of the object that covers half of it.
            shown = 2 * sprite.cover >= FULL
            for layer, value in zip(maps, (shape + 1, which + 1, depth), strict=True):
                layer[box][shown] = value
        return canvas.astype(np.uint8), maps

    def _shape(self, shape: int, draw: int) -> str | NDArray[np.int64]:
        if self.options.objects == "shapes":
            return SHAPES[shape]
        ink, labels = _digits(self.split)
        same = np.flatnonzero(labels == shape)
        return np.asarray(ink[same[draw % len(same)]])
