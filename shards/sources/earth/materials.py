"""What surfaces are made of: reflectance in 13 Sentinel-2 bands and radar backscatter.

Reflectances are hemispherical, of an infinitely thick layer, rounded from what spectral libraries
show for each kind of surface; backscatter is gamma nought at C band around 38 degrees.
"""

from enum import IntEnum, auto

import numpy as np


class Material(IntEnum):
    """Row of the material tables."""

    CLEAR = 0
    TURBID = auto()
    CONIFER = auto()
    BROADLEAF = auto()
    LITTER = auto()
    SHADE = auto()
    WETLAND = auto()
    CROP = auto()
    STUBBLE = auto()
    DARK_SOIL = auto()
    RED_SOIL = auto()
    SAND = auto()
    ROCK = auto()
    ROOF = auto()
    ASPHALT = auto()
    SNOW = auto()
    ICE = auto()
    GRASS = auto()
    DRY_GRASS = auto()


MATERIALS = tuple(Material)

# per mille, B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12
_REFLECTANCE = {
    Material.CLEAR: (45, 45, 40, 25, 18, 14, 13, 12, 11, 10, 8, 6, 4),
    Material.TURBID: (75, 85, 115, 110, 85, 50, 50, 42, 38, 32, 20, 12, 8),
    Material.CONIFER: (18, 22, 36, 26, 58, 150, 185, 200, 215, 215, 150, 95, 45),
    Material.BROADLEAF: (22, 27, 55, 30, 85, 260, 340, 365, 385, 385, 250, 175, 75),
    Material.LITTER: (50, 60, 75, 95, 115, 140, 160, 175, 195, 200, 220, 230, 150),
    Material.SHADE: (12, 13, 16, 13, 22, 55, 70, 75, 80, 80, 60, 35, 18),
    Material.WETLAND: (28, 35, 60, 48, 85, 185, 225, 240, 250, 250, 180, 120, 60),
    Material.CROP: (25, 30, 68, 35, 100, 330, 430, 460, 480, 470, 300, 190, 85),
    Material.STUBBLE: (70, 90, 135, 180, 215, 250, 275, 295, 315, 320, 340, 360, 250),
    Material.DARK_SOIL: (45, 55, 75, 95, 110, 125, 140, 155, 170, 175, 200, 220, 180),
    Material.RED_SOIL: (60, 70, 110, 190, 220, 240, 255, 270, 285, 290, 320, 350, 290),
    Material.SAND: (140, 170, 250, 340, 380, 400, 420, 440, 455, 460, 500, 550, 500),
    Material.ROCK: (100, 115, 140, 160, 175, 180, 190, 200, 205, 205, 230, 250, 220),
    Material.ROOF: (170, 200, 235, 280, 290, 300, 310, 320, 325, 325, 330, 350, 320),
    Material.ASPHALT: (75, 80, 90, 95, 100, 105, 110, 115, 120, 120, 130, 140, 130),
    Material.SNOW: (860, 880, 900, 900, 900, 890, 870, 860, 820, 760, 300, 100, 70),
    Material.ICE: (600, 630, 620, 580, 550, 500, 460, 420, 380, 340, 100, 40, 30),
    Material.GRASS: (28, 34, 70, 45, 105, 260, 320, 340, 360, 355, 260, 220, 110),
    Material.DRY_GRASS: (60, 75, 115, 145, 175, 215, 235, 255, 280, 285, 300, 350, 230),
}

# dB, VV VH
_BACKSCATTER = {
    Material.CLEAR: (-20, -29),
    Material.TURBID: (-19, -28),
    Material.CONIFER: (-9, -14.5),
    Material.BROADLEAF: (-8, -13.5),
    Material.LITTER: (-9.5, -15.5),
    Material.SHADE: (-8.5, -14),
    Material.WETLAND: (-5, -13.5),
    Material.CROP: (-10, -16.5),
    Material.STUBBLE: (-12, -20),
    Material.DARK_SOIL: (-12, -22.5),
    Material.RED_SOIL: (-14, -23.5),
    Material.SAND: (-18, -27),
    Material.ROCK: (-10.5, -18.5),
    Material.ROOF: (0, -8),
    Material.ASPHALT: (-8, -17),
    Material.SNOW: (-15.5, -22.5),
    Material.ICE: (-12, -19),
    Material.GRASS: (-11.5, -19),
    Material.DRY_GRASS: (-13.5, -21.5),
}

REFLECTANCE = np.array([_REFLECTANCE[m] for m in MATERIALS], np.float32) / 1000
BACKSCATTER = 10 ** (np.array([_BACKSCATTER[m] for m in MATERIALS], np.float32) / 10)
