"""How far does one get on HAPT without a sequence model?

Multinomial logistic regression on a few statistics of each window: a floor
that any network should clear, and that many badly trained ones do not.

    python examples/hapt_floor.py
"""

import numpy as np
import scipy.optimize
import scipy.special

import hapt


def features(windows):
    """Describes windows `(n, time, channels)` by `(n, features)` numbers.

    For each channel: mean, standard deviation, smallest and largest value,
    lag-one correlation, and the log energy in bands of its spectrum.
    """
    mean = windows.mean(axis=1)
    centred = windows - mean[:, None]
    deviation = centred.std(axis=1)
    lagged = (centred[:, 1:] * centred[:, :-1]).mean(axis=1)
    spectrum = np.abs(np.fft.rfft(centred, axis=1)) ** 2
    edges = [1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 29, 38, 50]
    bands = np.add.reduceat(spectrum, edges, axis=1)
    bands = np.log(bands + 1e-3).reshape(len(windows), -1)
    columns = [mean, deviation, windows.min(axis=1), windows.max(axis=1)]
    columns += [lagged / (deviation**2 + 1e-6), bands]
    return np.concatenate(columns, axis=1, dtype="float64")


def fit_logistic(x, y, classes, penalty):
    """Returns the weights `(features + 1, classes)` of the regression."""
    x = np.column_stack([x, np.ones(len(x))])
    target = np.eye(classes)[y]

    def loss(flat):
        weights = flat.reshape(x.shape[1], classes)
        log_p = scipy.special.log_softmax(x @ weights, axis=1)
        decayed = penalty * weights
        decayed[-1] = 0.0  # the bias
        value = -(target * log_p).sum() / len(x)
        value += 0.5 * (decayed * weights).sum()
        slope = x.T @ (np.exp(log_p) - target) / len(x) + decayed
        return value, slope.ravel()

    start = np.zeros(x.shape[1] * classes)
    found = scipy.optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}
    )
    return found.x.reshape(x.shape[1], classes)


def floor_accuracy(train, test, penalty=1e-3):
    """Trains on the windows of one split, returns the accuracy on the other.

    Args:
        train: `hapt.Recordings` to fit.
        test: `hapt.Recordings` to score.
        penalty: weight of the squared weights in the loss.

    Returns:
        Share of the test windows whose activity was found, 0 to 1.
    """
    x_train, y_train = train.windows()
    x_test, y_test = test.windows()
    x_train, x_test = features(x_train), features(x_test)
    mean, deviation = x_train.mean(axis=0), x_train.std(axis=0)
    weights = fit_logistic(
        (x_train - mean) / deviation,
        y_train,
        len(hapt.CLASS_NAMES),
        penalty,
    )
    scores = (x_test - mean) / deviation @ weights[:-1] + weights[-1]
    return float((scores.argmax(axis=1) == y_test).mean())


def main():
    accuracy = floor_accuracy(hapt.load("train"), hapt.load("test"))
    print(f"logistic regression on window statistics: {accuracy:.1%}")


if __name__ == "__main__":
    main()
