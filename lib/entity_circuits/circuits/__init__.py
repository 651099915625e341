"""Circuits as data: kept with what they were found by, compared with each other, judged by the paper's criteria."""

from .compare import compare as compare
from .compare import impact as impact
from .compare import report as report
from .files import Finding as Finding
from .files import finding as finding
from .files import folder as folder
from .files import load as load
from .files import names as names
from .files import of as of
from .files import readable as readable
from .files import save as save
