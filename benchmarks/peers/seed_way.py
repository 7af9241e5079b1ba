"""The plain loop: fetches an image, decodes it, classifies it alone, and continues with the next.

    python -m benchmarks.peers.seed_way FOLDER

The folder has the weights, as benchmarks/model/comparison.py prepares them. benchmarks/pipeline.py
starts it. It answers `{"uris": […]}` on its standard input with the seconds that they took. It
stores nothing, which is in its favour.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import requests
import torch
from PIL import Image
from torchvision import transforms

from benchmarks.model.contenders import torchvision_network
from benchmarks.rig.child import answer_questions, say
from benchmarks.rig.machine import device

TIMEOUT_S = 20.0


def main() -> None:
    where = device()
    network = torchvision_network(Path(sys.argv[1])).to(where)
    prepare = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    def classify(uri: str) -> list[int]:
        body = requests.get(uri, timeout=TIMEOUT_S).content
        image = Image.open(io.BytesIO(body)).convert("RGB")
        with torch.inference_mode():
            logits = network(prepare(image)[None].to(where))
        return logits[0].softmax(0).topk(5).indices.tolist()

    def answer(uris: list[str]) -> dict[str, float]:
        began = time.monotonic()
        for uri in uris:
            classify(uri)
        return {"seconds": time.monotonic() - began}

    say({"ready": True})
    answer_questions(answer)


if __name__ == "__main__":
    main()
