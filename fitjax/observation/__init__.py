"""What was seen in a photo: landmarks, camera and, for photometric losses, the pixels."""

from fitjax.observation.observation import (
    LandmarkObservation,
    Observation,
    make_observation,
    neutral_observation,
    stack_observations,
)

__all__ = ["LandmarkObservation", "Observation", "make_observation", "neutral_observation", "stack_observations"]
