from . import nnx as nnx
from .layers import ACTIVATIONS as ACTIVATIONS
from .layers import MLP as MLP
from .weights import from_numpy as from_numpy
from .weights import to_numpy as to_numpy
