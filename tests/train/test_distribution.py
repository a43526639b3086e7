"""Training on several devices or in several processes gives what one gives."""

import json
import os
import socket
import subprocess

import numpy as np
import pytest

from conftest import ROOT, assert_one_clear_line, python, train_here, training_command, weights


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for number in sockets:
        number.bind(("127.0.0.1", 0))
    ports = [number.getsockname()[1] for number in sockets]
    for number in sockets:
        number.close()
    return ports


def train_with_workers(folder, *flags, workers=2):
    """Run train.py in several processes on this machine; return what each printed."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    running = []
    for number in range(workers):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}}
        script, *arguments = map(str, training_command(folder, "--distribute", "multi_worker", *flags))
        running.append(
            subprocess.Popen(
                [python(), str(ROOT / script), *arguments],
                env=os.environ | {"TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    results = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0] * workers, results
    return [output for output, _ in results]


def test_two_workers_get_what_one_gets_with_the_same_global_batch_and_resume(tmp_path):
    steps = ("--how_many_training_steps", "10,10")  # rounding has not grown yet
    outputs = train_with_workers(tmp_path / "two", *steps)
    train_here(tmp_path / "one", *steps)
    for ours, alone in zip(weights(tmp_path / "two/best"), weights(tmp_path / "one/best"), strict=True):
        np.testing.assert_allclose(ours, alone, atol=1e-4)
    assert "best checkpoint" in outputs[0] and "step 20 of 20" in outputs[0]
    assert "worker 1 of 2 is done" in outputs[1] and "step" not in outputs[1]
    outputs = train_with_workers(tmp_path / "two", "--how_many_training_steps", "10,20")
    assert all("resuming after step 20 of 30" in output for output in outputs)
    assert "it continues with 10,20" in outputs[0] and "continues" not in outputs[1]


def test_mirrored_on_one_device_gets_what_none_gets(tmp_path, trained):
    train_here(tmp_path, "--distribute", "mirrored")
    for ours, alone in zip(weights(tmp_path / "saved_model"), weights(trained / "saved_model"), strict=True):
        np.testing.assert_allclose(ours, alone, atol=2e-4)


def test_batch_norm_on_several_workers_is_an_error(tmp_path):
    with pytest.raises(AssertionError, match="batch normalisation works with --distribute none or mirrored"):
        train_with_workers(tmp_path, "--batch_norm")


def test_the_flags_of_the_recipe_work_mirrored(tmp_path, trained):
    flags = (
        "--batch_norm",
        "--learning_rate_schedule",
        "cosine",
        "--echo_factor",
        "2",
        "--optimizer",
        "muon",
    )
    output = train_here(tmp_path, "--distribute", "mirrored", "--teacher", trained / "best", *flags).stdout
    assert "step 80 of 80" in output


def test_workers_without_an_address_are_an_error(tmp_path):
    result = train_here(tmp_path, "--distribute", "multi_worker", check=False)
    assert_one_clear_line(result, "TF_CONFIG")
