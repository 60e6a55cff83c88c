"""Class lists of public data sets, for weights that carry none."""

from __future__ import annotations

from detrkit.structures import ClassMap

#: COCO's 80 classes: "category id:name" in index order.
_COCO = """
1:person 2:bicycle 3:car 4:motorcycle 5:airplane 6:bus 7:train 8:truck 9:boat 10:traffic_light
11:fire_hydrant 13:stop_sign 14:parking_meter 15:bench 16:bird 17:cat 18:dog 19:horse 20:sheep
21:cow 22:elephant 23:bear 24:zebra 25:giraffe 27:backpack 28:umbrella 31:handbag 32:tie
33:suitcase 34:frisbee 35:skis 36:snowboard 37:sports_ball 38:kite 39:baseball_bat
40:baseball_glove 41:skateboard 42:surfboard 43:tennis_racket 44:bottle 46:wine_glass 47:cup
48:fork 49:knife 50:spoon 51:bowl 52:banana 53:apple 54:sandwich 55:orange 56:broccoli 57:carrot
58:hot_dog 59:pizza 60:donut 61:cake 62:chair 63:couch 64:potted_plant 65:bed 67:dining_table
70:toilet 72:tv 73:laptop 74:mouse 75:remote 76:keyboard 77:cell_phone 78:microwave 79:oven
80:toaster 81:sink 82:refrigerator 84:book 85:clock 86:vase 87:scissors 88:teddy_bear
89:hair_drier 90:toothbrush
"""


def coco_classes() -> ClassMap:
    """COCO's 80 classes with their 1-90 category ids."""
    pairs = [entry.split(":") for entry in _COCO.split()]
    return ClassMap(
        tuple(name.replace("_", " ") for _, name in pairs), tuple(int(i) for i, _ in pairs)
    )


def known_class_map(count: int) -> ClassMap | None:
    """The public class list of that length: 80 is COCO; None where there is none."""
    return coco_classes() if count == 80 else None
