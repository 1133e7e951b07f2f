"""Plans as files: which one fits, and what is said where none does. What is in the engines does not matter here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hamuco.engine.bundle import HAMUCO_S, Bundle, Card, load_bundle, write_card
from hamuco.engine.crops import BoxRule
from hamuco.engine.hand_model import load_hand_model, save_hand_model
from hamuco.engine.plans import (
    CARD,
    ESTIMATOR,
    INTERACTION,
    NOT_COMPARED,
    RTX_ARCHITECTURES,
    Parity,
    Plan,
    PlanCard,
    PlanError,
    Platform,
    Profile,
    Wanted,
    engines_folder,
    find_plan,
    model_hash,
    new_plan,
    read_plan,
    write_plan,
)

RTX = Platform("tensorrt-rtx", "1.7", "", ("sm_86", "sm_89"))
HERE = Platform("tensorrt-rtx", "1.7", "RTX 4090", ("sm_89",))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def opened(tmp_path: Path) -> Bundle:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "estimator.onnx").write_bytes(b"a graph")
    (folder / "interaction.onnx").write_bytes(b"another graph")
    save_hand_model(load_hand_model(), folder / "hand.npz")
    write_card(Card("mine", 128, BoxRule(2.0, 0.1), "rec", "8 mm", "CC0", {}), folder)
    return load_bundle(folder)


def card_of(opened: Bundle) -> PlanCard:
    return PlanCard("mine", model_hash(opened), RTX, "fp16", Profile((1, 8, 16), 2), 3.5, NOT_COMPARED)


def written(opened: Bundle, card: PlanCard) -> Plan:
    path = engines_folder(opened) / card.folder_name
    with new_plan(path, replace=False) as folder:
        (folder / ESTIMATOR).write_bytes(b"estimator" * 100)
        (folder / INTERACTION).write_bytes(b"interaction" * 100)
        write_plan(card, folder)
    return read_plan(path)


@pytest.mark.parametrize("parity", [NOT_COMPARED, Parity(0.09, 0.18, 64)])
def test_what_is_written_is_found(opened: Bundle, parity: Parity | str) -> None:
    card = replace(card_of(opened), parity=parity)
    written(opened, card)
    plan = find_plan(opened, Wanted(HERE, views=8, hands=2))
    assert plan.card == card
    assert plan.path.parent == opened.path / "engines"
    assert plan.estimator.read_bytes() == b"estimator" * 100
    assert plan.interaction.read_bytes() == b"interaction" * 100
    assert find_plan(opened, Wanted(HERE, views=1, hands=1)) == plan


def test_of_several_plans_the_smallest_that_fits_is_taken(opened: Bundle) -> None:
    for views in ((1, 4, 8), (1, 8, 16), (1, 2, 2)):
        written(opened, replace(card_of(opened), profile=Profile(views, 2)))
    assert find_plan(opened, Wanted(HERE, views=3, hands=2)).card.profile.views == (1, 4, 8)


def test_of_two_routes_the_default_is_taken_unless_only_the_other_fits(opened: Bundle) -> None:
    torch = replace(card_of(opened), route="torch")
    for route in (torch, replace(torch, route="onnx"), replace(torch, profile=Profile((1, 16, 32), 2))):
        written(opened, route)
    assert find_plan(opened, Wanted(HERE, views=8, hands=2)).card.route == "onnx"
    large = find_plan(opened, Wanted(HERE, views=20, hands=2))
    assert large.card.route == "torch"
    large.estimator.unlink()
    with pytest.raises(PlanError, match=r"Build it again: hamuco build .*--route torch --replace$"):
        find_plan(opened, Wanted(HERE, views=20, hands=2))


def test_of_two_precisions_the_default_is_taken(opened: Bundle) -> None:
    for precision in ("bf16", "fp16"):
        written(opened, replace(card_of(opened), precision=precision))
    assert find_plan(opened, Wanted(HERE, views=8, hands=2)).card.precision == "fp16"


def test_a_card_from_before_there_were_routes_is_of_onnx(opened: Bundle) -> None:
    plan = written(opened, card_of(opened))
    text = (plan.path / CARD).read_text()
    assert text.count('route = "onnx"\n') == 1
    (plan.path / CARD).write_text(text.replace('route = "onnx"\n', ""))
    assert read_plan(plan.path) == plan


def test_without_a_plan_the_command_that_builds_one_is_named(opened: Bundle) -> None:
    with pytest.raises(PlanError) as error:
        find_plan(opened, Wanted(HERE, views=4, hands=2))
    assert str(error.value) == (
        "no engine of mine was built for tensorrt-rtx 1.7 on RTX 4090. Build it: "
        f"hamuco build {opened.path} --runtime tensorrt-rtx --precision fp16 --views 1:4:16 --hands 2"
    )


@pytest.mark.parametrize(
    ("change", "wanted", "words"),
    [
        ({"model": "0" * 64}, {}, r"is of other networks \(mine, 000000000000..., expected"),
        ({"platform": replace(RTX, runtime="tensorrt")}, {}, "is for tensorrt, not for tensorrt-rtx"),
        ({"platform": replace(RTX, version="1.6")}, {}, "was built by tensorrt-rtx 1.6, this is 1.7"),
        ({"platform": replace(RTX, architectures=("sm_80",))}, {}, r"built for sm_80, this GPU is RTX 4090 \(sm_89\)"),
        ({"platform": replace(RTX, device="RTX 4080")}, {}, r"built for RTX 4080, this GPU is RTX 4090 \(sm_89\)"),
        ({}, {"views": 20}, "takes 1 to 16 views, wanted are 20.*--views 1:20:20"),
        ({}, {"hands": 3}, "takes 2 hands at most, wanted are 3.*--hands 3"),
        ({"profile": Profile((2, 4, 8), 1)}, {"views": 1}, "takes 2 to 8 views, wanted are 1"),
    ],
)
def test_a_plan_that_does_not_fit_says_why_and_what_to_do(
    opened: Bundle, change: dict[str, object], wanted: dict[str, object], words: str
) -> None:
    written(opened, replace(card_of(opened), **change))  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=words) as error:
        find_plan(opened, replace(Wanted(HERE, views=4, hands=2), **wanted))  # type: ignore[arg-type]
    assert ". Build one that fits: hamuco build " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_command_names_architectures_that_are_not_built_for_by_themselves(opened: Bundle) -> None:
    written(opened, card_of(opened)).estimator.unlink()
    with pytest.raises(PlanError, match=r"again: hamuco build .* --hands 2 --arch sm_86 --arch sm_89 --replace$"):
        find_plan(opened, Wanted(HERE, views=4, hands=2))
    whole = replace(
        card_of(opened), platform=replace(RTX, architectures=RTX_ARCHITECTURES), profile=Profile((1, 4, 8), 2)
    )
    written(opened, whole).estimator.unlink()
    with pytest.raises(PlanError, match=r"again: hamuco build \S+ --runtime tensorrt-rtx --precision .*--replace$"):
        find_plan(opened, Wanted(HERE, views=4, hands=2))


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_a_gpu_that_rtx_does_not_build_for_is_sent_to_tensorrt(opened: Bundle, architecture: str) -> None:
    wanted = Wanted(Platform("tensorrt-rtx", "1.7", "A GPU", (architecture,)), views=4, hands=2)
    for others in ((), ("sm_80",)):
        for other in others:
            written(opened, replace(card_of(opened), platform=replace(RTX, architectures=(other,))))
        with pytest.raises(PlanError) as error:
            find_plan(opened, wanted)
        assert str(error.value) == (
            f"tensorrt-rtx does not build for A GPU ({architecture}), take --runtime tensorrt. Build its engine: "
            f"hamuco build {opened.path} --runtime tensorrt --precision fp16 --views 1:4:16 --hands 2"
        )


def test_a_plan_from_before_there_was_another_default_architecture_fits(opened: Bundle) -> None:
    older = ("sm_80", "sm_86", "sm_89", "sm_120")
    plan = written(opened, replace(card_of(opened), platform=replace(RTX, architectures=older)))
    assert set(older) < set(RTX_ARCHITECTURES)
    assert find_plan(opened, Wanted(HERE, views=4, hands=2)) == plan
    with pytest.raises(PlanError, match=r"was built for sm_80, sm_86, sm_89, sm_120, this GPU is RTX 4090 \(sm_121\)"):
        find_plan(opened, Wanted(replace(HERE, architectures=("sm_121",)), views=4, hands=2))


def test_of_plans_that_do_not_fit_the_nearest_is_named(opened: Bundle) -> None:
    written(opened, replace(card_of(opened), platform=replace(RTX, version="1.6")))
    written(opened, replace(card_of(opened), profile=Profile((1, 2, 3), 2)))
    with pytest.raises(PlanError, match="takes 1 to 3 views, wanted are 4"):
        find_plan(opened, Wanted(HERE, views=4, hands=2))


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("name", [ESTIMATOR, INTERACTION])
@pytest.mark.parametrize(
    ("damage", "words"),
    [(_cut_off, "it was cut off or changed"), (_flip, "it was cut off"), (Path.unlink, "is missing")],
)
def test_a_damaged_engine_is_refused_before_a_runtime_sees_it(
    opened: Bundle, name: str, damage: Callable[[Path], None], words: str
) -> None:
    plan = written(opened, card_of(opened))
    damage(plan.path / name)
    with pytest.raises(
        PlanError, match=f"{name} .*{words}.*Build it again: hamuco build .*--hands 2 --arch .*--replace"
    ):
        find_plan(opened, Wanted(HERE, views=4, hands=2))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version = 1\n", "version = 2\n", "is a card of version 2, this is for version 1"),
        ("hands = 2", "hands = ", "is not the card of an engine"),
        ('precision = "fp16"\n', "", "is not the card of an engine .*precision"),
        ("views = [1, 8, 16]", "views = [16, 8, 1]", "expected 1 <= least <= usual <= most views"),
    ],
)
def test_a_damaged_card_is_named_where_nothing_else_fits(opened: Bundle, old: str, new: str, words: str) -> None:
    plan = written(opened, card_of(opened))
    text = (plan.path / CARD).read_text()
    assert text.count(old) == 1
    (plan.path / CARD).write_text(text.replace(old, new))
    with pytest.raises(PlanError, match=f"{words}.*Remove its folder, and build it again: hamuco build"):
        find_plan(opened, Wanted(HERE, views=4, hands=2))
    other = written(opened, replace(card_of(opened), precision="bf16"))
    assert find_plan(opened, Wanted(HERE, views=4, hands=2)) == other


def test_nothing_is_overwritten_unless_told(opened: Bundle) -> None:
    plan = written(opened, card_of(opened))
    with pytest.raises(PlanError, match=r"was built already.*--replace"):
        written(opened, card_of(opened))
    with new_plan(plan.path, replace=True) as folder:
        (folder / "other").touch()
    assert [path.name for path in plan.path.iterdir()] == ["other"]
    assert [path.name for path in plan.path.parent.iterdir()] == [plan.path.name]


def test_a_build_that_fails_leaves_nothing_and_takes_nothing(opened: Bundle) -> None:
    plan = written(opened, card_of(opened))
    for path in (plan.path, plan.path.with_name("another")):
        with pytest.raises(RuntimeError, match="power"), new_plan(path, replace=True) as folder:  # noqa: PT012
            (folder / ESTIMATOR).write_bytes(b"half")
            raise RuntimeError("power")
    assert [path.name for path in plan.path.parent.iterdir()] == [plan.path.name]
    assert find_plan(opened, Wanted(HERE, views=4, hands=2)) == plan


def test_plans_of_the_package_lie_in_the_cache(cache: Path) -> None:
    package = load_bundle(HAMUCO_S)
    folder = engines_folder(package)
    assert folder == cache / "hamuco" / "engines" / f"hamuco-s-{model_hash(package)[:12]}"
    with pytest.raises(PlanError, match="Build it: hamuco build hamuco-s --runtime"):
        find_plan(package, Wanted(HERE, views=4, hands=2))


def test_names_of_folders_are_those_of_what_is_built(opened: Bundle) -> None:
    card = card_of(opened)
    on_device = replace(card, platform=Platform("tensorrt", "10.13", "NVIDIA H100 80GB", ("sm_90",)))
    assert card.folder_name == "tensorrt-rtx-1.7-sm_86+sm_89-fp16-1.8.16x2"
    assert replace(on_device, route="torch").folder_name == f"{on_device.folder_name}-torch"
    assert on_device.folder_name == "tensorrt-10.13-NVIDIA-H100-80GB-fp16-1.8.16x2"


@pytest.mark.parametrize(("views", "hands"), [((0, 1, 2), 1), ((2, 1, 4), 1), ((1, 4, 2), 1), ((1, 2, 3), 0)])
def test_a_profile_that_is_none_is_refused(views: tuple[int, int, int], hands: int) -> None:
    with pytest.raises(ValueError, match="expected 1 <= least <= usual <= most views, and 1 hand or more"):
        Profile(views, hands)
