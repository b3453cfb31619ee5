"""The words that captions use for each fact, in English and Chinese: one table, read by the writer and by the parser.

The first word of a tuple is the usual one, the others are synonyms. Directions and places share the words left and
right, so they are kept apart by the phrases around them (`moving left`, `on the left`).
"""

from typing import Literal

Language = Literal["en", "zh"]
Words = dict[str, tuple[str, ...]]

LANGUAGES: tuple[Language, ...] = ("en", "zh")

# What the captions are written with: field -> value -> words.
VOCABULARY: dict[Language, dict[str, Words]] = {
    "en": {
        "shape": {
            "circle": ("circle", "disc", "ball"),
            "square": ("square", "box"),
            "triangle": ("triangle",),
            "star": ("star", "five-pointed star"),
            "ring": ("ring", "hoop"),
            "cross": ("cross", "plus sign"),
            "heart": ("heart",),
            "hexagon": ("hexagon",),
            "crescent": ("crescent",),
            "arrow": ("arrow",),
            "diamond": ("diamond",),
            "drop": ("drop",),
        },
        "colour": {
            "red": ("red",),
            "orange": ("orange",),
            "yellow": ("yellow",),
            "green": ("green",),
            "cyan": ("cyan",),
            "blue": ("blue",),
            "purple": ("purple", "violet"),
            "magenta": ("magenta",),
            "white": ("white",),
            "lime": ("lime", "lime green"),
        },
        "size": {"small": ("small", "little"), "medium": ("medium", "medium-sized"), "large": ("large", "big")},
        "background": {"black": ("black",), "grey": ("grey", "gray"), "navy": ("navy",), "brown": ("brown",)},
        "tempo": {
            "slow": ("slowly", "at a slow pace"),
            "steady": ("steadily", "at a steady pace"),
            "fast": ("quickly", "fast", "at a fast pace"),
        },
        "place": {
            "left": ("on the left", "on the left side"),
            "middle": ("in the middle", "in the centre"),
            "right": ("on the right", "on the right side"),
        },
        "direction": {
            "left": ("left", "to the left", "leftwards"),
            "right": ("right", "to the right", "rightwards"),
            "up": ("up", "upwards"),
            "down": ("down", "downwards"),
        },
        "material": {
            "drum": ("a low drum", "a deep drum", "a drum beat"),
            "wood": ("a wooden knock", "a knock on wood"),
            "metal": ("a metal ring", "a metallic clang"),
            "glass": ("a glass chime", "a glassy ting"),
            "rubber": ("a rubber thud", "a dull rubber thump"),
        },
    },
    "zh": {
        "shape": {
            "circle": ("圆形", "圆球"),
            "square": ("正方形", "方块"),
            "triangle": ("三角形",),
            "star": ("星星", "五角星"),
            "ring": ("圆环",),
            "cross": ("十字", "十字形"),
            "heart": ("爱心",),
            "hexagon": ("六边形",),
            "crescent": ("月牙",),
            "arrow": ("箭头",),
            "diamond": ("菱形",),
            "drop": ("水滴",),
        },
        "colour": {
            "red": ("红色",),
            "orange": ("橙色",),
            "yellow": ("黄色",),
            "green": ("绿色",),
            "cyan": ("青色",),
            "blue": ("蓝色",),
            "purple": ("紫色",),
            "magenta": ("品红色",),
            "white": ("白色",),
            "lime": ("黄绿色",),
        },
        "size": {"small": ("小",), "medium": ("中等大小的", "中号"), "large": ("大",)},
        "background": {"black": ("黑色",), "grey": ("灰色",), "navy": ("藏青色",), "brown": ("棕色", "褐色")},
        "tempo": {"slow": ("缓慢地", "慢慢地"), "steady": ("平稳地", "匀速地"), "fast": ("快速地", "急促地")},
        "place": {"left": ("在左侧", "在左边"), "middle": ("在中间", "在中央"), "right": ("在右侧", "在右边")},
        "direction": {
            "left": ("向左", "往左"),
            "right": ("向右", "往右"),
            "up": ("向上", "往上"),
            "down": ("向下", "往下"),
        },
        "material": {
            "drum": ("低沉的鼓声", "鼓声"),
            "wood": ("木头敲击声", "木块声"),
            "metal": ("金属声", "金属敲击声"),
            "glass": ("玻璃声", "清脆的玻璃声"),
            "rubber": ("橡胶声", "沉闷的橡胶声"),
        },
    },
}

# What people may also write and the parser understands, beyond what the captions are written with.
ALIASES: dict[str, Words] = {
    "shape": {
        "circle": ("圆", "disk"),
        "square": ("block", "方形"),
        "star": ("星",),
        "ring": ("donut", "环"),
        "cross": ("plus",),
    },
    "colour": {
        "red": ("红",),
        "orange": ("橙",),
        "yellow": ("黄",),
        "green": ("绿",),
        "cyan": ("turquoise", "青"),
        "blue": ("蓝",),
        "purple": ("紫",),
        "magenta": ("pink", "fuchsia", "品红", "洋红", "洋红色", "粉色"),
        "white": ("白",),
        "lime": ("light green", "黄绿"),
    },
    "size": {"small": ("tiny", "小小的"), "medium": ("mid-sized", "中等"), "large": ("huge", "巨大的", "大号")},
    "background": {
        "black": ("黑",),
        "grey": ("灰",),
        "navy": ("navy blue", "dark blue", "深蓝色", "藏青"),
        "brown": ("棕", "褐"),
    },
    "tempo": {
        "slow": ("slow", "slower", "缓慢", "慢"),
        "steady": ("steady", "平稳", "匀速"),
        "fast": ("quick", "rapid", "rapidly", "快速", "急促", "快"),
    },
    "place": {
        "left": ("at the left", "左侧", "左边"),
        "middle": ("at the centre", "in the center", "中间", "中央"),
        "right": ("at the right", "右侧", "右边"),
    },
    "direction": {
        "left": ("leftward", "towards the left", "from right to left", "左移", "从右到左"),
        "right": ("rightward", "towards the right", "from left to right", "右移", "从左到右"),
        "up": ("upward", "rises", "rising", "上升"),
        "down": ("downward", "sinks", "sinking", "falls", "falling", "下降", "下沉"),
    },
    "material": {
        "drum": ("drum", "drums", "鼓"),
        "wood": ("wood", "wooden", "木"),
        "metal": ("metal", "metallic", "金属"),
        "glass": ("glass", "glassy", "玻璃"),
        "rubber": ("rubber", "rubbery", "橡胶"),
    },
    "bounce": {
        "bounce": ("bounce", "bounces", "bouncing", "bounced", "hop", "hops", "hopping", "弹跳", "跳动", "弹起")
    },
}


def phrase_table() -> dict[str, tuple[str, str]]:
    """Every phrase that the parser knows -> (field, value)."""
    table: dict[str, tuple[str, str]] = {}
    for fields in (*VOCABULARY.values(), ALIASES):
        for field, values in fields.items():
            for value, phrases in values.items():
                for phrase in phrases:
                    known = table.setdefault(phrase, (field, value))
                    assert known == (field, value), f"{phrase!r} means both {known} and {(field, value)}"
    return table
