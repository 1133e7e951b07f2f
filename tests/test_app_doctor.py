"""The doctor's look at the graphics, with drivers that work, are missing, or crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from hamuco.app.doctor import Finding, examine
from hamuco.engine.hand_model import load_hand_model
from hamuco.training.synthetic.renderer import GraphicsError, Renderer


def graphics() -> Finding:
    (finding,) = [finding for finding in examine() if finding.what == "OpenGL (EGL)"]
    return finding


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, moderngl: str) -> None:
    """Put a module of this text in the place of moderngl, for processes that are started from now on."""
    (folder / "moderngl.py").write_text(moderngl)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_the_doctor_finds_what_the_renderer_finds() -> None:
    try:
        Renderer(load_hand_model()).close()
        opens = True
    except GraphicsError:
        opens = False
    assert graphics().good == opens


@pytest.mark.parametrize(
    ("moderngl", "words"),
    [
        ("raise ModuleNotFoundError('No module named moderngl')", "No module named moderngl"),
        ("def create_context(**options): raise Exception('libEGL.so not found')", "libEGL.so not found"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the driver crashed (SIGSEGV)"),
    ],
)
def test_broken_graphics_are_explained_and_nothing_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moderngl: str, words: str
) -> None:
    pretend(monkeypatch, tmp_path, moderngl)
    finding = graphics()
    assert not finding.good
    assert not finding.needed
    assert words in finding.detail
    assert 'pip install "hamuco[synth]"' in finding.detail
    assert "libegl1 libgl1-mesa-dri" in finding.detail
