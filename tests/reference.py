"""The truth: float64 NumPy loops that can be checked by eye."""

import numpy as np


def linear_recurrence(a, b, initial_state, reverse=False):
    h = np.array(initial_state, "float64")
    states = np.zeros(b.shape)
    steps = range(b.shape[1])
    for t in reversed(steps) if reverse else steps:
        h = a[:, t] * h + b[:, t]
        states[:, t] = h
    return states, h


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def min_gru(x, kernel, bias, initial_state, mask=None, activation=None):
    """All states; a masked step keeps the state."""
    units = kernel.shape[1] // 2
    h = np.array(initial_state, "float64")
    states = []
    for t in range(x.shape[1]):
        projection = x[:, t].astype("float64") @ kernel + bias
        z = sigmoid(projection[:, :units])
        c = projection[:, units:]
        c = c if activation is None else activation(c)
        new = h + z * (c - h)
        if mask is not None:
            new = np.where(mask[:, t, None], new, h)
        h = new
        states.append(h)
    return np.stack(states, axis=1)


def read(x, t, delay, max_delay):
    """`x[t - delay]` of one channel, between steps; zero before the start."""

    def at(step):
        return x[:, step] if step >= 0 else np.zeros(len(x))

    delay = min(max(delay, 0), max_delay)
    i = int(np.clip(np.floor(delay), 0, max_delay - 1))
    f = delay - i
    return (1 - f) * at(t - i) + f * at(t - i - 1)


def delay_conv1d(x, kernel, delays, bias, max_delay):
    """Linear taps; whole delays are the same with f of 0 or 1."""
    x = x.astype("float64")
    y = np.zeros(x.shape)
    for t in range(x.shape[1]):
        for k in range(kernel.shape[0]):
            for c in range(x.shape[2]):
                tap = read(x[:, :, c], t, delays[k, c], max_delay)
                y[:, t, c] += kernel[k, c] * tap
    return y + bias


def gaussian_conv1d(x, kernel, delays, width, bias, max_delay, normalize=False):
    x = x.astype("float64")
    y = np.zeros(x.shape)
    n = np.arange(max_delay + 1)
    for k in range(kernel.shape[0]):
        for c in range(x.shape[2]):
            bell = np.exp(-0.5 * ((n - delays[k, c]) / width[k, c]) ** 2)
            bell = bell / bell.sum() if normalize else bell
            for t in range(x.shape[1]):
                for step in range(min(t, max_delay) + 1):
                    y[:, t, c] += kernel[k, c] * bell[step] * x[:, t - step, c]
    return y + bias


def layer_norm(x, gamma, beta, epsilon):
    mean = x.mean(-1, keepdims=True)
    power = ((x - mean) ** 2).mean(-1, keepdims=True)
    return gamma * (x - mean) / np.sqrt(power + epsilon) + beta
