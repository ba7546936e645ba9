"""What the paper published on VOC 2007, beside which our own numbers are set (tables 9, 10)."""

ROWS = ("pool5", "fc6", "ftfc6", "ftfc7", "ftfc7 bb")
COLUMNS = ("1 scale", "5 scales", "R-CNN")

# mAP in percent, ZF-5; R-CNN with AlexNet, whose conv layers are as many.
MEAN_AP = {
    "pool5": (43.0, 44.9, 44.2),
    "fc6": (42.5, 44.8, 46.2),
    "ftfc6": (52.3, 53.7, 53.1),
    "ftfc7": (54.5, 55.2, 54.2),
    "ftfc7 bb": (58.0, 59.2, 58.5),
}

# Seconds a photograph on a GPU, without proposals; ZF-5 on both sides.
SECONDS = {
    "conv": (0.053, 0.293, 14.37),
    "fc": (0.089, 0.089, 0.089),
    "total": (0.142, 0.382, 14.46),
    "speed-up": (102.0, 38.0, 1.0),
}
