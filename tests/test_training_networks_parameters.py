"""The numbers of a hand, and where its points are seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from hamuco.engine.crops import CropCamera
from hamuco.training.networks.parameters import OUTPUTS, ParameterReadout, project


def test_zeros_mean_the_mean_hand_of_usual_size_in_the_middle() -> None:
    mean_pose = torch.rand(16, 6)
    parameters = ParameterReadout(mean_pose)(torch.zeros(2, 3, OUTPUTS))
    assert OUTPUTS == 109
    assert torch.equal(parameters.pose, mean_pose.expand(2, 3, 16, 6))
    assert torch.equal(parameters.betas, torch.zeros(2, 3, 10))
    # 5 half crops per metre: a hand of 0.2 m is one half crop, half the crop wide.
    torch.testing.assert_close(parameters.camera, torch.tensor([5.0, 0.0, 0.0]).expand(2, 3, 3))


def test_the_scale_is_positive_and_never_stuck() -> None:
    raw = torch.zeros(5, OUTPUTS)
    raw[:, -3] = torch.tensor([-20.0, -3.0, 0.0, 3.0, 30.0])
    raw.requires_grad_()
    scale = ParameterReadout(torch.zeros(16, 6))(raw).camera[:, 0]
    assert (scale > 0).all()
    assert (scale.diff() > 0).all()
    scale.sum().backward()
    assert raw.grad is not None
    assert (raw.grad[:, -3] > 0).all()


def test_parameters_are_single_precision_whatever_comes_in() -> None:
    parameters = ParameterReadout(torch.zeros(16, 6))(torch.zeros(1, OUTPUTS, dtype=torch.bfloat16))
    assert {parameters.pose.dtype, parameters.betas.dtype, parameters.camera.dtype} == {torch.float32}


@pytest.mark.parametrize("size", [128, 256])
def test_projection_is_that_of_the_crop_camera(size: int) -> None:
    rng = np.random.default_rng(1)
    turned = Rotation.from_rotvec([0.1, -0.5, 0.3]).as_matrix()
    crop = CropCamera(turned, focal=2.7 * size, size=size)
    root, joints = np.array([0.04, -0.03, 0.62]), rng.uniform(-0.1, 0.1, (21, 3))  # m, axes of the crop

    pixels = crop.project((root + joints) @ turned)  # the crop's axes -> the real camera's
    expected = (2 * pixels + 1) / size - 1

    half_angle = size / 2 / crop.focal
    scale = 1 / (half_angle * root[2])
    camera = torch.tensor([scale, scale * root[0], scale * root[1]])
    seen = project(torch.from_numpy(joints), camera.double(), torch.tensor(half_angle, dtype=torch.float64))
    # The numbers are of size 1, in double precision; the camera was rounded to single.
    np.testing.assert_allclose(seen.numpy(), expected, rtol=0, atol=1e-6)


def test_without_a_known_angle_projection_is_weak_perspective() -> None:
    points, camera = torch.rand(4, 21, 3) - 0.5, torch.tensor([5.0, 0.1, -0.2])
    seen = project(points, camera.expand(4, 3), torch.zeros(4))
    assert torch.equal(seen, 5 * points[..., :2] + torch.tensor([0.1, -0.2]))


def test_points_behind_the_camera_stay_finite() -> None:
    # The root is 1 / (0.5 x 10) = 0.2 m away; the points reach 0.3 m towards the camera and beyond.
    points = torch.tensor([[0.1, 0.0, -0.2], [0.1, 0.0, -0.3], [0.1, 0.0, 0.0]], requires_grad=True)
    seen = project(points, torch.tensor([10.0, 0.0, 0.0]), torch.tensor(0.5))
    torch.testing.assert_close(seen[:, 0], torch.tensor([10.0, 10.0, 1.0]))  # at a tenth of the root's distance
    seen.sum().backward()
    assert points.grad is not None
    assert points.grad.isfinite().all()
