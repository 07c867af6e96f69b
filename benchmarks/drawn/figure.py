"""The skeleton of a drawn figure: proportions and joint angles in three dimensions, seen in parallel.

The picture's axes are x to the right, y down and z toward the viewer, all in pixels. A figure has its own
axes: up, forward and left. A figure that faces the viewer has its left at the picture's right, so left and
right follow from the view: a face is seen from the front, hair from the back.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

JOINT_NAMES = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)  # COCO's order

POSES = ("stand", "walk", "raise", "sit", "leap", "akimbo")
_POSE_CHANCES = (0.26, 0.2, 0.2, 0.12, 0.12, 0.1)

# where the face is on a head of radius 1, as (left, up, forward)
_FACE = ((0.0, -0.12, 1.0), (0.4, 0.14, 0.88), (-0.4, 0.14, 0.88), (0.99, -0.02, 0.0), (-0.99, -0.02, 0.0))
_SIDES = (1.0, -1.0)  # left, right


@dataclass(frozen=True)
class Build:
    """Lengths and half-widths of a body in pixels."""

    head: float
    neck: float
    torso: float
    shoulders: float
    hips: float
    upper_arm: float
    forearm: float
    thigh: float
    shank: float
    foot: float
    arm_radius: float
    leg_radius: float


@dataclass(frozen=True)
class Axes:
    """Unit vectors of a part of the body in the picture's axes."""

    left: Vector
    up: Vector
    forward: Vector


@dataclass(frozen=True)
class Figure:
    """A posed skeleton whose pelvis is the origin.

    joints: (17, 3) float64, pixels, COCO's order.
    neck, pelvis, head_centre: (3,); hands, toes: (2, 3), left then right.
    body, head: axes of the trunk and of the head.
    pose: one of POSES.
    """

    joints: Vector
    neck: Vector
    pelvis: Vector
    head_centre: Vector
    hands: Vector
    toes: Vector
    body: Axes
    head: Axes
    build: Build
    pose: str


def sample_build(rng: np.random.Generator, height: float) -> Build:
    """Proportions of a body that stands about ``height`` pixels tall."""

    def length(mean: float, spread: float = 0.1) -> float:
        return height * mean * rng.uniform(1 - spread, 1 + spread)

    stout = rng.uniform(0.85, 1.3)
    return Build(
        head=length(0.088),
        neck=length(0.035),
        torso=length(0.28),
        shoulders=length(0.125) * (0.75 + 0.25 * stout),
        hips=length(0.078) * (0.7 + 0.3 * stout),
        upper_arm=length(0.16),
        forearm=length(0.145),
        thigh=length(0.215),
        shank=length(0.205),
        foot=length(0.075),
        arm_radius=length(0.031) * stout,
        leg_radius=length(0.044) * stout,
    )


def sample_view(rng: np.random.Generator) -> float:
    """How far a figure is turned, in radians: 0 faces the viewer, positive the picture's right."""
    kind = rng.choice(3, p=(0.5, 0.26, 0.24))
    if kind == 0:
        return float(np.radians(rng.uniform(-42, 42)))
    if kind == 1:
        return float(np.radians(180 + rng.uniform(-38, 38)))
    return float(np.radians(rng.choice((-1, 1)) * rng.uniform(50, 110)))


def sample_figure(rng: np.random.Generator, height: float) -> Figure:
    """A figure of random build, view and pose; ``height`` is what it would measure standing, in pixels."""
    build = sample_build(rng, height)
    view = sample_view(rng)
    pose = POSES[int(rng.choice(len(POSES), p=_POSE_CHANCES))]
    hips = _axes(view, pitch=0.0, roll=0.0)
    lean = rng.uniform(-4, 12) if pose != "leap" else rng.uniform(-10, 20)
    twist = np.radians(rng.uniform(-15, 15))
    body = _axes(view + twist, np.radians(lean), np.radians(rng.normal(0, 4)))
    head = _axes(
        view + twist + np.radians(rng.uniform(-28, 28)),
        np.radians(lean + rng.uniform(-12, 14)),
        np.radians(rng.normal(0, 8)),
    )

    pelvis = np.zeros(3)
    neck = pelvis + body.up * build.torso
    head_centre = neck + (body.up + head.up) / 2 * (build.neck + build.head * 0.95)
    joints = np.zeros((17, 3))
    face = np.array(_FACE) @ np.stack([head.left, head.up, head.forward])
    joints[:5] = head_centre + build.head * face
    hands, toes = np.zeros((2, 3)), np.zeros((2, 3))
    for index, side in enumerate(_SIDES):
        shoulder = neck - body.up * build.torso * 0.06 + body.left * side * build.shoulders
        elbow, wrist, hand = _arm(rng, build, body, side, shoulder, pose)
        hip = pelvis + hips.left * side * build.hips
        knee, ankle, toe = _leg(rng, build, hips, side, hip, pose)
        joints[5 + index], joints[7 + index], joints[9 + index] = shoulder, elbow, wrist
        joints[11 + index], joints[13 + index], joints[15 + index] = hip, knee, ankle
        hands[index], toes[index] = hand, toe
    return Figure(joints, neck, pelvis, head_centre, hands, toes, body, head, build, pose)


def _axes(turn: float, pitch: float, roll: float) -> Axes:
    """Axes of a part turned about the vertical, then bent forward by ``pitch`` and left by ``roll``."""
    level = np.array([np.sin(turn), 0.0, np.cos(turn)])
    left = np.array([np.cos(turn), 0.0, -np.sin(turn)])
    upright = np.array([0.0, -1.0, 0.0])
    up = _unit(upright * np.cos(pitch) + level * np.sin(pitch) + left * np.sin(roll))
    left = _unit(left - up * (left @ up))
    forward = level - up * (level @ up)
    return Axes(left, up, _unit(forward - left * (forward @ left)))


def _unit(vector: Vector) -> Vector:
    return vector / max(float(np.sqrt(vector @ vector)), 1e-9)


def _across(vector: Vector, direction: Vector) -> Vector:
    """The unit vector nearest to ``vector`` that is at a right angle to ``direction``."""
    return _unit(vector - direction * (vector @ direction))


def _arm(
    rng: np.random.Generator, build: Build, body: Axes, side: float, shoulder: Vector, pose: str
) -> tuple[Vector, Vector, Vector]:
    """Elbow, wrist and middle of the hand.

    ``raised`` is the upper arm's angle from hanging down, ``ahead`` its angle forward from sideways.
    """
    outward = body.left * side
    kind = pose
    if pose in ("stand", "sit", "walk") and rng.random() < 0.3:
        kind = "raise"
    if kind == "raise" and rng.random() < 0.2:
        kind = "stand"
    if kind == "raise":
        raised, ahead, bend = rng.uniform(60, 165), rng.uniform(-10, 50), rng.uniform(0, 100)
        inward = rng.uniform(-0.3, 0.6)
    elif kind == "akimbo":
        raised, ahead, bend = rng.uniform(35, 60), rng.uniform(-25, 10), rng.uniform(75, 110)
        inward = 1.6
    elif kind == "walk":
        raised, ahead, bend = rng.uniform(10, 50), rng.choice((-75, 75)), rng.uniform(10, 70)
        inward = 0.2
    elif kind == "leap":
        raised, ahead, bend = rng.uniform(50, 140), rng.uniform(-30, 60), rng.uniform(0, 70)
        inward = rng.uniform(-0.3, 0.5)
    else:
        raised, ahead, bend = rng.uniform(8, 45), rng.uniform(-20, 60), rng.uniform(5, 80)
        inward = rng.uniform(-0.2, 0.8)
    tilt, swing, flex = np.radians((raised, ahead, bend))
    upper = _unit(
        -body.up * np.cos(tilt) + (outward * np.cos(swing) + body.forward * np.sin(swing)) * np.sin(tilt)
    )
    # akimbo forearms come back to the waist; others fold up and forward
    fold = body.forward * 0.8 + body.up * 0.7 if kind != "akimbo" else body.forward * 0.15
    across = _across(fold - outward * inward, upper)
    lower = upper * np.cos(flex) + across * np.sin(flex)
    elbow = shoulder + upper * build.upper_arm
    wrist = elbow + lower * build.forearm
    return elbow, wrist, wrist + lower * build.arm_radius * 1.5


def _leg(
    rng: np.random.Generator, build: Build, hips: Axes, side: float, hip: Vector, pose: str
) -> tuple[Vector, Vector, Vector]:
    """Knee, ankle and tip of the foot. ``ahead`` is the hip's flexion, ``apart`` its abduction."""
    outward = hips.left * side
    if pose == "sit":
        ahead, apart, bend = rng.uniform(62, 92), rng.uniform(0, 22), rng.uniform(60, 100)
    elif pose == "walk":
        ahead = rng.uniform(8, 40) if (side > 0) == (rng.random() < 0.5) else rng.uniform(-28, 5)
        apart, bend = rng.uniform(0, 10), rng.uniform(0, 45)
    elif pose == "leap":
        ahead, apart, bend = rng.uniform(-15, 70), rng.uniform(8, 45), rng.uniform(10, 100)
    else:
        ahead, apart, bend = rng.uniform(-6, 14), rng.uniform(1, 18), rng.uniform(0, 18)
    flexion, abduction, flex = np.radians((ahead, apart, bend))
    upper = -hips.up * np.cos(flexion) + hips.forward * np.sin(flexion)
    upper = _unit(upper * np.cos(abduction) + outward * np.sin(abduction))
    across = _across(hips.forward * np.cos(flexion) + hips.up * np.sin(flexion), upper)
    lower = upper * np.cos(flex) - across * np.sin(flex)
    knee = hip + upper * build.thigh
    ankle = knee + lower * build.shank
    toe = ankle + _unit(_across(hips.forward + outward * 0.3, lower) + lower * 0.45) * build.foot
    return knee, ankle, toe
