"""Weights of few distinct values, as indices of a few bits into a table of them: smaller in a program memory.

c/kws_packed.h reads this layout. Rows come in fours, so that an input is read once for all of them. Of a
row, weight i and weight i + half, half = ceil(inputs / 2), make a pair, whose indices lie beside each other,
the first in the lower bits: a table of all pairs gives SMLAD its operand at once, and 16 pairs in a row are
the lanes of a vector. The pairs of four rows at i, the first row's lowest, are 24, 32 or 40 bits: a word of
16 bits, with indices of 3, or of 32, and above it a byte in an array of its own, so that words are aligned.
Words and bytes are [outputs / 4][half], half made even with words of 16 bits, so that rows begin at
multiples of 32.
"""

import numpy as np

from kws.base.errors import UserError
from kws.board.layers import Layer, Network, PackedKernel

ROWS = 4  # of c/kws_nn.c
LANES = 16  # of Helium
WORDS = {3: np.uint16, 4: np.uint32, 5: np.uint32}  # by bits of an index
MOST_VALUES = 2 ** max(WORDS)


def pack(weights: np.ndarray) -> PackedKernel | None:
    """The kernel int8 [outputs, inputs] as indices; None where it has too many distinct values."""
    distinct, indices = np.unique(weights, return_inverse=True)
    bits = next((bits for bits in WORDS if len(distinct) <= 2**bits), None)
    if bits is None:
        return None
    outputs, inputs = weights.shape
    half = -(-inputs // 2)
    # beyond the end any index will do: its input counts as 0, or its output is not used
    padded = np.pad(indices.reshape(weights.shape), [(0, -outputs % ROWS), (0, 2 * half - inputs)])
    pairs = (padded[:, :half] | padded[:, half:] << bits).reshape(-1, ROWS, half)
    fours = np.bitwise_or.reduce(pairs << (2 * bits * np.arange(ROWS))[:, None], axis=1)
    fours = np.pad(fours, [(0, 0), (0, half % 2 if bits == 3 else 0)]).ravel()
    fours = np.pad(fours, (0, -half % LANES))  # vectors are read as a whole
    words = fours.astype(WORDS[bits])
    tops = (fours >> 8 * words.itemsize).astype(np.uint8) if bits != 4 else np.zeros(0, np.uint8)
    values = np.pad(distinct, (0, 2**bits - len(distinct)))
    return PackedKernel(bits, values, words, tops)


def packed(network: Network, path) -> Network:
    """The network with the weights of fully connected layers packed where their values are few enough.

    UserError naming `path` where there is no such layer.
    """
    layers = [
        layer._replace(packed=pack(layer.weights)) if layer.kind == "FULLY_CONNECTED" else layer
        for layer in network.layers
    ]
    if not any(layer.packed for layer in layers):
        raise UserError(
            f"{path} has no fully connected layer with at most {MOST_VALUES} distinct weights: nothing can "
            "be packed; cluster them with optimisations.py --method clustering"
        )
    return network._replace(layers=layers)


def text(layers: list[Layer]) -> str:
    """A line for each layer that could be packed."""
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
    """For kws_model.h: PACKED is the most bits of an index or 0, PAIRS the most pairs of inputs."""
    bits = {layer.packed.bits for layer in layers if layer.packed}
    inputs = [layer.weights.shape[1] for layer in layers if layer.packed]
    return {
        "PACKED": max(bits, default=0),
        **{f"INDICES_{count}": int(count in bits) for count in WORDS},
        "PAIRS": (max(inputs, default=0) + 1) // 2,
        "UNPACKED": int(not all(layer.packed for layer in layers)),
    }


def arrays(kernel: PackedKernel) -> list[tuple[str, np.ndarray]]:
    """Declarations without number, and values."""
    found = [(f"KWS_ALIGNED {kernel.words.dtype}_t words", kernel.words), ("int8_t values", kernel.values)]
    return found if kernel.bits == 4 else [*found, ("uint8_t tops", kernel.tops)]


def structure(kernel: PackedKernel, number) -> str:
    tops = "0" if kernel.bits == 4 else f"tops_{number}"
    fields = f"{kernel.bits}, words_{number}, {tops}, values_{number}"
    return f"static const kws_packed packed_{number} = {{{fields}}};\n"


def memory(layers: list[Layer]) -> int:
    """Bytes of tables of pairs of values and of inputs, for the DSP extension; other processors need less."""
    needed = sizes(layers)
    return 4 * (4 ** needed["PACKED"] + needed["PAIRS"]) if needed["PACKED"] else 0
