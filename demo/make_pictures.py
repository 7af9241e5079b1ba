"""Makes the demo's pictures from photographs in two packages; run once, by hand.

    python demo/make_pictures.py FOLDER demo/pictures

FOLDER holds the photographs below. demo/pictures/README.md says where each one comes from.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

LONG_SIDE = 480
PHOTOGRAPHS = {
    "chelsea.png": "chelsea.jpg",
    "coffee.png": "coffee.jpg",
    "fish25.webp": "goldfish.jpg",
    "bison.webp": "bison.jpg",
    "koala.webp": "koala.jpg",
    "red_panda.webp": "red-panda.png",
    "dog.webp": "shepherd.jpg",
    "arcDeTriomphe.webp": "arch.jpg",
}
TRUNCATED_BYTES = 9000


def main(source: Path, target: Path) -> None:
    for name, made in PHOTOGRAPHS.items():
        picture = Image.open(source / name).convert("RGB")
        picture.thumbnail((LONG_SIDE, LONG_SIDE))
        picture.save(target / made, quality=85, optimize=True)
    variants(target)


def variants(target: Path) -> None:
    """Makes files of the kinds found on the web, each from one of the photographs."""
    chelsea = Image.open(target / "chelsea.jpg").convert("RGB")
    coffee = Image.open(target / "coffee.jpg").convert("RGB")
    goldfish = Image.open(target / "goldfish.jpg").convert("RGB")
    chelsea.convert("L").save(target / "chelsea-grey.jpg", quality=85)
    coffee.convert("CMYK").save(target / "coffee-cmyk.jpg", quality=85)
    shepherd = Image.open(target / "shepherd.jpg").convert("RGBA").resize((240, 180))
    shepherd.putalpha(Image.radial_gradient("L").resize(shepherd.size).point(lambda v: 255 - v))
    shepherd.save(target / "shepherd-rgba.png", optimize=True)
    goldfish.resize((240, 204)).quantize(64).save(target / "goldfish-palette.png", optimize=True)
    frames = [chelsea.resize((200, 133)).rotate(angle) for angle in (0, 15, 30)]
    frames[0].save(target / "chelsea-animated.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers turn it by 90 degrees
    coffee.save(target / "coffee-rotated.jpg", quality=85, exif=exif)
    whole = (target / "shepherd.jpg").read_bytes()
    (target / "truncated.jpg").write_bytes(whole[:TRUNCATED_BYTES])
    (target / "words.jpg").write_text("This is a text, whatever its name says.\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
