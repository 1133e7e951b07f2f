"""Runs MediaPipe Hands on videos of one rig and prints milliseconds per frame set as JSON. Needs mediapipe and opencv only.

python mediapipe_worker.py VIDEO...
"""

from __future__ import annotations

import json
import sys
import time

import cv2
import mediapipe as mp


def frames(path: str) -> list[cv2.typing.MatLike]:
    """All frames, RGB: its conversion from BGR is left out of the time, to MediaPipe's advantage."""
    capture = cv2.VideoCapture(path)
    images: list[cv2.typing.MatLike] = []
    while True:
        decoded, image = capture.read()
        if not decoded:
            return images
        images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def main() -> None:
    videos = [frames(path) for path in sys.argv[1:]]
    hands = [mp.solutions.hands.Hands(static_image_mode=False, max_num_hands=2, model_complexity=1) for _ in videos]
    for one, images in zip(hands, videos, strict=True):
        one.process(images[-1])  # loads the graph
        one.reset()
    times = []
    for frame_set in zip(*videos, strict=True):
        start = time.perf_counter()
        for one, image in zip(hands, frame_set, strict=True):
            one.process(image)
        times.append(1e3 * (time.perf_counter() - start))
    print(json.dumps(times))


if __name__ == "__main__":
    main()
