"""Which tap of a channel moves, and where to."""

import numpy as np

# Added to the diagonal of an autocorrelation, as a share of it, so that steps
# that nearly repeat each other do not divide noise by nothing.
RIDGE = 0.01


def weakest_taps(
    kernel: np.ndarray,
) -> np.ndarray:
    """The tap of each channel with the smallest weight, `(channels,)`.

    Taps of weight zero have left (pruning keeps them out) and stay where they
    are while a channel has others.
    """
    sizes = np.where(kernel == 0, np.inf, np.abs(kernel))
    return np.argmin(sizes, axis=0)


def place(
    kernel: np.ndarray,
    delays: np.ndarray,
    gradient: np.ndarray,
    autocorrelation: np.ndarray,
    price: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The delay where the weakest tap of each channel would help most.

    For uncorrelated inputs that is where the gradient of a dense kernel is
    largest. Where neighbouring steps resemble each other, part of a gradient
    is what the other taps would still take up, and a step that they explain
    offers little of its own. So the score is the gradient that is left once
    the others have adjusted, over the deviation of what is left of the input
    (orthogonal matching pursuit's, from the autocorrelation):
    `|g[n] - r R^-1 g[T]| / sqrt((R0 - r R^-1 r') / R0)`.

    With a price, it is the score times the channel's mean |weight| (what a
    tap of usual size would gain, to first order), less the price of the steps
    by which the channel's longest delay would grow.

    Args:
        kernel: `(taps, channels)`.
        delays: In steps, `(taps, channels)`.
        gradient: Of the loss with respect to a dense kernel, without the
            weakest taps, `(max_delay + 1, channels)`.
        autocorrelation: Of the channel's input at these delays, of the same
            shape.
        price: Loss a step of one channel's delay line. Defaults to `0.0`.

    Returns:
        `(best, moves, settled)`, all `(channels,)`: the best delay of the
        weakest tap, at least one step from every other; whether it is better
        than where the tap stands; and whether it is known not to be. Where
        the gradient is zero or not finite nothing is known, and nothing
        moves.
    """
    weakest = weakest_taps(kernel)
    best = np.zeros(len(weakest), int)
    moves, settled = np.zeros((2, len(weakest)), bool)
    steps = np.arange(len(gradient))
    for channel, tap in enumerate(weakest):
        column = gradient[:, channel]
        if not (np.isfinite(column).all() and column.any()):
            continue
        there = kernel[:, channel] != 0
        there[tap] = False
        others = delays[there, channel]
        near = np.abs(steps[:, None] - others) < 1
        score = _score(column, autocorrelation[:, channel], others)
        if price:
            added = np.maximum(steps - max(others, default=0), 0)
            score = score * np.mean(np.abs(kernel[:, channel])) - price * added
        score = np.where(near.any(axis=1) | ~np.isfinite(score), -np.inf, score)
        best[channel] = np.argmax(score)
        stands = delays[tap, channel]
        # More taps than whole positions leave none free.
        free = np.isfinite(score[best[channel]])
        moves[channel] = free and abs(best[channel] - stands) >= 0.5
        settled[channel] = not moves[channel]
    return best, moves, settled


def _score(gradient, autocorrelation, taps):
    power = autocorrelation[0]
    if not power > 0 or not len(taps):
        return np.abs(gradient)
    steps = np.arange(len(gradient))

    def between(a, b):
        lags = np.abs(a[:, None] - b)
        return np.interp(lags, steps, autocorrelation) / power

    among = between(taps, taps) + RIDGE * np.eye(len(taps))
    # Rows: how the taps would make up for a step.
    share = np.linalg.solve(among, between(taps, steps)).T
    left = gradient - share @ np.interp(taps, steps, gradient)
    own = 1 + RIDGE - np.sum(share * between(steps, taps), axis=1)
    return np.abs(left) / np.sqrt(np.maximum(own, RIDGE))
