"""The settings that a model's numbers depend on.

A `Settings` travels with every model: beside a checkpoint, inside a SavedModel, a .keras file and a TFLite
file. So a script needs no flag to evaluate or convert a model, and a flag that contradicts the model is an
error.
"""

import argparse
import dataclasses
import json
import math
from dataclasses import dataclass, field

from kws.base.errors import UserError
from kws.base.features import MEL_CHANNELS, MEL_UPPER_HZ, FrontEnd
from kws.base.text import composed, show

SILENCE_LABEL = "_silence_"
UNKNOWN_LABEL = "_unknown_"
SILENCE_INDEX, UNKNOWN_INDEX = 0, 1  # in Settings.labels
NO_WORD = -1  # label of a training clip without the words, silence or unknown
DATA_FIELDS = ("wanted_words", "validation_percentage", "testing_percentage")  # the others are the network's


@dataclass(frozen=True)
class Sensitivity:
    """A detector's threshold, and what it was measured to give."""

    threshold: float  # lowest smoothed score of a detection
    false_alarms_per_hour: float
    miss_rate: float  # 0 to 1

    @staticmethod
    def from_values(values: dict) -> "Sensitivity":
        """Return the sensitivity in parsed JSON; ValueError or TypeError if it is damaged."""
        values = dict(values)
        if "thresholds" in values:
            # Earlier files hold one for each word, all equal. Of different ones the largest gives no word
            # more false alarms than its own.
            values["threshold"] = max(values.pop("thresholds"))
        one = Sensitivity(**values)
        if not 0 <= one.threshold <= 1.001:
            raise ValueError(f"a threshold from 0 to 1 is needed, not {one.threshold}")
        return one


@dataclass(frozen=True)
class DetectorSettings:
    """How a model's scores become detections (kws/detect/streaming.py), as chosen for it."""

    hop_ms: float
    smoothing_ms: float
    refractory_ms: float
    low: Sensitivity
    normal: Sensitivity
    high: Sensitivity
    # In a verifier's settings: the smoothed score of a first stage at which the verifier is asked. The
    # thresholds are then for the two models together.
    gate: float | None = None

    @staticmethod
    def from_values(values: dict) -> "DetectorSettings":
        """Return the detector in parsed JSON; ValueError, KeyError or TypeError if it is damaged."""
        times = [float(values[name]) for name in ("hop_ms", "smoothing_ms", "refractory_ms")]
        if not all(0 <= time < math.inf for time in times) or times[0] == 0:
            raise ValueError(f"the detector's times are {times}")
        gate = values.get("gate")
        if gate is not None and not 0 <= gate <= 1:
            raise ValueError(f"the gate of a verifier is {gate}, not from 0 to 1")
        sensitivities = (Sensitivity.from_values(values[name]) for name in SENSITIVITIES)
        return DetectorSettings(*times, *sensitivities, gate)


SENSITIVITIES = "low", "normal", "high"


@dataclass(frozen=True)
class Settings:
    """The definition of a model from audio to labels; the defaults are the flags' defaults.

    Raises UserError if the values do not fit each other.
    """

    sample_rate: int = 16000
    clip_duration_ms: int = 1000
    window_size_ms: float = 30
    window_stride_ms: float = 10
    dct_coefficient_count: int = 40
    wanted_words: tuple[str, ...] = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
    validation_percentage: float = 10
    testing_percentage: float = 10
    model_architecture: str = "dnn"
    model_size_info: tuple[int, ...] = (128, 128, 128)
    detector: DetectorSettings | None = None  # no flag: chosen by evaluation.py

    def __post_init__(self):
        # the same word however its accents were typed or stored; the dataclass is frozen
        object.__setattr__(self, "wanted_words", tuple(map(composed, self.wanted_words)))
        self._check_features()
        self._check_words()
        self._check_percentages()

    def _check_features(self):
        window, stride = show(self.window_size_ms), show(self.window_stride_ms)
        sizes = f"--window_size_ms {window} and --window_stride_ms {stride}"
        _require(math.isfinite(self.window_size_ms + self.window_stride_ms), f"{sizes} must be finite")
        # sampling theorem
        least = 2 * MEL_UPPER_HZ
        needed = f"at least {least:.0f} Hz are needed, since the mel filters reach {MEL_UPPER_HZ:.0f} Hz"
        _require(self.sample_rate >= least, f"--sample_rate {self.sample_rate}: {needed}")
        front_end = self.front_end
        shortest = min(front_end.window_samples, front_end.stride_samples)
        _require(shortest >= 1, f"{sizes} must be at least one sample long")
        too_long = f"--window_size_ms {window} does not fit into --clip_duration_ms {self.clip_duration_ms}"
        _require(front_end.window_samples <= front_end.clip_samples, too_long)
        count = self.dct_coefficient_count
        possible = f"1 to {MEL_CHANNELS} are possible, and 0 for log-mel energies"
        _require(0 <= count <= MEL_CHANNELS, f"--dct_coefficient_count {count}: {possible}")

    def _check_words(self):
        words = self.wanted_words
        _require(words and all(words), f"--wanted_words {show(words)} holds an empty word")
        _require(len(set(words)) == len(words), f"--wanted_words names a word twice: {show(words)}")
        # a word is the name of a folder of recordings
        are_names = not any(word[0] in "_." or "/" in word for word in words)
        _require(are_names, f"--wanted_words {show(words)}: words must not begin with _ or . or hold a /")

    def _check_percentages(self):
        validation, testing = self.validation_percentage, self.testing_percentage
        both = f"--validation_percentage {show(validation)} and --testing_percentage {show(testing)}"
        some_are_left = min(validation, testing) >= 0 and validation + testing <= 100
        _require(some_are_left, f"{both} must not be negative and leave something to train on")

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the label of each class score, in order."""
        return (SILENCE_LABEL, UNKNOWN_LABEL, *self.wanted_words)

    @property
    def front_end(self) -> FrontEnd:
        """Return the settings that the features of a clip depend on."""
        return FrontEnd(
            sample_rate=self.sample_rate,
            clip_samples=self.sample_rate * self.clip_duration_ms // 1000,
            # rounded down, as the original package does
            window_samples=int(self.sample_rate * self.window_size_ms / 1000),
            stride_samples=int(self.sample_rate * self.window_stride_ms / 1000),
            dct_coefficient_count=self.dct_coefficient_count,
        )

    @property
    def clip_samples(self) -> int:
        return self.front_end.clip_samples

    @property
    def frame_count(self) -> int:
        return self.front_end.frame_count

    @property
    def feature_count(self) -> int:
        """Return the length of the model's input, frame_count * frame_features, frame by frame."""
        return self.front_end.feature_count

    def to_json(self) -> str:
        values = dataclasses.asdict(self)
        # as files have it that are older than detectors
        if self.detector is None:
            del values["detector"]
        return json.dumps(values, separators=(",", ":"))

    @staticmethod
    def from_json(text: str | bytes, source: str) -> "Settings":
        """Return the settings in `text`; a UserError names `source` if they are damaged."""
        try:
            values = json.loads(text)
            if not isinstance(values, dict) or values.keys() - {"detector"} != FIELDS.keys():
                raise ValueError(f"expected an object with the keys {', '.join(FIELDS)}")
            detector = values.pop("detector", None)
            detector = None if detector is None else DetectorSettings.from_values(detector)
            parsed = {name: _parsed(name, value) for name, value in values.items()}
            return Settings(**parsed, detector=detector)
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError, UserError) as error:
            raise UserError(f"{source}: the settings in it are damaged: {error}") from None


# the fields that flags set
FIELDS = {field.name: field for field in dataclasses.fields(Settings) if field.name != "detector"}


def _require(condition, problem):
    if not condition:
        raise UserError(problem)


def _parsed(name, value):
    """Return `value`, read from JSON, in the type of the field `name`; ValueError if it does not fit."""
    default = FIELDS[name].default
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)  # bool is an int in Python
    # JSON has lists for tuples
    if isinstance(default, tuple):
        if isinstance(value, list) and all(type(item) is type(default[0]) for item in value):
            return tuple(value)
    elif isinstance(default, str):
        if isinstance(value, str):
            return value
    elif is_number and (FIELDS[name].type is float or isinstance(value, int)) and abs(value) < 1e9:
        return value
    raise ValueError(f"{name} is {value!r}")


# ---- settings from flags ----


def add_setting(group, name: str, help: str, **options):
    """Add the flag for the field `name` of Settings; the namespace holds it only if the user typed it.

    So a flag that the user left out cannot contradict what a model carries.
    """
    default = show(FIELDS[name].default)
    group.add_argument(f"--{name}", default=argparse.SUPPRESS, help=f"{help} (default: {default})", **options)


@dataclass(frozen=True)
class SettingsFlags:
    """The settings that the user typed: flag by flag, and by --model, which stands for five flags."""

    typed: dict = field(default_factory=dict)
    preset: dict = field(default_factory=dict)

    @staticmethod
    def from_arguments(namespace: argparse.Namespace) -> "SettingsFlags":
        typed = {name: value for name, value in vars(namespace).items() if name in FIELDS}
        return SettingsFlags(typed, getattr(namespace, "model", None) or {})

    def resolve(self, stored: Settings | None = None, source: str = "") -> Settings:
        """Return the settings to use: `stored`, from the model `source`, or if None the flags' settings.

        A flag that contradicts the stored value raises a UserError that names both.
        """
        for name in self.typed.keys() & self.preset.keys():
            typed, preset = self.typed[name], self.preset[name]
            if typed != preset:
                raise UserError(f"--{name} {show(typed)} contradicts {show(preset)}, part of --model")
        values = self.typed | self.preset
        # nothing stored: what no flag says has its default
        if stored is None:
            return Settings(**values)
        for name, value in values.items():
            kept = getattr(stored, name)
            if value != kept:
                flag = f"--model with its {name}" if name in self.preset else f"--{name}"
                contradiction = f"{flag} {show(value)} contradicts {show(kept)}, stored in {source}"
                raise UserError(f"{contradiction}; leave the flag out, the model carries its settings")
        return stored


def settings_to_use(stored: Settings | None, flags: SettingsFlags | None, path) -> Settings:
    """Return the settings of the model `path`: those `stored` in it, or if there are none the flags'.

    Raises UserError if a flag contradicts a stored value, or there are neither stored settings nor flags.
    """
    if flags is not None:
        return flags.resolve(stored, str(path))
    if stored is None:
        raise UserError(f"{path} carries no settings, so how to compute its features is unknown")
    return stored
