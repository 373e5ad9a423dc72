"""Pictures of flow and stacks, for eyes: all are (H, W, 3) uint8 RGB.

colour          the colour wheel
panel           one field; stack_panel: one stack, with the lines of trajectories
sheet           many pictures on one page, and a page as a file
video           what ``flowprep show`` draws of one video: fields, stacks, by the choice of its options
drawing         paper, ink and type
"""

from flowprep.show.colour import flow_to_rgb, legend
from flowprep.show.panel import field_panel
from flowprep.show.sheet import contact_sheet, save_png

__all__ = ["contact_sheet", "field_panel", "flow_to_rgb", "legend", "save_png"]
