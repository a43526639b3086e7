"""Write an int8 TFLite model as a self-contained C99 module: features, network and detector.

The module computes the same as the PC: features within rounding, scores bit for bit. It uses no heap and no
library except libm. Vectors to check it on the board are part of it.
"""

from kws.base.errors import run
from kws.base.flags import new_parser
from kws.board.c_folder import SAMPLE_DATA, write_c_folder


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument("tflite_path", metavar="MODEL", help="an int8 TFLite file, with its settings inside")
    parser.add_argument(
        "--verifier",
        metavar="MODEL",
        help="a second int8 TFLite file for the same words; words that the first detects are reported if the "
        "second one's scores agree",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write the module to")
    parser.add_argument(
        "--data_dir",
        default=str(SAMPLE_DATA),
        metavar="DIR",
        help="recordings for the vectors, one folder for each word",
    )
    parser.add_argument(
        "--packed",
        action="store_true",
        help="fully connected layers with at most 8, 16 or 32 distinct weights store them in 3, 4 or 5 bits",
    )
    return parser.parse_args()


def main():
    args = parse_arguments()
    write_c_folder(args.tflite_path, args.output, args.data_dir, args.packed, args.verifier)


if __name__ == "__main__":
    run(main)
