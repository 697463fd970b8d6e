"""How learning rates go: as shares of their peak, by the step and by how much of the run is done."""

import math
from collections.abc import Callable

from .recipes import DiscriminatorSettings, Optimisation

Schedule = Callable[[int, float], float]  # (steps done, share of the run that is done) -> share of the peak
WARM_UP_STEPS = 100
FINAL_RATE = 0.02  # of the peak


def rate_scale(step: int, share: float) -> float:
    """Linear over the first 100 steps, then half a cosine down to 2 % at the run's end."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * share)) / 2)


def unet_schedule(settings: Optimisation) -> Schedule:
    """Up over warm_up_steps from 0, then as `schedule` says to 0 at decay_steps (diffusers' get_scheduler)."""

    def scale(step: int, share: float) -> float:
        if step < settings.warm_up_steps:
            return step / settings.warm_up_steps
        if settings.schedule == "constant":
            return 1.0
        done = (step - settings.warm_up_steps) / max(1, settings.decay_steps - settings.warm_up_steps)
        if settings.schedule == "linear":
            return max(0.0, 1 - done)
        return (1 + math.cos(math.pi * min(done, 1.0))) / 2

    return scale


def discriminator_schedule(settings: DiscriminatorSettings) -> Schedule:
    """Half a cosine from learning_rate to final_rate within decay_steps (Loshchilov and Hutter 2017), then level."""
    floor = settings.final_rate / settings.learning_rate

    def scale(step: int, share: float) -> float:
        done = min(1.0, step / settings.decay_steps)
        return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2

    return scale
