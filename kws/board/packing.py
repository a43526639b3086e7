"""Store weights of few distinct values as indices of 3 to 5 bits into a table of the values.

c/kws_packed.h reads this layout, with half = ceil(inputs / 2):

- Weights i and i + half of a row make a pair. Their indices lie beside each other, the first in the lower
  bits. So a table of all pairs gives SMLAD its operand at once, and 16 pairs are the lanes of a vector.
- The pairs i of four rows make a group of 24, 32 or 40 bits, the first row's pair lowest. So each input is
  read once for four rows.
- The lower bits of a group are a word: of 16 bits if indices have 3 bits, else of 32. The other 8 bits are
  in an array of bytes, so that words stay aligned; indices of 4 bits need none.
- Words and bytes are [outputs / 4][half]. With words of 16 bits half is made even, so that rows begin at
  multiples of 32 bits.
"""

import numpy as np

from kws.base.errors import UserError
from kws.board.layers import LANES, Layer, Network, PackedKernel

ROWS = 4  # as in c/kws_nn.c
WORDS = {3: np.uint16, 4: np.uint32, 5: np.uint32}  # by bits of an index
MOST_VALUES = 2 ** max(WORDS)


def pack(weights: np.ndarray) -> PackedKernel | None:
    """Return weights int8 [outputs, inputs] as indices, or None if they have too many distinct values."""
    distinct, indices = np.unique(weights, return_inverse=True)
    bits = next((bits for bits in WORDS if len(distinct) <= 2**bits), None)
    if bits is None:
        return None
    outputs, inputs = weights.shape
    half = -(-inputs // 2)
    # beyond the end any index will do: its input counts as 0, or its output is not used
    padded = np.pad(indices.reshape(weights.shape), [(0, -outputs % ROWS), (0, 2 * half - inputs)])
    # [outputs / 4, ROWS, half]
    pairs = (padded[:, :half] | padded[:, half:] << bits).reshape(-1, ROWS, half)
    # [outputs / 4, half], then flat; vectors are read whole, so the last one is filled up
    groups = np.bitwise_or.reduce(pairs << (2 * bits * np.arange(ROWS))[:, None], axis=1)
    groups = np.pad(groups, [(0, 0), (0, half % 2 if bits == 3 else 0)]).ravel()
    groups = np.pad(groups, (0, -half % LANES))
    words = groups.astype(WORDS[bits])
    tops = (groups >> 8 * words.itemsize).astype(np.uint8) if bits != 4 else np.zeros(0, np.uint8)
    values = np.pad(distinct, (0, 2**bits - len(distinct)))
    return PackedKernel(bits, values, words, tops)


def packed(network: Network, path) -> Network:
    """Return the network with the weights of fully connected layers packed if few of them differ.

    UserError naming `path` if no layer can be packed.
    """
    layers = [
        layer._replace(packed=pack(layer.weights)) if layer.kind == "FULLY_CONNECTED" else layer
        for layer in network.layers
    ]
    if not any(layer.packed for layer in layers):
        few = f"at most {MOST_VALUES} distinct weights: nothing can be packed"
        fix = "cluster them with optimisations.py --method clustering"
        raise UserError(f"{path} has no fully connected layer with {few}; {fix}")
    return network._replace(layers=layers)


def text(layers: list[Layer]) -> str:
    """Return a line for each fully connected layer: whether it was packed."""
    lines = []
    for number, layer in enumerate(layers):
        count = f"layer {number}: {len(np.unique(layer.weights))} distinct weights"
        if layer.packed:
            lines.append(f"{count}, packed: {layer.packed.bits} bits each")
        elif layer.kind == "FULLY_CONNECTED":
            lines.append(f"{count}, too many to pack (at most {MOST_VALUES}): a byte each")
    return "\n".join(lines)


# ---- for C ----


def sizes(layers: list[Layer]) -> dict[str, int]:
    """Return the sizes for kws_model.h, over all layers.

    PACKED is the most bits that an index has, 0 without packed layers. PAIRS is the most pairs of inputs.
    """
    # flags for the preprocessor: only the functions of bits that occur are compiled
    bits = {layer.packed.bits for layer in layers if layer.packed}
    inputs = [layer.weights.shape[1] for layer in layers if layer.packed]
    return {
        "PACKED": max(bits, default=0),
        **{f"INDICES_{count}": int(count in bits) for count in WORDS},
        "PAIRS": (max(inputs, default=0) + 1) // 2,
        "UNPACKED": int(not all(layer.packed for layer in layers)),
    }


def arrays(kernel: PackedKernel) -> list[tuple[str, np.ndarray]]:
    """Return the arrays of a kernel: the begin of each declaration, and the values."""
    found = [(f"KWS_ALIGNED {kernel.words.dtype}_t words", kernel.words), ("int8_t values", kernel.values)]
    return found if kernel.bits == 4 else [*found, ("uint8_t tops", kernel.tops)]


def structure(kernel: PackedKernel, number: str) -> str:
    """Return the kws_packed of layer `number`, in C."""
    tops = "0" if kernel.bits == 4 else f"tops_{number}"
    fields = f"{kernel.bits}, words_{number}, {tops}, values_{number}"
    return f"static const kws_packed packed_{number} = {{{fields}}};\n"


def memory(layers: list[Layer]) -> int:
    """Return the bytes of working memory with the DSP extension; other processors need less.

    They hold inputs of 16 bits, a table of all pairs of values, and the pairs of inputs.
    """
    needed = sizes(layers)
    tables = 4 ** needed["PACKED"] + needed["PAIRS"] if needed["PACKED"] else 0
    return 4 * (tables + max(layer.wide_words for layer in layers))
