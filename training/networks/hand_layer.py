"""The hand model as a network layer: the torch twin of `hamuco.engine.skinning.forward`, on rotation matrices."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hamuco.engine.hand_model import JOINTS, HandModel
from hamuco.engine.skinning import pose_rotations


class HandLayer(nn.Module):
    """Poses a hand model. Equal to the numpy reference but for the precision, single unless moved to another one.

    Attributes:
        pose_mean: (45,) axis-angle of the 15 finger joints in the model's mean pose, rad.
        mean_rotations: (16, 3, 3) the mean pose as `forward` takes it; the first is the identity.
    """

    pose_mean: Tensor
    mean_rotations: Tensor
    v_template: Tensor  # (3 N,) all of one axis together: the sums over axes then run along memory
    shapedirs: Tensor  # (10, 3 N)
    posedirs: Tensor | None  # (135, 3 N)
    joint_template: Tensor  # (16, 3)
    joint_shapedirs: Tensor  # (10, 48)
    weights: Tensor  # (16, N)
    landmark_regressor: Tensor  # (N, 21)

    def __init__(self, model: HandModel) -> None:
        super().__init__()

        def constant(name: str, value: NDArray[np.float64]) -> None:
            # Not in checkpoints: the hand model has its own file, and MANO's may not be handed on.
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32).contiguous(), persistent=False)

        count = len(model.v_template)
        constant("pose_mean", model.pose_mean)
        constant("mean_rotations", pose_rotations(model, np.zeros(3), np.zeros(45)))
        constant("v_template", model.v_template.T.ravel())
        constant("shapedirs", model.shapedirs.transpose(2, 1, 0).reshape(-1, 3 * count))
        self.register_buffer("posedirs", None)
        if model.posedirs is not None:
            constant("posedirs", model.posedirs.transpose(2, 1, 0).reshape(-1, 3 * count))
        constant("joint_template", model.J_regressor @ model.v_template)
        directions = np.einsum("jv,vcs->sjc", model.J_regressor, model.shapedirs)
        constant("joint_shapedirs", directions.reshape(-1, 3 * JOINTS))
        constant("weights", model.weights.T)
        constant("landmark_regressor", model.landmark_regressor.T)
        self._levels = _levels(model.parents)

    def forward(self, rotations: Tensor, betas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pose hands; leading dimensions (...) are the same in both.

        Args:
            rotations: (..., 16, 3, 3) of the bones in their parents' frames, MANO order, the mean pose in them.
            betas: (..., 10) shape.

        Returns:
            vertices (..., N, 3), skeleton joints (..., 16, 3) in MANO order and landmarks (..., 21, 3), m, in the frame
            that the first rotation leads to, which puts the wrist joint where the model's rest pose has it.
        """
        if torch.is_autocast_enabled(rotations.device.type):
            # Half precision would leave millimetres. Entered only then, so that exported graphs do not contain it.
            with torch.autocast(rotations.device.type, enabled=False):
                return self.forward(rotations, betas)
        rotations, betas = rotations.to(self.v_template.dtype), betas.to(self.v_template.dtype)
        leading = rotations.shape[:-3]
        rest = self.joint_template + (betas @ self.joint_shapedirs).unflatten(-1, (JOINTS, 3))
        turns, moves, joints = self._bone_transforms(rotations, rest)

        shaped = self.v_template + betas @ self.shapedirs
        if self.posedirs is not None:
            identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
            shaped = shaped + (rotations[..., 1:, :, :] - identity).flatten(-3) @ self.posedirs
        shaped = shaped.reshape(*leading, 1, 3, -1)
        transforms = torch.cat([turns, moves[..., None]], dim=-1)  # (..., 16, 3, 4)
        blended = transforms.flatten(-2).transpose(-1, -2) @ self.weights  # (..., 12, N)
        blended = blended.reshape(*leading, 3, 4, -1)
        vertices = (blended[..., :3, :] * shaped).sum(dim=-2) + blended[..., 3, :]  # (..., 3, N)
        landmarks = vertices @ self.landmark_regressor
        return vertices.transpose(-1, -2), joints, landmarks.transpose(-1, -2)

    def _bone_transforms(self, rotations: Tensor, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Forward kinematics: turns (..., 16, 3, 3), moves (..., 16, 3) out of the rest pose, joints (..., 16, 3)."""
        turn: list[Tensor] = list(rotations.unbind(-3))
        joint: list[Tensor] = list(rest.unbind(-2))
        for bones, parents in self._levels:
            # All fingers at once: one product for each joint along a finger.
            above = torch.stack([turn[parent] for parent in parents], dim=-3)
            offset = rest[..., bones, :] - rest[..., parents, :]
            turned = above @ rotations[..., bones, :, :]
            moved = (above @ offset[..., None])[..., 0]
            for index, (bone, parent) in enumerate(zip(bones, parents, strict=True)):
                turn[bone] = turned[..., index, :, :]
                joint[bone] = joint[parent] + moved[..., index, :]
        turns, joints = torch.stack(turn, dim=-3), torch.stack(joint, dim=-2)
        return turns, joints - (turns @ rest[..., None])[..., 0], joints


def _levels(parents: NDArray[np.int64]) -> list[tuple[list[int], list[int]]]:
    """Bones and their parents, in groups of equal distance from the wrist."""
    depth = [0]
    for parent in parents[1:].tolist():
        depth.append(depth[parent] + 1)
    groups = [[bone for bone in range(JOINTS) if depth[bone] == level] for level in range(1, max(depth) + 1)]
    return [(bones, [int(parents[bone]) for bone in bones]) for bones in groups]
