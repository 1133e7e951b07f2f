from __future__ import annotations

from dataclasses import replace

import numpy as np
import rigs
from scipy.spatial.transform import Rotation

from hamuco.calibration.camera import Camera, Rig
from hamuco.fusion.refine import RigRefiner
from hamuco.fusion.triangulate import triangulate


def _turned(camera: Camera, degrees: float) -> Camera:
    move = np.eye(4)
    move[:3, :3] = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    return replace(camera, camera_from_world=move @ camera.camera_from_world)


def _follow(refiner: RigRefiner, truth: Rig, hands: int) -> None:
    """Track hands all over the working volume: seen by the true cameras, interpreted with the refined ones."""
    random = np.random.default_rng(1)
    for index in range(hands):
        joints = rigs.hand_joints(random.uniform(-0.2, 0.2, 3), random.normal(0, 1, 3))
        views = []
        for number, (camera, believed) in enumerate(zip(truth, refiner.rig(), strict=True)):
            seen = rigs.view_hand(camera, joints, noise_px=2.0, seed=100 * index + number)
            views.append(
                replace(seen, region=replace(seen.region, camera=believed), rays=believed.pixel_rays(seen.pixels))
            )
        origins = np.stack([np.broadcast_to(view.camera.centre, (21, 3)) for view in views])
        sigma = np.array([view.ray_sigma for view in views])
        refiner.add(tuple(views), triangulate(origins, np.stack([view.rays for view in views]), sigma))


def _error_px(rig: Rig, truth: Rig) -> float:
    """Leave-one-out error of exact observations: how far the rig is from consistent, whatever its world frame."""
    errors = []
    for centre in np.random.default_rng(2).uniform(-0.15, 0.15, (8, 3)):
        joints = rigs.hand_joints(centre)
        pixels = [camera.project(joints) for camera in truth]
        origins = np.stack([np.broadcast_to(camera.centre, (21, 3)) for camera in rig])
        rays = np.stack([camera.pixel_rays(seen) for camera, seen in zip(rig, pixels, strict=True)])
        for out in range(len(rig)):
            kept = [index for index in range(len(rig)) if index != out]
            points = triangulate(origins[kept], rays[kept], np.full(len(kept), rigs.RAY_SIGMA)).points
            errors.append(np.linalg.norm(rig.cameras[out].project(points) - pixels[out], axis=1).mean())
    return float(np.mean(errors))


def test_a_small_calibration_error_is_found() -> None:
    truth = rigs.ring_rig(4, arc=1.5 * np.pi)
    believed = Rig((_turned(truth.cameras[0], 0.3), *truth.cameras[1:]))
    refiner = RigRefiner(believed)
    before = _error_px(refiner.rig(), truth)
    _follow(refiner, truth, 60)
    # 0.3 degrees are 4.7 px at 900 px focal length. The prior of 0.29 degrees takes its share of the correction, and 60
    # hands that count as one joint of 3 px each leave about 0.4 px: a fifth of the error at most.
    assert before > 2
    assert _error_px(refiner.rig(), truth) < before / 4
    assert refiner.alarms() == {}


def test_a_right_calibration_stays() -> None:
    truth = rigs.ring_rig(4, arc=1.5 * np.pi)
    refiner = RigRefiner(truth)
    _follow(refiner, truth, 60)
    # 2 px of noise in 60 hands of which each counts as one joint: 2 / sqrt(60) = 0.26 px = 0.016 degrees; three times that.
    angles = [np.rad2deg(np.linalg.norm(value[:3])) for value in refiner.corrections().values()]
    assert max(angles) < 0.05


def test_what_is_said_over_and_over_grows_no_correction_beyond_the_priors_reach() -> None:
    truth = rigs.ring_rig(4, arc=1.5 * np.pi)
    refiner = RigRefiner(truth)
    joints = rigs.hand_joints()
    for _ in range(300):
        views = [rigs.view_hand(camera, joints, noise_px=3.0, seed=i) for i, camera in enumerate(truth)]  # one bias
        origins = np.stack([np.broadcast_to(view.camera.centre, (21, 3)) for view in views])
        sigma = np.array([view.ray_sigma for view in views])
        refiner.add(tuple(views), triangulate(origins, np.stack([view.rays for view in views]), sigma))
    # Independent 3 px at 21 joints shift a view by 0.65 px, 0.04 degrees; the refiner may follow it, not exceed it much.
    assert max(np.rad2deg(np.linalg.norm(value[:3])) for value in refiner.corrections().values()) < 0.15


def test_nothing_added_changes_nothing() -> None:
    rig = rigs.ring_rig(3)
    for refined, given in zip(RigRefiner(rig).rig(), rig, strict=True):
        np.testing.assert_array_equal(refined.camera_from_world, given.camera_from_world)


def test_a_bumped_camera_raises_an_alarm_by_name() -> None:
    truth = rigs.ring_rig(4, arc=1.5 * np.pi)
    refiner = RigRefiner(Rig((_turned(truth.cameras[0], 3.0), *truth.cameras[1:])))
    _follow(refiner, truth, 60)
    assert "cam_0" in refiner.alarms()
    assert "was it moved" in refiner.alarms()["cam_0"]


def test_two_views_constrain_only_what_they_can() -> None:
    truth = rigs.ring_rig(2, arc=np.pi)
    refiner = RigRefiner(Rig((_turned(truth.cameras[0], 0.2), truth.cameras[1])))
    _follow(refiner, truth, 30)
    for value in refiner.corrections().values():
        assert np.isfinite(value).all()
        assert np.abs(value[:3]).max() < np.deg2rad(0.3)  # never more than the error that was made
