"""The tables of the two-stream paper, made again.

    recipes       what each row takes: networks, what they learn from, fusion
    needs         what the pipeline file has to give for that, and what it cannot change
    laboratory    makes that, and finds what has been made
    table         the rows, each with what came of it or the reason why not
    printing      the table beside the paper's

K. Simonyan and A. Zisserman, "Two-Stream Convolutional Networks for Action Recognition in Videos", NIPS 2014.
"""

from flowprep.train.experiment.laboratory import Laboratory
from flowprep.train.experiment.printing import json_of, text_of
from flowprep.train.experiment.table import Line, kept, lines_of, made

__all__ = ["Laboratory", "Line", "json_of", "kept", "lines_of", "made", "text_of"]
