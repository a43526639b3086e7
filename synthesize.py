"""Make recordings of your own words by speech synthesis, of parts of them, and of running text.

Every synthesiser that is installed is used. Natural voices make half of the recordings, as far fewer words of
people are missed with them. pip install -r requirements-own-words.txt gets two that speak English. MBROLA's
voices, and some of RHVoice's, are licensed for non-commercial use alone.

train.py takes the folder as it is. The same command makes what is missing; with more words or larger numbers
it makes what is new.
"""

import shlex
import sys
from pathlib import Path

from kws.audio.folders import FLAGS_FILE, NEGATIVES_FOLDER
from kws.base.errors import UserError, run
from kws.base.files import lock, write_text
from kws.base.flags import StoreTuple, bounded, flag_adder, new_parser, options_from
from kws.synth import confusables, corpus
from kws.synth.corpus import PROBES, SAMPLE_RATE, SHORTEST_CLIP_MS, Draw, SynthesisOptions
from kws.synth.engines import ENGINES, EXTRA, installed_voices

# voices to download for piper; python -m piper.download_voices lists all
NATURAL_VOICES = {
    "de": "de_DE-thorsten-medium",
    "es": "es_ES-davefx-medium",
    "fr": "fr_FR-siwis-medium",
}

RECIPE_CLIP_MS = 1560  # of recipes/own_words.txt
RECIPE_END_MS = 300  # of its clips, behind the word


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument("words", nargs="+", metavar="WORD", help="words, or phrases in quotation marks")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the recordings")
    add = flag_adder(parser, SynthesisOptions)
    number = {"type": bounded(int, 0), "metavar": "N"}
    count = "recordings of each word, and at most as many of its parts and of what sounds near"
    add("count", count, type=bounded(int, 1), metavar="N")
    near = "phrases that sound near each word, taught as _unknown_; people are then missed more often"
    add("confusables", near, **number)
    add("sentences", f"recordings of running text, in the folder {NEGATIVES_FOLDER}", **number)
    add("language", "of the voices, as espeak-ng names it: en, en-us, de, ...", metavar="CODE")
    engines = "synthesisers to use; if not given, all that are installed"
    add("engines", engines, nargs="+", action=StoreTuple, choices=tuple(ENGINES))
    piper = "folder of downloaded voices of piper: .onnx files, each with its .json"
    add("piper_voices", piper, metavar="DIR")
    # from 0.1 s to a minute
    clip = "length of the clips that words are centred in; if not given, what they need, and at least 1000"
    add("clip_duration_ms", clip, type=bounded(int, 100, 60000), metavar="MS")
    words = "words for running text and --confusables, one a line; if not given, the system's for the latter"
    add("word_list", words, metavar="FILE")
    add("seed", "decides what is drawn", type=bounded(int, 0, 2**32 - 1), metavar="N")
    return parser.parse_args()


def main():
    args = parse_arguments()
    options, folder = options_from(SynthesisOptions, args), Path(args.output)
    # words of earlier runs stay: what sounds like a new one must not be one of them
    stored = corpus.read_plan(folder)
    words = stored.get("words", {}) | corpus.folders_of(args.words)
    voices = installed_voices(options.engines, options.language, options.piper_voices)
    counts = ", ".join(f"{name} {len(of_engine):,}" for name, of_engine in voices.items())
    # more voices are worth an installation, unless the user chose some
    others = [] if options.engines else [one for name, one in ENGINES.items() if name not in voices]
    absent = [f"{engine.name} ({engine.install})" for engine in others if not engine.is_natural]
    print(f"voices of {options.language}: {counts}" + (f"; none of {', '.join(absent)}" if absent else ""))
    if others and not any(ENGINES[name].is_natural for name in voices):
        print(no_natural_voice(options.language))
    check_words(words, options, voices)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock(folder / ".lock"):
            synthesize(folder, words, options, voices)
    except BlockingIOError:
        raise UserError(f"another run is writing to {folder}: wait for its end") from None


def no_natural_voice(language) -> str:
    """Return the line that tells how to get natural voices of a language."""
    install = EXTRA
    if language.split("-")[0] != "en":
        name = NATURAL_VOICES.get(language.split("-")[0], "VOICE")
        install = f"pip install piper-tts; python -m piper.download_voices {name} --download-dir voices"
        install += "; and --piper_voices voices"
    return f"no natural voice of {language}, without which more words of people are missed: {install}"


def check_words(words, options, voices):
    """Raise UserError if the synthesisers cannot read a word."""
    # espeak-ng reads every script; without it only what flite cannot read is known
    if confusables.can_tell_phonemes():
        confusables.check_readable(words.values(), options.language)
    else:
        odd = [text for text in words.values() if not text.isascii()]
        if odd and not voices.keys() - {"flite"}:
            install = ENGINES["espeak-ng"].install
            raise UserError(f"{odd[0]!r}: flite reads ASCII alone; {install}")


def synthesize(folder, words, options, voices):
    """Make the recordings in `folder`, and tell how to train on them."""
    draw = Draw(voices, options)

    # 1. What is said, beside the words themselves.
    word_list = words_to_search(options)
    near = near_words(words, options, word_list)
    texts = corpus.sentence_texts(options, word_list, words.values())
    if options.sentences and not texts:
        print(f"no running text in --language {options.language}: --word_list FILE gives some")

    # 2. Which recordings: each is drawn by its text and number, so more of them leave the others as they are.
    clip_ms = clip_length(words, draw, options.clip_duration_ms, corpus.read_plan(folder))
    jobs = [job for name, text in words.items() for job in draw.jobs(name, text, options.count)]
    jobs += corpus.unknown_jobs(draw, words, near, options.count)
    jobs += [draw.job(NEGATIVES_FOLDER, text, number, is_clip=False) for number, text in enumerate(texts)]

    # 3. Making those that are missing. The noise is mixed of running text, so it comes last.
    corpus.claim(folder, plan_of(options, voices, clip_ms), words)
    made, silent = corpus.make(folder, jobs, clip_ms)
    corpus.write_noise(folder, options.seed)
    if silent:
        print(f"{silent} recordings are left out: their voices say nothing", file=sys.stderr)

    # 4. What there is now, and how to train on it.
    there = len(jobs) - made - silent
    print(f"{made:,} recordings made" + (f", {there:,} were there" if there else ""))
    tell_how_to_train(folder, words, clip_ms)


def words_to_search(options) -> list[str]:
    """Return the words of --word_list; of the system's list if --confusables needs one; else none."""
    if options.word_list:
        return confusables.read_word_list(options.word_list)
    # without near words the system's list changes nothing: the same recordings on every machine
    if not options.confusables:
        return []
    path = confusables.WORD_LISTS.get(options.language.split("-")[0])
    if path and Path(path).exists():
        return confusables.read_word_list(path)
    install = " (apt-get install wamerican has one of English)" if path else ""
    print(f"no list of words: what sounds near is left out; --word_list FILE gives one{install}")
    return []


def near_words(words, options, word_list) -> dict[str, list[str]]:
    """Return and print what sounds near each word."""
    if not (word_list and options.confusables):
        return {}
    if not confusables.can_tell_phonemes():
        print(f"no phonemes without espeak-ng ({ENGINES['espeak-ng'].install}): what sounds near is left out")
        return {}
    # {phrase: [what sounds near, nearest first]}
    near = confusables.near_phrases([*words.values()], word_list, options.language, options.confusables)
    for text, others in near.items():
        print(f"near {text!r}: {', '.join(others[:8]) or 'nothing'}{', ...' if len(others) > 8 else ''}")
    return near


def clip_length(words, draw, typed, stored) -> int:
    """Return the length in ms of the clips that the words are centred in.

    Print a line for each word that needs more than a second. Recordings of all the words that are there
    already decide the length.
    """
    # {phrase: ms} of words added now: probing takes a synthesiser's time
    new = {name: text for name, text in words.items() if name not in stored.get("words", {})}
    fitting = {text: corpus.fitting_clip_ms(draw.jobs(name, text, PROBES)) for name, text in new.items()}
    clip_ms = typed or max(stored.get("--clip_duration_ms", SHORTEST_CLIP_MS), *fitting.values(), 0)
    for text, needed in fitting.items():
        if needed > SHORTEST_CLIP_MS:
            though = f", though {needed} would fit" if needed > clip_ms else ""
            print(
                f"{text!r} takes up to {needed} ms, longer than a clip of {SHORTEST_CLIP_MS} ms: train with "
                f"--clip_duration_ms {clip_ms}{though}"
            )
    return clip_ms


def plan_of(options, voices, clip_ms) -> dict:
    """Return what recordings depend on beside their text and number."""
    # one more voice of a synthesiser changes which voice is drawn, so their numbers belong to it
    return {
        "--seed": options.seed,
        "--language": options.language,
        "voices": [f"{name} {len(of_engine)}" for name, of_engine in voices.items()],
        "--clip_duration_ms": clip_ms,
        "--word_list": options.word_list,
        "Hz": SAMPLE_RATE,
    }


def tell_how_to_train(folder, labels, clip_ms):
    """Write the flags that train.py takes from this folder, and print its command."""
    flags = f"--wanted_words {shlex.quote(','.join(labels))}\n--clip_duration_ms {clip_ms}\n"
    write_text(folder / FLAGS_FILE, flags)
    # the recipe's clips hold shorter phrases
    needed = clip_ms + RECIPE_END_MS
    longer = f"--clip_duration_ms {needed} " if needed > RECIPE_CLIP_MS else ""
    print(
        f"{folder / FLAGS_FILE}, which train.py reads: {' '.join(flags.split())}\n"
        f"python train.py @recipes/own_words.txt --data_dir {shlex.quote(str(folder))} "
        f"{longer}--train_dir {shlex.quote(str(Path('work', folder.name)))}"
    )


if __name__ == "__main__":
    run(main)
