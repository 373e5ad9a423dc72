"""Pictures of flow, for eyes: colour-wheel images, panels of one field, contact sheets. All are (H, W, 3) uint8 RGB."""

from flowprep.show.colour import flow_to_rgb, legend
from flowprep.show.panel import field_panel
from flowprep.show.sheet import contact_sheet, save_png

__all__ = ["contact_sheet", "field_panel", "flow_to_rgb", "legend", "save_png"]
