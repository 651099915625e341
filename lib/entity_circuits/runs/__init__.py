"""Record a run of a model; run it again under edits, literally (`run`, `rerun`) or from the recording (`replay`)."""

from .definition import rerun as rerun
from .definition import run as run
from .edits import Edit as Edit
from .edits import Outcome as Outcome
from .edits import Read as Read
from .recording import Recording as Recording
from .recording import record as record
