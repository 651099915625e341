"""A model by name: fetched, verified, checked and ready for experiments."""

from .loading import fetch as fetch
from .loading import load as load
from .loading import load_pair as load_pair
from .registry import Entry as Entry
from .registry import describe as describe
from .registry import pairs as pairs
from .registry import registry as registry
from .subject import ModelCheckError as ModelCheckError
from .subject import Subject as Subject
from .subject import check as check
from .subject import wrap as wrap
from .weights import FetchError as FetchError
from .weights import Source as Source
from .weights import Wheel as Wheel
