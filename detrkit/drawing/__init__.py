"""Pictures of what a detector found and of what it should find."""

from detrkit.drawing.boxes import draw_boxes, draw_detections, draw_targets, to_picture
from detrkit.drawing.grid import grid
from detrkit.drawing.viewable import viewable

__all__ = ["draw_boxes", "draw_detections", "draw_targets", "grid", "to_picture", "viewable"]
