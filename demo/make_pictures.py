"""Makes the demo's pictures from scikit-image's public-domain photographs; run once, by hand.

    python demo/make_pictures.py FOLDER-OF-SKIMAGE-DATA demo/pictures

Sources and licences stand in demo/pictures/README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

LONG_SIDE = 480
PHOTOGRAPHS = {
    "astronaut.png": "astronaut.jpg",
    "chelsea.png": "chelsea.jpg",
    "coffee.png": "coffee.jpg",
    "coins.png": "coins.jpg",
    "horse.png": "horse.png",
    "rocket.jpg": "rocket.jpg",
    "hubble_deep_field.jpg": "hubble.jpg",
    "clock_motion.png": "clock.jpg",
}
TRUNCATED_BYTES = 9000


def main(source: Path, target: Path) -> None:
    for name, made in PHOTOGRAPHS.items():
        picture = Image.open(source / name)
        picture.thumbnail((LONG_SIDE, LONG_SIDE))
        if made.endswith(".jpg"):
            picture = picture.convert("L" if picture.mode == "L" else "RGB")
        picture.save(target / made, quality=85, optimize=True)
    variants(target)


def variants(target: Path) -> None:
    """The kinds of file that the web has, each from one of the photographs."""
    chelsea = Image.open(target / "chelsea.jpg").convert("RGB")
    coffee = Image.open(target / "coffee.jpg").convert("RGB")
    rocket = Image.open(target / "rocket.jpg").convert("RGB")
    chelsea.convert("L").save(target / "chelsea-grey.jpg", quality=85)
    coffee.convert("CMYK").save(target / "coffee-cmyk.jpg", quality=85)
    astronaut = Image.open(target / "astronaut.jpg").convert("RGBA").resize((240, 240))
    astronaut.putalpha(Image.radial_gradient("L").resize(astronaut.size).point(lambda v: 255 - v))
    astronaut.save(target / "astronaut-rgba.png", optimize=True)
    rocket.resize((240, 160)).quantize(64).save(target / "rocket-palette.png", optimize=True)
    frames = [chelsea.resize((200, 133)).rotate(angle) for angle in (0, 15, 30)]
    frames[0].save(target / "chelsea-animated.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    coffee.save(target / "coffee-rotated.jpg", quality=85, exif=exif)
    whole = (target / "astronaut.jpg").read_bytes()
    (target / "truncated.jpg").write_bytes(whole[:TRUNCATED_BYTES])
    (target / "words.jpg").write_text("This is a text, whatever its name says.\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
