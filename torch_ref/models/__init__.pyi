from .layers import ACTIVATIONS as ACTIVATIONS, MLP as MLP, Embedding as Embedding, InputGate as InputGate
from .weights import from_numpy as from_numpy, to_numpy as to_numpy
