"""The folder of a training run: the history in it."""

import numpy as np
import pytest

from kws import run_folder
from kws.cli import UserError

pytestmark = pytest.mark.fast


def test_the_history_keeps_no_steps_that_were_taken_in_vain(tmp_path):
    for step in (10, 20, 30, 20):
        run_folder.write_history(tmp_path, (step, 0.1, 2.5, 0.5, step / 100))
    np.testing.assert_allclose(run_folder.read_history(tmp_path)[:, [0, 4]], [[10, 0.1], [20, 0.2]])
    (tmp_path / run_folder.HISTORY_NAME).write_text("step\nhello\n")
    with pytest.raises(UserError, match="is damaged"):
        run_folder.read_history(tmp_path)
