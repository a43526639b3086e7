"""Write an int8 TFLite model as a self-contained C99 module: features, network and detector.

The module computes the same as the PC: features within rounding, scores bit for bit. It uses no heap and no
library except libm. Vectors to check it on the board are part of it.
"""

from kws.base.errors import run
from kws.base.flags import new_parser
from kws.board.c_folder import SAMPLE_DATA, write_c_folder
from kws.board.library import PREFIX


def parse_arguments():
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("tflite_path", metavar="MODEL", help="an int8 TFLite file, with its settings inside")
    # asked only about what the first detects, so it may be many times as large
    second = "a second int8 TFLite file for the same words, whose scores must agree"
    add("--verifier", metavar="MODEL", help=second)
    add("--output", required=True, metavar="DIR", help="folder to write the module to")
    # what the PC computes from these is written too, to compare on the board
    clips = "recordings for the vectors, one folder for each word"
    add("--data_dir", default=str(SAMPLE_DATA), metavar="DIR", help=clips)
    # pays after optimisations.py --method clustering
    few = "store at most 8, 16 or 32 distinct weights of fully connected layers in 3, 4 or 5 bits"
    add("--packed", action="store_true", help=few)
    # without it such processors compute floating-point numbers in many instructions
    integers = "compute features in integers, for processors without a floating-point unit (M0 to M3)"
    add("--fixed_point", action="store_true", help=integers)
    # two models in one program
    names = "begin all names in C with NAME_, so that several modules link into one program"
    add("--prefix", default=PREFIX, metavar="NAME", help=names)
    return parser.parse_args()


def main():
    args = parse_arguments()
    options = args.data_dir, args.packed, args.verifier, args.prefix, args.fixed_point
    write_c_folder(args.tflite_path, args.output, *options)


if __name__ == "__main__":
    run(main)
