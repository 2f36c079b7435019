"""HDR films (PQ and HLG, BT.2100) as other films show them: in BT.709, up to reference white.

Formulas: ITU-R BT.2100 (light of a signal; HLG's gamma of 1.2, channel by channel), BT.2390, 5.4.1 (highlights),
BT.2408 (reference white), BT.2087 (primaries), BT.1886 (light of other films).
"""

import numpy as np

PQ, HLG = 16, 18  # transfer curves, as files number them (ITU-T H.273)
PEAK, WHITE = 1000.0, 203.0  # cd/m²: what HDR films are made for; reference white, which becomes a film's white
TO_709 = np.float32([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
M1, M2, C1, C2, C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128  # of PQ


def to_sdr(rgb: np.ndarray, transfer: int) -> np.ndarray:
    """Uint16 (H, W, 3) in BT.2020 -> uint8 in BT.709; a transfer that is neither PQ nor HLG is that of other films."""
    signal = np.linspace(0, 1, 65536)
    if transfer == HLG:
        high = (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
        light = PEAK * np.where(signal <= 0.5, signal**2 / 3, high) ** 1.2
        signal = ((C1 + C2 * (light / 10000) ** M1) / (1 + C3 * (light / 10000) ** M1)) ** M2  # PQ's of that light
    light = _shown(signal) if transfer in (PQ, HLG) else signal**2.4
    light = np.clip(light.astype(np.float32)[rgb] @ TO_709.T, 0, 1)
    levels = np.rint(255 * np.linspace(0, 1, 65536) ** (1 / 2.4)).astype(np.uint8)
    return levels[np.rint(65535 * light).astype(np.uint16)]


def _shown(signal: np.ndarray) -> np.ndarray:
    """PQ's signal -> light, 1 at most: dark and middle tones as they are, what is brighter along a Hermite spline."""
    peak, white = 0.751827, 0.580689  # PQ's signals of PEAK and WHITE
    signal, most = np.minimum(signal / peak, 1), white / peak
    knee = 1.5 * most - 0.5
    t = np.maximum(signal - knee, 0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    power = (np.where(signal < knee, signal, spline) * peak) ** (1 / M2)
    return (np.maximum(power - C1, 0) / (C2 - C3 * power)) ** (1 / M1) * 10000 / WHITE
