"""Count the words of each installed synthesiser that a model of real speech understands.

    python benchmarks/synthesisers.py MODEL N

MODEL is a checkpoint or TFLite file. Each synthesiser says each of its words N times, drawn as in
synthesize.py. CPU seconds count only processes of synthesisers (hibari and piper have none).
"""

import resource
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import models
from kws.base.features import mfcc
from kws.synth.corpus import Draw, SynthesisOptions, spoken
from kws.synth.engines import centred, installed_voices


def main(path, count):
    model, options = models.load(path), SynthesisOptions()
    print("voices  CPU s each  understood of N")
    for name, voices in installed_voices((), options.language).items():
        draw, before = Draw({name: voices}, options), cpu_seconds()
        jobs = [job for word in model.settings.wanted_words for job in draw.jobs(word, word, int(count))]
        said = [(job.utterance.text, samples) for job, samples in spoken(jobs) if samples is not None]
        seconds = (cpu_seconds() - before) / len(jobs)
        right = understood(model, said).mean()
        print(f"{len(voices):6}  {seconds:10.3f}  {100 * right:8.1f} % of {len(said)}  {name}", flush=True)


def understood(model, said):
    """Return whether the model recognises the word of each (word, samples), bool [recordings]."""
    front_end, labels = model.settings.front_end, model.settings.labels
    clips = np.stack([middle(samples, front_end.clip_samples) for _, samples in said])
    predicted = np.asarray(model.predict(mfcc(clips, front_end))).argmax(1)
    return np.array([labels[label] == word for label, (word, _) in zip(predicted, said, strict=True)])


def middle(samples, length):
    """Return `length` samples around the middle of a word."""
    samples = centred(samples, length)
    start = (len(samples) - length) // 2
    return samples[start : start + length]


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main(*sys.argv[1:])
