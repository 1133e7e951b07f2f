"""Looks: the same from the same seed, within their preset, over the whole range of people."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import numpy as np
import pytest

from hamuco.fusion.hand import Side
from hamuco.training.synthetic.look import PRESETS, Look, Preset, draw_look, linear
from hamuco.training.synthetic.textures import SIZE, stock

LUMINANCE = np.array([0.0722, 0.7152, 0.2126])  # of linear BGR


def numbers(value: object) -> list[float]:
    """All numbers in a value, in order."""
    if is_dataclass(value):
        return [number for field in fields(value) for number in numbers(getattr(value, field.name))]
    if isinstance(value, tuple):
        return [number for part in value for number in numbers(part)]
    if value is None or isinstance(value, str):
        return [float(len(value or ""))]
    return np.asarray(value, float).ravel().tolist()


def looks(preset: Preset, count: int, hands: int = 1) -> list[Look]:
    rng = np.random.default_rng(5)
    return [draw_look(preset, hands, rng) for _ in range(count)]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_seed_gives_the_same_look(preset: Preset) -> None:
    first, second = (numbers(draw_look(preset, 2, np.random.default_rng(8))) for _ in range(2))
    assert first == second
    assert first != numbers(draw_look(preset, 2, np.random.default_rng(9)))


def test_skin_covers_the_human_range_and_palms_are_lighter() -> None:
    skins = [look.skins[0] for look in looks("room", 300)]
    back = np.array([skin.back @ LUMINANCE for skin in skins])
    palm = np.array([skin.palm @ LUMINANCE for skin in skins])
    # The darkest skin reflects some 3 % of light, the lightest some 65 %.
    assert back.min() < 0.04
    assert back.max() > 0.6
    assert np.quantile(back, 0.25) < 0.12
    assert np.quantile(back, 0.75) > 0.35
    dark, light = back < 0.06, back > 0.5
    assert np.median(palm[dark] / back[dark]) > 1.5
    assert np.median(palm[light] / back[light]) < 1.2
    for skin in skins:  # skin is redder than it is blue, everywhere
        assert (np.diff(skin.back) > 0).all()
        assert (np.diff(skin.palm) > 0).all()
        assert skin.palm.max() < 1


def test_sleeves_are_there_and_not_there() -> None:
    sleeves = [look.sleeves[0] for look in looks("plain", 200)]
    starts = np.array([sleeve.cut.start for sleeve in sleeves if sleeve is not None])
    assert 0.25 < 1 - len(starts) / 200 < 0.45
    assert (starts < 0.07).any()
    assert (starts > 0.12).any()


def test_presets_hold_what_they_say() -> None:
    assert all(solid.shape in ("sphere", "cylinder") for look in looks("plain", 20) for solid in look.solids)
    for look in looks("room", 40):
        assert any(solid.shape == "room" for solid in look.solids)
        # Nothing between cameras and hands: furniture stands beyond 0.9 m, the person sits at -y, tables face up.
        for solid in look.solids:
            assert solid.holder is None
            if solid.shape not in ("room", "quad"):
                person = abs(solid.pose[0, 3]) < 0.1 and solid.pose[1, 3] + solid.size[1] / 2 < -0.35
                assert person or np.hypot(*solid.pose[:2, 3]) - np.hypot(*solid.size[:2]) / 2 > 0.9
    hard = looks("hard", 40, hands=2)
    assert any(solid.holder is not None for look in hard for solid in look.solids)
    assert all(any(np.linalg.norm(s.pose[:3, 3]) < 0.5 for s in look.solids if s.holder is None) for look in hard)


def test_two_hands_are_mostly_one_persons() -> None:
    same = [look.skins[0] is look.skins[1] for look in looks("plain", 100, hands=2)]
    assert 0.65 < np.mean(same) < 0.95


@pytest.mark.parametrize(("side", "sign"), [("right", 1), ("left", -1)])
def test_arms_come_from_their_own_shoulders(side: Side, sign: int) -> None:
    # The person at -y looks along +y, so its right is at +x; shoulders are 0.16 m from a chest within 0.05 m.
    rng = np.random.default_rng(4)
    for _ in range(10):
        assert sign * draw_look("plain", 1, rng, side).shoulders[0][0] > 0.1
        first, second = draw_look("plain", 2, rng, side).shoulders
        assert sign * (first[0] - second[0]) > 0.3


def test_light_is_white_on_average_and_bright_enough() -> None:
    for look in looks("room", 60):
        lights = look.lights
        assert np.linalg.norm(lights.key_direction) == pytest.approx(1)
        white = (lights.key + (lights.sky + lights.ground) / 2) @ LUMINANCE
        assert 0.5 < white < 1.5


def test_unknown_preset_and_number_of_hands_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown preset 'foggy'"):
        draw_look("foggy", 1, np.random.default_rng(0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 or 2 hands, not 3"):
        draw_look("plain", 3, np.random.default_rng(0))


def test_linear_follows_the_srgb_curve() -> None:
    # sRGB 188 is half the light to the nearest level; 10 lies on the straight part, 10 / 255 / 12.92.
    assert linear(np.array([188]))[0] == pytest.approx(0.5, abs=0.005)
    assert linear(np.array([10]))[0] == pytest.approx(10 / 255 / 12.92)


def test_textures_repeat_without_a_seam() -> None:
    layers, kinds = stock()
    assert layers.shape == (sum(len(ids) for ids in kinds.values()), SIZE, SIZE, 3)
    for kind in ("cloud", "cloth", "speckle"):
        for layer in kinds[kind]:
            image = layers[layer].astype(float)
            inside = np.abs(np.diff(image, axis=0)).mean()
            assert np.abs(image[0] - image[-1]).mean() < 1.5 * inside
