"""Random numbers that are the same on every machine, from a counter-based generator.

Only numpy's raw Philox words are used, which numpy keeps stable. All else uses +, -, *, /, square
root, ``frexp`` and ``ldexp``. IEEE 754 and C define these to the last bit. The logarithms and
exponentials of C libraries differ in it. See ``FORMAT.md``, "Random numbers".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

KEY = 0x0074696E79766974
#: The second half of the key when the words are pixels (noise) and not parameters.
NOISE_KEY = 0x006E6F6973650000
_CHUNK = 16
_LN2_HIGH, _LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
_INVERSE_LN2 = 1.4426950408889634
_SQRT_HALF = 0.7071067811865476
_PHILOX = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_PHILOX_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


def raw_words(key: tuple[int, int], counter: tuple[int, int, int], count: int) -> np.ndarray:
    """Return the first words of a Philox4x64-10 stream, ``(count,)`` u64.

    Args:
        key: Two 64-bit words.
        counter: The upper three of the four counter words; the lowest counts from 1.
        count: Number of words.
    """
    return np.random.Philox(
        key=np.array(key, dtype=np.uint64), counter=np.array([0, *counter], dtype=np.uint64)
    ).random_raw(count)


def uniforms(seed: int, image: int, view: int, stream: int, count: int) -> np.ndarray:
    """Return uniform numbers in [0, 1), a pure function of the arguments, ``(count,)`` f64."""
    words = raw_words((seed, KEY), (image, view, stream), count)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def philox_blocks(key: tuple[int, int], counters: Sequence[int | np.ndarray]) -> np.ndarray:
    """Return blocks of many Philox4x64-10 streams (Salmon et al., 2011, section 3.3).

    Args:
        key: Two 64-bit words.
        counters: The four counter words, the lowest first, each a number or ``(B,)``.

    Returns:
        ``(4, B)`` u64: the four words of each block.
    """
    words = [np.asarray(word).astype(np.uint64) for word in np.broadcast_arrays(*counters)]
    keys = list(key)
    for _ in range(10):
        high = [_high_word(words[0], _PHILOX[0]), _high_word(words[2], _PHILOX[1])]
        low = [words[0] * np.uint64(_PHILOX[0]), words[2] * np.uint64(_PHILOX[1])]
        words = [high[1] ^ words[1] ^ np.uint64(keys[0]), low[1], high[0] ^ words[3] ^ np.uint64(keys[1]), low[0]]
        keys = [(one + step) % 2**64 for one, step in zip(keys, _PHILOX_STEPS, strict=True)]
    return np.stack(words)


def _high_word(values: np.ndarray, factor: int) -> np.ndarray:
    """Return the upper 64 of the 128 bits of products."""
    half, mask = np.uint64(32), np.uint64(2**32 - 1)
    high, low = np.uint64(factor >> 32), np.uint64(factor & (2**32 - 1))
    upper, lower = values >> half, values & mask
    middle = upper * low + (lower * low >> half)
    cross = lower * high + (middle & mask)
    return upper * high + (middle >> half) + (cross >> half)


class Stream:
    """The words of one purpose for one view, addressed by position.

    Args:
        seed: The store's seed, 0 to 2**64 - 1.
        image: The image's ordinal.
        view: The view's number.
        purpose: The stream's number (``FORMAT.md``): adding a purpose never moves the words of
            another.
    """

    def __init__(self, seed: int, image: int, view: int, purpose: int) -> None:
        key = np.array([seed, KEY], dtype=np.uint64)
        counter = np.array([0, image, view, purpose], dtype=np.uint64)
        self._generator = np.random.Philox(key=key, counter=counter)
        self._words: list[int] = []

    def word(self, at: int) -> int:
        """Return word ``at``, 64 bits."""
        while at >= len(self._words):
            self._words.extend(self._generator.random_raw(_CHUNK).tolist())
        return self._words[at]

    def uniform(self, at: int) -> float:
        """Return word ``at`` as a uniform number in [0, 1)."""
        return (self.word(at) >> 11) * 2.0**-53

    def open_uniform(self, at: int) -> float:
        """Return word ``at`` as a uniform number in (0, 1), half a step above :meth:`uniform`."""
        return ((self.word(at) >> 12) + 0.5) * 2.0**-52

    def below(self, at: int, count: int) -> int:
        """Return word ``at`` as a whole number from 0 to ``count - 1``."""
        return self.word(at) * count >> 64

    def normal(self, at: int) -> float:
        """Return word ``at`` as a standard normal number."""
        return normal_quantile(self.open_uniform(at))

    def beta(self, at: int, alpha: float) -> float:
        """Return a number of Beta(alpha, alpha), from words ``at``, ``at + 1``, ... as needed.

        An attempt takes two words. Up to ``alpha`` 1 it is Joehnk's method, else Devroye's for
        symmetric distributions (Non-Uniform Random Variate Generation, 1986, IX.3.5 and IX.4).
        """
        while True:
            u, v = self.open_uniform(at), self.open_uniform(at + 1)
            at += 2
            if alpha <= 1:
                x, y = power(u, 1 / alpha), power(v, 1 / alpha)
                if 0 < x + y <= 1:
                    return x / (x + y)
                continue
            v = 2 * v - 1
            square = u * u + v * v
            if square <= 1:
                return 0.5 + u * v / square * math.sqrt(1 - power(square, 2 / (2 * alpha - 1)))


def logarithm(x: float) -> float:
    """Return the natural logarithm of a normal number above 0, the same bits everywhere.

    Its relative error is below 1e-15.
    """
    mantissa, exponent = math.frexp(x)
    if mantissa < _SQRT_HALF:
        mantissa, exponent = 2 * mantissa, exponent - 1
    f = (mantissa - 1) / (mantissa + 1)
    square = f * f
    series = 1 / 23
    for denominator in range(21, 0, -2):
        series = series * square + 1 / denominator
    return exponent * _LN2_HIGH + (2 * f * series + exponent * _LN2_LOW)


def exponential(x: float) -> float:
    """Return e to the power of x for -700 < x < 700, the same bits everywhere.

    Its relative error is below 1e-15.
    """
    doublings = math.floor(x * _INVERSE_LN2 + 0.5)
    rest = (x - doublings * _LN2_HIGH) - doublings * _LN2_LOW
    series = 1.0
    for divisor in range(14, 0, -1):
        series = series * rest / divisor + 1.0
    return math.ldexp(series, doublings)


def exponentials(x: np.ndarray) -> np.ndarray:
    """Return :func:`exponential` of many numbers, the same bits."""
    doublings = np.floor(x * _INVERSE_LN2 + 0.5)
    rest = (x - doublings * _LN2_HIGH) - doublings * _LN2_LOW
    series = np.ones_like(rest)
    for divisor in range(14, 0, -1):
        series = series * rest / divisor + 1.0
    return np.ldexp(series, doublings.astype(np.int32))


def power(x: float, exponent: float) -> float:
    """Return ``x ** exponent`` for 0 < x <= 1; results below e**-700 become 0."""
    logged = exponent * logarithm(x)
    return exponential(logged) if logged > -700 else 0.0


# Wichura's algorithm AS 241, PPND16 (Applied Statistics 37, 1988): coefficients of the numerators
# and denominators, highest power first.
_CENTRE = (
    (
        2.5090809287301226727e3,
        3.3430575583588128105e4,
        6.7265770927008700853e4,
        4.5921953931549871457e4,
        1.3731693765509461125e4,
        1.9715909503065514427e3,
        1.3314166789178437745e2,
        3.3871328727963666080e0,
    ),
    (
        5.2264952788528545610e3,
        2.8729085735721942674e4,
        3.9307895800092710610e4,
        2.1213794301586595867e4,
        5.3941960214247511077e3,
        6.8718700749205790830e2,
        4.2313330701600911252e1,
        1.0,
    ),
)
_TAIL = (
    (
        7.74545014278341407640e-4,
        2.27238449892691845833e-2,
        2.41780725177450611770e-1,
        1.27045825245236838258e0,
        3.64784832476320460504e0,
        5.76949722146069140550e0,
        4.63033784615654529590e0,
        1.42343711074968357734e0,
    ),
    (
        1.05075007164441684324e-9,
        5.47593808499534494600e-4,
        1.51986665636164571966e-2,
        1.48103976427480074590e-1,
        6.89767334985100004550e-1,
        1.67638483018380384940e0,
        2.05319162663775882187e0,
        1.0,
    ),
)
_FAR_TAIL = (
    (
        2.01033439929228813265e-7,
        2.71155556874348757815e-5,
        1.24266094738807843860e-3,
        2.65321895265761230930e-2,
        2.96560571828504891230e-1,
        1.78482653991729133580e0,
        5.46378491116411436990e0,
        6.65790464350110377720e0,
    ),
    (
        2.04426310338993978564e-15,
        1.42151175831644588870e-7,
        1.84631831751005468180e-5,
        7.86869131145613259100e-4,
        1.48753612908506148525e-2,
        1.36929880922735805310e-1,
        5.99832206555887937690e-1,
        1.0,
    ),
)


def _polynomial(coefficients: Sequence[float], x: float) -> float:
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


def normal_quantile(p: float) -> float:
    """Return the standard normal quantile of ``p``, 0 < p < 1."""
    q = p - 0.5
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        return q * _polynomial(_CENTRE[0], r) / _polynomial(_CENTRE[1], r)
    r = math.sqrt(-logarithm(p if q < 0 else 1 - p))
    table, r = (_TAIL, r - 1.6) if r <= 5 else (_FAR_TAIL, r - 5)
    value = _polynomial(table[0], r) / _polynomial(table[1], r)
    return -value if q < 0 else value
